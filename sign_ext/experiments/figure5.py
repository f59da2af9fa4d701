"""Figure 5: how compact classes are in feature space, t-SNE maps and numbers."""

from __future__ import annotations

from typing import Any

from sign_ext.evaluation import compare_rows
from sign_ext.experiments.book import PROTOCOLS, Book
from sign_ext.experiments.measure_stages import FeatureMap
from sign_ext.experiments.methods import METHODS
from sign_ext.experiments.recipe import Found, Plan, Recipe, cell, keys
from sign_ext.experiments.telling import findings, settings, stand_ins
from sign_ext.report.schema import Column, Experiment, Figure, Row, Table

DEFAULTS: dict[str, Any] = {"network": "mobilenet_v2", "images": 5000}
SHOWN = ("classical", "mixup", "sign")
COLUMNS = (
    Column("train_silhouette", "Silhouette, train", "number"),
    Column("train_scatter_ratio", "Scatter ratio, train", "number", higher_is_better=False),
    Column("validation_silhouette", "Silhouette, validation", "number"),
    Column("validation_scatter_ratio", "Scatter ratio, validation", "number", False),
)

ABOUT = """\
Features are the input of the last layer, of original images. The paper shows t-SNE maps and finds
"more compact class representations"; a map can mislead, so two numbers stand with it, computed in
feature space: the silhouette (−1 to 1, higher is more compact) and the ratio of within-class to
between-class scatter (lower is more compact). Validation images are embedded into the training
images' map."""


def plan(book: Book) -> Plan:
    """Each method by both protocols with each seed."""
    options = book.options("figure5", **DEFAULTS)
    return {
        f"{method}/{protocol}": tuple(
            FeatureMap(
                book.train(options["network"], method, seed, protocol=protocol), options["images"]
            )
            for seed in book.seeds
        )
        for protocol in PROTOCOLS
        for method in SHOWN
    }


def tell(book: Book, found: Found) -> Experiment:
    """The maps of the first seed, and the numbers of all."""
    network = book.options("figure5", **DEFAULTS)["network"]
    table = _table(book, network, found)
    return Experiment(
        name="figure5",
        title="Figure 5: feature space",
        about=ABOUT,
        stand_ins=stand_ins(book, [network]),
        settings=settings(book, [network], found),
        tables=(table,),
        figures=(_maps(book, network, found),),
        findings=findings(table),
    )


def _table(book: Book, network: str, found: Found) -> Table:
    rows: dict[tuple[str, str], Row] = {}
    for protocol, told in PROTOCOLS.items():
        for method in SHOWN:
            outcomes = found[f"{method}/{protocol}"]
            cells = {c.key: cell(outcomes, *c.key.split("_", 1)) for c in COLUMNS}
            group = f"{book.network(network).label}, {told}"
            rows[protocol, method] = Row(
                METHODS[method].label, group, cells, METHODS[method].note, keys(outcomes)
            )
    compared = tuple(
        compare_rows(
            column.key,
            rows[protocol, "sign"],
            rows[protocol, baseline],
            images=None,
            kind=column.kind,
            higher_is_better=column.higher_is_better,
        )
        for protocol in PROTOCOLS
        for baseline in ("classical", "mixup")
        for column in COLUMNS
    )
    caption = "Compactness of classes in feature space."
    return Table("Figure 5 in numbers", caption, COLUMNS, tuple(rows.values()), compared)


def _maps(book: Book, network: str, found: Found) -> Figure:
    outcomes = {method: found[f"{method}/epochs"][0].numbers for method in SHOWN}
    task = book.task(network)
    classes = list(book.sources.read(book.source(task)).class_names)
    panels = [
        {
            "title": f"{METHODS[method].label}, {part}",
            "x": [point[0] for point in numbers[part]["map"]],
            "y": [point[1] for point in numbers[part]["map"]],
            "label": numbers[part]["labels"],
        }
        for part in ("train", "validation")
        for method, numbers in outcomes.items()
    ]
    return Figure(
        title="Figure 5",
        caption="t-SNE of features, first seed, equal epochs; above training, below validation "
        "images, embedded into the map of the training images.",
        alt="Six scatter plots, a column a method: points coloured by class.",
        kind="scatter",
        data={"classes": classes, "panels": panels, "columns": len(SHOWN)},
    )


RECIPE = Recipe("figure5", "t-SNE maps and compactness of features", plan, tell)
