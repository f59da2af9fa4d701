"""The demo's page: one self-contained HTML file, and the picture of samples next to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sign_ext.files import write_whole
from sign_ext.formatting import binomial_error, mean_and_deviation, percent
from sign_ext.report.demo_figures import (
    CONDITIONS,
    METHODS,
    accuracies,
    samples_picture,
    training_curves,
)
from sign_ext.report.plots import DARK, LIGHT, Samples, png
from sign_ext.report.view import data_uri, environment

TEMPLATE = "page.html.j2"


def write_page(out: Path, metrics: dict[str, Any], samples: Samples) -> None:
    """Write OUT/index.html and OUT/samples.png.

    Args:
        out: An existing folder.
        metrics: The content of metrics.json, which `run_demo` writes.
        samples: Images before and after.
    """
    write_whole(out / "samples.png", samples_picture(samples))
    write_whole(out / "index.html", render_page(metrics, samples))


def render_page(metrics: dict[str, Any], samples: Samples) -> str:
    """Return the page's HTML, self-contained.

    Args:
        metrics: The content of metrics.json, which `run_demo` writes.
        samples: Images before and after.
    """
    return (
        environment()
        .get_template(TEMPLATE)
        .render(
            metrics=metrics,
            settings=metrics["settings"],
            data=metrics["data"],
            first=metrics["runs"][0],
            methods=METHODS,
            samples=_sample_columns(samples),
            versions_shown=len(samples.rows()),
            scale=samples.scale,
            last=samples.last,
            table=_table(metrics["runs"]),
            counts=_counts(metrics["runs"]),
            classes=_classes(metrics),
            standard_error=_standard_error(metrics),
            accuracy_figure=_accuracy_figure(metrics["runs"]),
            curves=_curves(metrics["runs"][0]),
            total=sum(metrics["seconds"].values()),
        )
    )


def _sample_columns(samples: Samples) -> list[dict[str, Any]]:
    """Return one entry per image: its class, and the picture of each row with its description."""
    rows = samples.rows()
    descriptions = {"p": "before", "δ": f"change δ after K = {samples.last}"}
    return [
        {
            "label": label,
            "pictures": [
                {
                    "uri": data_uri(png(images[i]), "png"),
                    "alt": f"{label}, {descriptions.get(name, 'after ' + name)}",
                }
                for name, images in rows.items()
            ],
        }
        for i, label in enumerate(samples.labels)
    ]


def _table(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one row per condition, with each method's mean and spread."""
    rows = []
    for condition, name in CONDITIONS.items():
        cells = [_cell(runs, method, condition) for method in METHODS]
        rows.append({"name": name, "cells": cells})
    return rows


def _cell(runs: list[dict[str, Any]], method: str, condition: str) -> dict[str, Any]:
    """Return the mean over seeds, and the spread over seeds, or over draws with a single seed."""
    evaluations = [run["evaluation"][method] for run in runs]
    key = condition if condition == "accuracy" else f"{condition}_mean"
    mean, deviation = mean_and_deviation([evaluation[key] for evaluation in evaluations])
    spread: float | None = deviation
    if len(runs) == 1:
        spread = None if condition == "accuracy" else evaluations[0][f"{condition}_std"]
    return {"mean": mean, "spread": spread}


def _counts(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows about the length of each method's training, for the first seed."""
    trained = [runs[0]["training"][method] for method in METHODS]
    validation = [
        mean_and_deviation([run["training"][m]["best_validation_accuracy"] for run in runs])[0]
        for m in METHODS
    ]
    return [
        {"name": "Validation (best epoch)", "cells": [percent(value) for value in validation]},
        {"name": "Gradient steps", "cells": [f"{result['steps']:,}" for result in trained]},
        {
            "name": "Epoch kept",
            "cells": [f"{r['best_epoch']} of {len(r['history'])}" for r in trained],
        },
    ]


def _classes(metrics: dict[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for name in metrics["data"]["class_names"]:
        values = []
        for method in METHODS:
            found = [run["evaluation"][method]["per_class"][name] for run in metrics["runs"]]
            known = [value for value in found if value is not None]
            values.append(sum(known) / len(known) if known else None)
        rows.append({"name": name, "cells": [percent(value) for value in values]})
    return rows


def _standard_error(metrics: dict[str, Any]) -> float:
    found = [run["evaluation"]["sign"]["accuracy"] for run in metrics["runs"]]
    return binomial_error(sum(found) / len(found), metrics["data"]["test"])


def _accuracy_figure(runs: list[dict[str, Any]]) -> dict[str, str]:
    return {
        "light": data_uri(accuracies(runs, LIGHT), "svg+xml"),
        "dark": data_uri(accuracies(runs, DARK), "svg+xml"),
        "alt": "Test accuracy of the three methods on clean images, with pixels off and with "
        "noise; the numbers are in the table above.",
        "caption": "Test accuracy; bars are ± 2 standard errors.",
    }


def _curves(run: dict[str, Any]) -> list[dict[str, str]]:
    """Return each curve's light and dark version, its description and its caption."""
    curves = {
        "validation_accuracy": ("validation accuracy, %", "Validation accuracy while training"),
        "train_loss": ("training loss", "Training loss (augmented images, logarithmic)"),
    }
    return [
        {
            "light": data_uri(training_curves(run, key, label, LIGHT), "svg+xml"),
            "dark": data_uri(training_curves(run, key, label, DARK), "svg+xml"),
            "alt": f"{title} of the three methods over gradient steps; all values are in "
            "metrics.json.",
            "caption": f"{title}; the mark is the epoch that was kept.",
        }
        for key, (label, title) in curves.items()
    ]
