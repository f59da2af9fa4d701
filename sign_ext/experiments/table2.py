"""Table 2: aleatoric uncertainty on CIFAR-10."""

from __future__ import annotations

from typing import Any

from sign_ext.experiments.planner import Book
from sign_ext.experiments.recipes import published, table2_table3
from sign_ext.experiments.recipes.recipe import Found, Plan, Recipe
from sign_ext.experiments.recipes.summary import findings, settings, stand_ins
from sign_ext.report.schema import Experiment

DEFAULTS: dict[str, Any] = {"network": "mobilenet_v2"}

ABOUT = """\
A network with two heads, for logits f and their σ, is trained by Eq. 10–11 with T = {samples}
samples (Section 3.2). SIGN's images come from a Φ of the same architecture with the usual head,
trained classically. Probabilities are means of softmax over T samples. "p ≤ 0.5" are right
answers given with at most that probability: a method with few of them is confident where it is
right, which by itself is neither good nor bad; the calibration error beside it says whether the
confidence is deserved."""


def plan(book: Book) -> Plan:
    """Each method on the test images."""
    return table2_table3.stages(book, book.options("table2", **DEFAULTS)["network"], None)


def tell(book: Book, found: Found) -> Experiment:
    """The paper's rows, calibration beside them."""
    network = book.options("table2", **DEFAULTS)["network"]
    tables = table2_table3.tables(
        book, network, found, "Table 2", published.TABLE2, published.THRESHOLDS
    )
    return Experiment(
        name="table2",
        title="Table 2: aleatoric uncertainty on CIFAR-10",
        about=ABOUT.format(samples=book.scale.samples),
        stand_ins=stand_ins(book, [network]),
        settings=settings(book, [network], found),
        tables=tables,
        figures=(table2_table3.reliability(book, network, found),),
        findings=findings(tables[0]),
    )


RECIPE = Recipe("table2", plan, tell)
