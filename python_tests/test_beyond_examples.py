"""The Python of docs/beyond.md runs, in order, on a small network."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sign_ext.data import ImageSet, ImageSource

PAGE = Path(__file__).resolve().parents[1] / "docs" / "beyond.md"


def test_the_pages_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # they write stores
    torch.manual_seed(4)
    convolution = nn.Conv2d(3, 6, 3, stride=2)
    model = nn.Sequential(convolution, nn.ReLU(), nn.Flatten(), nn.Linear(54, 3)).eval()
    pixels = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    labels = torch.tensor([0, 1, 2, 1])
    known: dict[str, Any] = {
        "torch": torch,
        "model": model,
        "images": pixels.float(),
        "labels": labels,
        "cats": torch.ones_like(labels),
        "photos": ImageSource.in_memory(ImageSet(pixels, labels, ("ant", "cat", "dog"), "photos")),
    }
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    assert len(blocks) == 5
    for block in blocks:
        exec(block, known)
    for name in ("adversarial", "stronger", "as_cats"):
        moved = (known[name] - pixels).abs()
        assert 1 < moved.max() <= 8.001
    torch.testing.assert_close(known["half"], known["adversarial"][2:])
    assert sorted(known["moved"]) == [10, 20]
    difference = model(pixels.float()) - model(torch.full((1, 3, 8, 8), 127.5))
    total = known["shares"].sum((1, 2, 3))
    torch.testing.assert_close(total, difference[range(4), labels].detach(), rtol=0.05, atol=1.0)
    assert known["heat"].shape == (4, 8, 8)
    assert 1 < (known["stored"] - pixels).abs().max() <= 8.001
