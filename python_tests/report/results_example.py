"""Results made by hand that hold every feature of a report: the tests and the eye look at them."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from sign_ext.report.schema import (
    Cell,
    Column,
    Experiment,
    Figure,
    Results,
    Row,
    Table,
)
from sign_ext.report.verdict import compare_rows

CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
METHODS = ("Classical", "mixup", "SIGN")
GROUPS = ("MobileNetV2, equal epochs", "MobileNetV2, equal gradient steps")
IMAGES = 1000
PAPER = {"Classical": 0.8550, "mixup": 0.8584, "SIGN": 0.8637}


def accuracy(group: int, method: int, seed: int) -> float:
    """An overall accuracy: a method is 0.0123 better than the one before, groups 0.05."""
    return 0.80 + 0.05 * group + 0.0123 * method + 0.002 * ((seed * (method + 2)) % 5)


def table1(seeds: Sequence[int]) -> Table:
    """Twelve columns, two groups; the second group has no number of the paper."""
    columns = (
        *(Column(name, name) for name in CLASSES),
        Column("mean", "Mean"),
        Column("steps", "Gradient steps", "count"),
    )
    rows = tuple(
        Row(
            label=method,
            group=heading,
            cells={
                **{
                    name: Cell(
                        tuple(accuracy(g, m, seed) - 0.03 * (k % 4) for seed in seeds),
                        paper=PAPER[method] - 0.02 * (k % 3) if g == 0 else None,
                    )
                    for k, name in enumerate(CLASSES)
                },
                "mean": Cell(
                    tuple(accuracy(g, m, seed) for seed in seeds),
                    paper=PAPER[method] if g == 0 else None,
                ),
                "steps": Cell(tuple(35_200.0 * (1 + 2 * g) for _ in seeds)),
            },
            note="λ of Beta(0.2, 0.2) & nothing else" if method == "mixup" else "",
            stages=(f"classify-{g}{m}0f3a9c", f"train-{g}{m}77be21"),
        )
        for g, heading in enumerate(GROUPS)
        for m, method in enumerate(METHODS)
    )
    pairs = [(rows[2], rows[0]), (rows[2], rows[1]), (rows[5], rows[3]), (rows[5], rows[0])]
    return Table(
        title="Table 1",
        caption=f"Accuracy by class and overall, on {IMAGES:,} test images.",
        columns=columns,
        rows=rows,
        comparisons=tuple(
            compare_rows("mean", a, b, images=IMAGES, kind="share") for a, b in pairs
        ),
        images=IMAGES,
    )


def table2(seeds: Sequence[int]) -> Table:
    """Numbers, counts, missing cells and values that do not exist; lower may be better."""
    columns = (
        Column("p", "Mean p of p ≤ 0.5", "share"),
        Column("count", "Images with p ≤ 0.5", "count"),
        Column("sigma", "Uncertainty σ", "number", higher_is_better=False),
        Column("auc", "AUC", "number"),
    )
    group = "MobileNetV2 with two heads, whose name is long: α < β & γ > δ"
    classical = Row(
        "Classical <Φ>",
        group,
        {
            "p": Cell(tuple(None if seed == 0 else 0.4321 for seed in seeds), paper=0.42),
            "count": Cell(tuple(200.0 + 7 * seed for seed in seeds), paper=212.0),
            "sigma": Cell(tuple(4.5 + 0.01 * seed * seed for seed in seeds), paper=5.12),
            "auc": Cell(tuple(0.7633 + 0.001 * seed for seed in seeds), paper=0.7611),
        },
    )
    sign = Row(
        "SIGN with a label that goes on for rather longer than a label should",
        group,
        {
            "count": Cell(tuple(30.0 + seed for seed in seeds), paper=26.0),
            "sigma": Cell(tuple(4.1 + 0.012 * seed for seed in seeds)),
            "auc": Cell(tuple(0.7833 - 0.0005 * seed * seed for seed in seeds)),
        },
        note="no image is left: its mean does not exist",
        stages=("uncertainty-1",),
    )
    return Table(
        "Table 2",
        "Uncertainty of images that are right with p ≤ 0.5 | and a bar.",
        columns,
        (classical, sign),
        comparisons=tuple(
            compare_rows(
                key, sign, classical, images=None, kind="number", higher_is_better=key == "auc"
            )
            for key in ("sigma", "auc")
        ),
    )


def png(rng: np.random.Generator, size: int = 6) -> str:
    buffer = io.BytesIO()
    pixels = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def figures(points: int = 40) -> tuple[Figure, ...]:
    """One of each kind."""
    rng = np.random.default_rng(5)
    rows = ("p", "K = 50", "K = 100", "δ, ×3 & more")
    samples: dict[str, Any] = {
        "columns": list(CLASSES),
        "rows": [{"label": row, "images": [png(rng) for _ in CLASSES]} for row in rows],
    }
    samples["rows"][3]["images"].pop()
    x = [0.0, 5.0, 10.0, 20.0, 40.0, 100.0]
    lines = {
        "x": "noise σ",
        "y": "accuracy",
        "log_x": True,
        "percent": True,
        "lines": [
            {
                "label": f"{method}, and a few $more$ words",
                "x": x,
                "y": [0.9 - 0.1 * i / (m + 1) for i in range(6)],
                "low": None if m == 1 else [0.88 - 0.1 * i / (m + 1) for i in range(6)],
                "high": None if m == 1 else [0.92 - 0.1 * i / (m + 1) for i in range(6)],
            }
            for m, method in enumerate(METHODS)
        ],
    }
    labels = [i % 10 for i in range(points)]
    scatter = {
        "classes": list(CLASSES),
        "columns": 3,
        "panels": [
            {
                "title": f"{method}: features of the last layer",
                "x": [3 * np.cos(k) + float(rng.normal()) * (1 - 0.3 * m) for k in labels],
                "y": [3 * np.sin(k) + float(rng.normal()) * (1 - 0.3 * m) for k in labels],
                "label": labels,
            }
            for m, method in enumerate(METHODS)
        ],
    }
    reliability = {
        "panels": [
            {
                "title": method,
                "confidence": [None, *(0.05 + 0.1 * b for b in range(1, 10))],
                "accuracy": [None, *(min(1.0, 0.1 * b * (0.8 + 0.1 * m)) for b in range(1, 10))],
                "count": [0, *(5 * b * b for b in range(1, 10))],
            }
            for m, method in enumerate(METHODS)
        ]
    }
    told = "Values & more are in results.json [all < of > them]."
    return (
        Figure(
            "Figure 3",
            "Before and after SIGN.",
            "Ten images and what SIGN made.",
            "samples",
            samples,
        ),
        Figure(
            "Figure 6",
            "Corruption at several strengths.",
            f"Accuracies fall. {told}",
            "lines",
            lines,
        ),
        Figure(
            "Figure 5", "t-SNE of features.", "Three embeddings; classes part.", "scatter", scatter
        ),
        Figure(
            "Reliability",
            "Accuracy by confidence.",
            "Bars near a diagonal.",
            "reliability",
            reliability,
        ),
    )


def make_results(seeds: Sequence[int] = (0, 1, 2), *, points: int = 40) -> Results:
    """All features at once."""
    first = Experiment(
        name="table1",
        title="Table 1: accuracy on CIFAR-10",
        about="Each network is trained from scratch by each method & measured on test images.",
        stand_ins=("digits for CIFAR-10", "basic_cnn <small> for MobileNetV2"),
        settings={
            "epochs": 100,
            "step_size": {str(seed): 30.5 + seed for seed in seeds},
            "snapshots": [50, 100],
            "decay": None,
            "nesterov": True,
        },
        tables=(table1(seeds),),
        findings=(
            "SIGN < mixup & Classical, first finding.",
            "A second finding.",
            "A third finding.",
        ),
        command="sign-ext reproduce --only table1 --out 'a <b>'",
        seconds=4000.0,
    )
    second = Experiment(
        name="uncertainty",
        title="Table 2 & figures: Φ, δ and what <they> do",
        about="",
        settings={"samples": 100},
        tables=(table2(seeds),),
        figures=figures(points),
        seconds=42.0,
    )
    return Results(
        scale="small",
        seeds=tuple(seeds),
        experiments=(first, second),
        data=("digits: 1,797 real 8×8 digits", "tiny & <real>"),
        settings={"train_size": 5000, "learning_rate": 0.05},
        machine={"device": "cuda:0", "gpu": "NVIDIA H100", "cores": 16},
        versions={"sign-ext": "0.3", "torch": "9.8.7"},
        commit="0123abc+changes",
        command="sign-ext reproduce --scale small --seeds 3",
        seconds=4042.0,
    )


def with_experiment(results: Results, index: int, **changes: Any) -> Results:
    """The same results with an experiment's fields replaced."""
    experiments = list(results.experiments)
    experiments[index] = replace(experiments[index], **changes)
    return replace(results, experiments=tuple(experiments))
