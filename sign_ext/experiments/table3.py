"""Table 3: networks trained on CIFAR-10, tested on Tiny ImageNet."""

from __future__ import annotations

from typing import Any

from sign_ext.experiments.planner import Book
from sign_ext.experiments.recipes import published, table2_table3
from sign_ext.experiments.recipes.recipe import Found, Plan, Recipe
from sign_ext.experiments.recipes.summary import findings, settings, stand_ins
from sign_ext.report.schema import Experiment

DEFAULTS: dict[str, Any] = {"network": "mobilenet_v2"}

ABOUT = """\
The networks of Table 2 on images of another data set: those of Tiny ImageNet whose classes
CIFAR-10 has, resized from 64×64 to 32×32 by area. The paper gives counts by class and no synsets;
the validation images without greyscale ones of sports car, of goose, black stork and albatross,
of tabby, of all six dogs and both frogs give its counts exactly, so these are taken. A prediction
may be any of the ten classes. The mean is over images, as the paper's is."""


def plan(book: Book) -> Plan:
    """Each method on the other data set's images."""
    network = book.options("table3", **DEFAULTS)["network"]
    return table2_table3.stages(book, network, book.ood())


def tell(book: Book, found: Found) -> Experiment:
    """The paper's rows, calibration beside them."""
    network = book.options("table3", **DEFAULTS)["network"]
    tables = table2_table3.tables(book, network, found, "Table 3", published.TABLE3, {})
    counts = next(iter(found.values()))[0].numbers["counts"]
    told = {
        **settings(book, [network], found),
        "images": ", ".join(f"{n} {c}" for c, n in counts.items()),
    }
    return Experiment(
        name="table3",
        title="Table 3: out of distribution, Tiny ImageNet",
        about=ABOUT,
        stand_ins=stand_ins(book, [network], ood=True),
        settings=told,
        tables=tables,
        findings=findings(tables[0]),
    )


RECIPE = Recipe("table3", plan, tell)
