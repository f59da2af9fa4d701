"""Which families of networks compile, have islands or are refused, and whether δ is right.

    python benchmarks/family_sweep.py                       # `make families`: resumes, and sums up
    python benchmarks/family_sweep.py --only swin vit       # some
    python benchmarks/family_sweep.py --summary             # measures nothing
    python benchmarks/family_sweep.py --markdown docs/performance.md

Each family is one process with limits of time and memory, and one line of the file `--out`. A line
counts while the sources that it was measured with are unchanged. The exit status is 0 if every
family was measured, none is wrong, and at most one in twenty falls back whole.

Parity is that of `backend="fused"`: δ of a float64 network with K = 1, and p* of a float32 network
with K = 2, each against `autograd.grad` of the plain network in float64.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import re
import sys
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import family_list
import sweep
import torch
from json_lines import Row
from torch import Tensor, nn

from sign_ext import BackendError, SignTransform
from sign_ext.benchmarking import loops
from sign_ext.benchmarking.task import Task, step_size_for
from sign_ext.compiler.lower import Lowering
from sign_ext.errors import UnsupportedOperation
from sign_ext.files import write_whole
from sign_ext.formatting import counted

sys.path.append(str(Path(__file__).resolve().parent.parent / "tools"))

import bench_table

IMAGES = 2
LIMITS = sweep.Limits(within=float("inf"), seconds=300.0, gigabytes=8.0)
MOVE = 0.01  # rms change of the images, which are in 0–1, in the first step
EXACT = 1e-6  # error of δ in float64
# Error of p* in float32: that of a ReLU whose sign rounding decides, and as often eager's own.
MARGIN, TIMES_ROUNDING = 0.03, 3.0
WITHOUT_FALLBACK = ("compiled", "islands")
FACTS = ("family", "network")
SCRIPTS = ("family_list.py", "family_sweep.py")
# What differs between layers that one rule would take.
SHAPE = re.compile(r" (on|of shape|gives|shapes) \([\d, ]*\)( and \([\d, ]*\))?")


def measure(cell: Row) -> Row:
    """The facts of one family; runs in a process of its own.

    Args:
        cell: "family", of `family_list.FAMILIES`.
    """
    torch.set_num_threads(1)
    member = family_list.FAMILIES[cell["family"]]
    warnings.simplefilter("ignore")
    model = family_list.build(member)
    images = torch.rand(IMAGES, 3, member.pixels, member.pixels)
    return examine(model, images, member.layer)


def examine(model: nn.Module, images: Tensor, layer: str | None = None) -> Row:
    """What becomes of a network, and how far its compiled δ and p* are from float64's.

    Args:
        model: In evaluation mode, float32.
        images: (N, C, H, W), in 0–1.
        layer: As for `SignTransform`.
    """
    row: Row = {"parameters": sum(weight.numel() for weight in model.parameters())}
    began = time.process_time()
    with _reasons() as reasons:
        try:
            explained = SignTransform(model, layer=layer, backend="fused").explain(images)
        except BackendError as error:
            return {**row, "outcome": "refused", "why": _line(error), "reasons": reasons}
    row["processor_seconds"] = time.process_time() - began
    row["reasons"] = reasons
    row["operations"] = list(explained.operations)
    row["islands"] = [
        {"operations": dict(Counter(each.operations)), "module": each.module, "share": each.share}
        for each in explained.islands
    ]
    auto = SignTransform(model, layer=layer).explain(images)
    row |= {"auto": auto.backend, "auto_reason": auto.reason}
    if auto.backend != "fused":
        row |= {"outcome": "mostly islands" if explained.islands else "fallback"}
        row |= {"why": auto.reason}
    else:
        row["outcome"] = "islands" if explained.islands else "compiled"
    row |= _errors(model, images, layer)
    if not row["agrees"]:
        row |= {"outcome": "wrong", "why": "it disagrees with float64"}
    return row


def _errors(model: nn.Module, images: Tensor, layer: str | None) -> Row:
    """Errors relative to how far the images move, and whether they are those of rounding."""
    step_size = step_size_for(model, images, MOVE, layer=layer)
    phi = Task(model, images, 1, step_size, layer=layer).phi()
    # Some networks keep position biases between calls, in the dtype of the first; training forgets.
    exact = copy.deepcopy(phi).double().train().eval()
    pixels = images.double()

    def error(found: Tensor, expected: Tensor) -> float:
        return float((found.double() - expected).norm() / (expected - pixels).norm())

    row: Row = {}
    expected = loops.frozen(exact, 2, step_size)(pixels)
    ours = {"layer": layer, "step_size": step_size, "backend": "fused"}
    found = SignTransform(model, 2, **ours).transform(images)
    eager = loops.frozen(phi, 2, step_size)(images)
    assert isinstance(found, Tensor)
    row["error_k2"], row["rounding_k2"] = error(found, expected), error(eager, expected)
    agrees = row["error_k2"] <= MARGIN + TIMES_ROUNDING * row["rounding_k2"]
    expected = loops.frozen(exact, 1, step_size)(pixels)
    double = copy.deepcopy(model).double().train().eval()
    found = SignTransform(double, 1, **ours).transform(pixels)
    assert isinstance(found, Tensor)
    row["error_delta_float64"] = error(found, expected)
    row["agrees"] = agrees and row["error_delta_float64"] <= EXACT
    return row


@contextlib.contextmanager
def _reasons() -> Iterator[dict[str, int]]:
    """Count why rules refuse operations, while a network is lowered."""
    found: dict[str, int] = {}
    by_rule = Lowering.by_rule
    seen: set[int] = set()

    def counting(self: Lowering, node: Any) -> Any:
        try:
            return by_rule(self, node)
        except UnsupportedOperation as error:
            if id(node) not in seen:  # the compiler asks several times
                seen.add(id(node))
                kept.append(node)
                text = _line(error)
                found[text] = found.get(text, 0) + 1
            raise

    kept: list[Any] = []  # so that no identity is used twice
    Lowering.by_rule = counting  # type: ignore[method-assign]
    try:
        yield found
    finally:
        Lowering.by_rule = by_rule  # type: ignore[method-assign]


def _line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0][:300]


def outcome(row: Row) -> str:
    """What became of a family, in a word or two."""
    return "failed" if "failed" in row else str(row["outcome"])


def describe(row: Row) -> str:
    """A family's line for people."""
    text = f"{row['family']:<19} {outcome(row):<15}"
    if row.get("islands"):
        share = sum(each["share"] for each in row["islands"])
        most = row["islands"][0]
        names = ", ".join(most["operations"])
        text += f"{counted(len(row['islands']), 'island')}, {share:.0%} of a step; "
        text += f"the largest {most['share']:.0%}: {names[:80]}"
    if outcome(row) in ("refused", "failed", "wrong"):
        text += row.get("failed") or row["why"]
    if "error_k2" in row:
        text += f" (δ off by {row['error_delta_float64']:.0e} in float64, "
        text += f"p* by {row['error_k2']:.0e} in float32)"
    return text


def summarize(rows: Sequence[Row], wanted: int) -> tuple[str, bool]:
    """The outcome of all families in words, and whether it is good enough.

    Args:
        rows: One a family.
        wanted: How many families there are.
    """
    outcomes = Counter(map(outcome, rows))
    whole = sum(outcomes[name] for name in WITHOUT_FALLBACK)
    needed = wanted - wanted // 20
    lines = ["", f"{counted(len(rows), 'family', 'families')} of {wanted}:"]
    lines += [f"  {count:>3} {name}" for name, count in outcomes.most_common()]
    lines += ["", *why(rows), ""]
    lines.append(f"{whole} of {wanted} without whole fallback; at least {needed} are wanted")
    good = whole >= needed and not outcomes["wrong"] and len(rows) == wanted
    return "\n".join(lines), good


def why(rows: Sequence[Row]) -> list[str]:
    """Why operations were left to islands, the most frequent first: families and operations."""
    families: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        for reason, count in row.get("reasons", {}).items():
            families[SHAPE.sub(r" \1 …", reason)][row["family"]] += count
    found = sorted(families.items(), key=lambda item: (-len(item[1]), item[0]))
    lines = ["operations that no rule took:"] if found else []
    for reason, where in found:
        lines.append(f"  {len(where):>3} families, {sum(where.values()):>4} operations: {reason}")
        lines.append(f"      {', '.join(where)}")
    return lines


def markdown(rows: Sequence[Row]) -> str:
    """The families by what became of them, for a document.

    Args:
        rows: One a family.
    """
    if not rows:
        return "Not measured yet."
    lines = [sweep.provenance(rows), ""]
    found: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        name = str(row["family"])
        if islands := row.get("islands"):
            share = sum(each["share"] for each in islands)
            name += f" ({share:.0%}, the largest {islands[0]['share']:.0%})"
        if outcome(row) in ("refused", "failed", "wrong"):
            name += f" ({row.get('failed') or row['why']})"
        found[outcome(row)].append(name)
    for what, names in sorted(found.items(), key=lambda item: -len(item[1])):
        lines.append(f"- {what} ({len(names)}): {', '.join(names)}")
    return "\n".join(lines)


def options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    sweep.add_options(parser, "families.jsonl", LIMITS)
    add = parser.add_argument
    add("--summary", action="store_true", help="only sum up; measures nothing")
    add("--markdown", type=Path, help="document whose section to fill; measures nothing")
    given = parser.parse_args(arguments)
    sweep.require_known(parser, given.only, family_list.FAMILIES)
    return given


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing and sum up; 1 if it is not good enough, 3 if time was too short."""
    given = options(arguments)
    table = sweep.Sweep(given.out, FACTS, SCRIPTS)
    if given.markdown:
        old = given.markdown.read_text(encoding="utf-8")
        text = bench_table.fill(old, "families.jsonl", markdown(table.newest()))
        write_whole(given.markdown, text)
        print(f"filled: {given.markdown}")
        return 0
    cells = [
        {"family": name, "network": family_list.FAMILIES[name].name}
        for name in given.only or family_list.FAMILIES
    ]
    missing = cells if given.again else table.missing(cells)
    if given.list:
        print("\n".join(cell["family"] for cell in missing) or "nothing left")
        return 0
    left = 0
    if not given.summary:
        left = table.fill(missing, measure, describe, sweep.limits_of(given))
    found = table.done()
    keys = [tuple(map(cell.get, FACTS)) for cell in cells]
    rows = [found[key] for key in keys if key in found]
    if given.summary:
        print("\n".join(map(describe, rows)))
    text, good = summarize(rows, len(cells))
    print(text)
    if left:
        print(f"{counted(left, 'family', 'families')} left, call again")
        return 3
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
