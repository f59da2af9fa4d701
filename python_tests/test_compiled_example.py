"""The example of docs/compiled.md prints what the page says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import sign_ext

PAGE = Path(__file__).resolve().parents[1] / "docs" / "compiled.md"


@pytest.mark.skipif(
    not torch.backends.mkldnn.is_available() or not sign_ext.build_config()["native"],
    reason="the page shows a step by oneDNN and our operators",
)
def test_the_pages_network_is_explained_as_the_page_says(
    capsys: pytest.CaptureFixture[str],
) -> None:
    page = PAGE.read_text(encoding="utf-8")
    (example,) = re.findall(r"^```python\n(import torch\n.*?)^```$", page, re.M | re.S)
    (rows,) = re.findall(r"^```\n(backend .*?)^```$", page, re.M | re.S)
    exec(example, {"__name__": "example"})
    printed = capsys.readouterr().out.splitlines()
    assert len(rows.splitlines()) == 5
    for row in rows.splitlines():
        assert row in printed
