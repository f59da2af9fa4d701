"""The documentation without Sphinx: tutorials run, pages are listed, README's lines hold."""

from __future__ import annotations

import ast
import importlib
import re
import runpy
from pathlib import Path

import pytest
import torch
from check_site import broken_links, main
from torch import nn

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
TUTORIALS = sorted((DOCS / "tutorials").glob("*.py"))
INDEX = (DOCS / "index.md").read_text(encoding="utf-8")


def toctrees(text: str) -> list[str]:
    """The entries of a page's toctrees."""
    trees = re.findall(r"```\{toctree\}\n(.*?)```", text, re.DOTALL)
    lines = "\n".join(trees).splitlines()
    entries = [line for line in lines if line and not line.startswith(":")]
    return [re.sub(r".*<(.*)>", r"\1", entry) for entry in entries]  # without a title of its own


def imported(tree: ast.AST) -> list[tuple[str, str]]:
    """What is imported from sign_ext: (module, name)."""
    return [
        (node.module, alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "sign_ext"
        for alias in node.names
    ]


def test_there_are_five_tutorials_in_order() -> None:
    assert [path.name[:3] for path in TUTORIALS] == ["01_", "02_", "03_", "04_", "05_"]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for path in TUTORIALS:
        assert f"docs/tutorials/{path.name}" in readme


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_a_tutorial_has_a_title_text_and_public_names_only(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    title, underline, *_ = (ast.get_docstring(tree) or "").splitlines()
    assert underline == "=" * len(title)
    for name, line in re.findall(r"^# (.+)\n# (-+)$", text, re.MULTILINE):
        assert len(line) >= len(name), name
    names = imported(tree)
    assert names
    for module, name in names:
        assert name in importlib.import_module(module).__all__, f"{module}.{name}"


@pytest.mark.filterwarnings("ignore:FigureCanvasAgg is non-interactive")
def test_the_cheapest_tutorial_runs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, one_thread: None
) -> None:
    """The paper with the code: every identity that it states holds."""
    pytest.importorskip("PIL")
    pytest.importorskip("matplotlib")
    monkeypatch.setenv("MPLBACKEND", "agg")
    runpy.run_path(str(TUTORIALS[-1]), run_name="__main__")
    printed = capsys.readouterr().out
    assert printed.count("True") == 3
    assert "False" not in printed
    for said in ("push-forward and finite difference agree to", "they differ by"):
        (found,) = re.findall(rf"{said} (\d\.\de-\d+)", printed)
        assert float(found) < 1e-8


def test_every_page_is_in_a_toctree() -> None:
    listed = toctrees(INDEX) + toctrees((DOCS / "api.md").read_text(encoding="utf-8"))
    pages = {path.relative_to(DOCS).with_suffix("") for path in DOCS.rglob("*.md")}
    pages = {page for page in pages if page.parts[0] not in ("_build", "learn")}
    for page in pages - {Path("index")}:
        assert any(page.match(entry) for entry in listed), f"{page} is in no toctree"
    for entry in set(listed) - {"genindex", "learn/index"}:
        found = any(page.match(entry) for page in pages)
        assert found or "*" in entry, f"docs/index.md lists {entry}, which does not exist"


@pytest.mark.parametrize(
    "word", [".pth", "state_dict", "normalisation", "normalization", "notebook", "memory", "GPU"]
)
def test_what_people_search_for_is_in_the_index(word: str) -> None:
    entries = re.findall(r"```\{index\} (.+)", (DOCS / "faq.md").read_text("utf-8"))
    assert any(word in entry for entry in entries)


def test_the_first_lines_of_the_readme_run_on_a_network(torch_rng: torch.Generator) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(4 * 36, 5),
        nn.Linear(5, 3),
    )
    images = 255 * torch.rand(40, 3, 6, 6, generator=torch_rng)
    names = {"model": model.eval(), "images": images}
    exec(blocks[0], names)
    versions = names["versions"]
    assert set(versions) == {50, 100}
    change = [float((versions[k] - images).square().mean().sqrt()) for k in (50, 100)]
    assert 0 < change[0] < change[1]
    assert 0.3 < change[1] / (0.02 * 255) < 3  # what calibrate aims at


def test_the_short_table_of_speeds_repeats_the_long_ones() -> None:
    """Who measures again corrects the first table of docs/performance.md, too."""
    short, _, rest = (DOCS / "performance.md").read_text("utf-8").partition("## Measure it")
    rows = re.findall(r"^\| (\S.*?) \| 1 \| ([\d.]+) \| \*\*([\d.]+)\*\* \|", short, re.MULTILINE)
    assert len(rows) == 11
    for name, best, ours in rows:
        if "¹" in name:  # a table of its own, with a row for each contender
            assert f"{best}×" in rest, name
            assert f"{ours}×" in rest, name
            continue
        key = {
            "resnet50": "resnet50",
            "resnext50": "resnext50_32x4d",
            "efficientnetb0": "efficientnet_b0",
            "mobilenetv3small": "mobilenetv3_small_100",
            "convnextt": "convnext_tiny",
            "vittiny": "vit_tiny",
            "swint": "swin_tiny",
            "unet": "unet",
            "efficientvitb0": "efficientvit_b0",
        }[re.sub(r"\W", "", name.split(",")[0]).lower()]
        count, side = re.search(r"(\d+) images of (\d+)²", name).groups()
        (row,) = re.findall(rf"^\| {key} \({count}, {side}\) \|(.*)$", rest, re.MULTILINE)
        values = [cell.strip() for cell in row.split("|")]
        assert values[4] == ours, name
        assert best == max((v for v in values[:3] if v != "–"), key=float), name


def test_the_first_pages_repeat_the_verdict_of_the_results() -> None:
    """Who commits other results corrects README and the landing page, too."""
    results = (DOCS / "results" / "README.md").read_text("utf-8")
    rows = re.findall(
        r"^\| SIGN is more accurate than classical augmentation \| 3\.1, Table 1 \| \w+ \| (\S+) "
        r"\| ([−+][\d.]+) points \(([−+][\d.]+) to ([−+][\d.]+)\) \|",
        results,
        re.MULTILINE,
    )
    assert len(rows) == 3  # two networks at the scale small, one at medium
    for page in (ROOT / "README.md", DOCS / "index.md"):
        text = " ".join(page.read_text("utf-8").split())
        for verdict, *numbers in rows:
            assert ("Undecided. At equal epochs" in text) == (verdict == "undecided"), page
            values = [float(number.replace("−", "-")) for number in numbers]
            mean, low, high = (f"{value:+.1f}".replace("-", "−") for value in values)
            assert re.search(rf"{re.escape(mean)} (points )?\(", text), (page, mean)
            assert f"{low} to {high})" in text, (page, low, high)


def test_the_reference_has_the_methods_that_transforms_inherit() -> None:
    page = (DOCS / "api" / "transform.md").read_text("utf-8")
    for name in ("SignTransform", "InputIteration"):
        (block,) = re.findall(rf"autoclass:: sign_ext\.{name}\n((?:   :.*\n)+)", page)
        assert ":inherited-members:" in block
        hidden = re.findall(r":exclude-members: (.*)", block)[0].split(", ")
        assert not {"explain", "program", "reset", "transform"} & set(hidden)
    named = re.findall(r"auto(?:function|class):: sign_ext\.(\w+)", page)
    (rest,) = re.findall(r"automodule:: sign_ext\n(?:   .*\n)*?   :exclude-members: (.*)", page)
    assert sorted(named) == sorted(rest.split(", "))  # each name once


def test_broken_links_are_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "index.html").write_text(
        '<a href="a/b.html#here"></a><a href="#top"></a><p id="top"><a href="https://x.org/y"></a>'
    )
    (tmp_path / "a" / "b.html").write_text('<h1 id="here"></h1><img src="../pic.png">')
    assert broken_links(tmp_path) == ["a/b.html: ../pic.png: there is no such file"]
    (tmp_path / "pic.png").touch()
    assert main([str(tmp_path)]) == 0
    (tmp_path / "a" / "b.html").write_text("nothing")
    assert main([str(tmp_path)]) == 1
    assert "index.html: a/b.html#here: there is no such anchor" in capsys.readouterr().err
    assert main([str(tmp_path / "a")]) == 2
