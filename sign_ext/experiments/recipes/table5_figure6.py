"""Table 5, accuracy on corrupted test images, and Figure 6, which shows the corruptions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sign_ext.data import ImageSet
from sign_ext.evaluation import corruption_examples
from sign_ext.experiments.planner import StagePlanner
from sign_ext.experiments.recipes import published
from sign_ext.experiments.recipes.recipe import (
    OutcomesByName,
    Recipe,
    StagesByName,
    cell,
    classify_rows,
    compare_pairs,
    paper_numbers,
    present,
    row_specs,
    table_row,
)
from sign_ext.experiments.recipes.summary import findings, settings_used, stand_ins
from sign_ext.experiments.recipes.table1_table4 import TABLE1_DEFAULTS
from sign_ext.experiments.stages.measure import png_base64
from sign_ext.report.schema import Column, Experiment, Figure, Table

FIGURE6_DEFAULTS: dict[str, Any] = {"network": "mobilenet_v2", "count": 10}

# Column → its key in an evaluation, and in the answers to each image.
KEYS = {
    "normal": ("accuracy", "correct"),
    "pixels_off": ("pixels_off_mean", "pixels_off"),
    "noise": ("noise_mean", "noise"),
}

TABLE5_ABOUT = """\
The networks of Table 1, with corrupted test images: {pixels} random pixels of each image set to 0
in all channels, and Gaussian noise of standard deviation {sigma:g} grey levels (the paper gives
no unit; images here run from 0 to 255). Each is drawn {draws} times with its own seed, the same
for every network; a cell is the mean over the draws. The paper's deviations, of 1e-5 or so, are
those of its own repeated draws; ours are over training seeds, which matter more."""
FIGURE6_ABOUT = """\
Test images as they are, with {pixels} random pixels turned off, and with Gaussian noise of
standard deviation {sigma:g} grey levels, clipped to 0–255 for display."""


def plan_table5(planner: StagePlanner) -> StagesByName:
    """The rows of Table 1."""
    networks = planner.options("table5", **TABLE1_DEFAULTS)["networks"]
    return classify_rows(planner, row_specs(networks, planner.protocols))


def summarize_table5(planner: StagePlanner, outcomes: OutcomesByName) -> Experiment:
    """The table, with comparisons in every column."""
    networks, scale = planner.options("table5", **TABLE1_DEFAULTS)["networks"], planner.scale
    images = next(iter(outcomes.values()))[0].numbers["images"]
    headings = ("Normal accuracy", f"{scale.pixels} pixels off", f"Noise σ = {scale.sigma:g}")
    columns = tuple(
        Column(key, heading, margin=scale.margins.accuracy)
        for key, heading in zip(KEYS, headings, strict=True)
    )
    rows = {}
    for spec in present(row_specs(networks, planner.protocols), outcomes):
        paper = paper_numbers(published.for_network(published.TABLE5, spec.network), spec)
        cells = {
            column: cell(outcomes[spec.name], key, paper=paper.get(column), samples=samples)
            for column, (key, samples) in KEYS.items()
        }
        rows[spec] = table_row(planner, spec, outcomes[spec.name], cells)
    table = Table(
        title="Table 5",
        caption=f"Accuracy on {images:,} test images, clean and corrupted.",
        columns=columns,
        rows=tuple(rows.values()),
        images=images,
        # Normal accuracy is Table 1's, where it belongs to a family.
        comparisons=compare_pairs(rows, columns, images, secondary=("pixels_off", "noise")),
    )
    return Experiment(
        name="table5",
        title="Table 5: robustness to pixels turned off and to noise",
        about=TABLE5_ABOUT.format(pixels=scale.pixels, sigma=scale.sigma, draws=scale.draws),
        stand_ins=stand_ins(planner, networks),
        settings=settings_used(planner, networks, outcomes),
        tables=(table,),
        findings=findings(table),
    )


def plan_figure6(planner: StagePlanner) -> StagesByName:
    """Nothing: the figure needs no network."""
    return {}


def summarize_figure6(planner: StagePlanner, outcomes: OutcomesByName) -> Experiment:
    """The first image of each class, clean and corrupted."""
    options, scale = planner.options("figure6", **FIGURE6_DEFAULTS), planner.scale
    test = planner.sources.read(planner.source(planner.task(options["network"]))).test
    labels = test.labels.tolist()
    first = [labels.index(label) for label in sorted(set(labels))][: options["count"]]
    shown = test.subset(first)
    rows = corruption_examples(shown.float(), seed=0, num_off=scale.pixels, sigma=scale.sigma)
    return Experiment(
        name="figure6",
        title="Figure 6: corrupted test images",
        about=FIGURE6_ABOUT.format(pixels=scale.pixels, sigma=scale.sigma),
        stand_ins=stand_ins(planner, [options["network"]]),
        settings={"pixels off": scale.pixels, "noise σ, grey levels": scale.sigma},
        figures=(
            Figure(
                title="Figure 6",
                caption="Rows from top to bottom: normal, pixels off, Gaussian noise.",
                alt="A test image of each class, the same with black pixels, and with noise.",
                kind="samples",
                data=_samples(shown, rows),
            ),
        ),
    )


def _samples(images: ImageSet, rows: dict[str, Tensor]) -> dict[str, Any]:
    """The data of a "samples" figure, from rows of images in 0–255 (clipped for display)."""
    pixels = {
        name: row.clamp(0, 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        for name, row in rows.items()
    }
    return {
        "columns": [images.class_names[label] for label in images.labels.tolist()],
        "rows": [
            {"label": name, "images": [png_base64(image) for image in row]}
            for name, row in pixels.items()
        ],
    }


TABLE5 = Recipe("table5", plan_table5, summarize_table5, by_rows=True)
FIGURE6 = Recipe("figure6", plan_figure6, summarize_figure6)
