"""Measure a trained network on the test images: clean, pixels off, Gaussian noise.

Accuracy overall and of each class, and accuracy with 50 random pixels set to
0 and with Gaussian noise of σ = 10 grey levels, each as mean ± standard
deviation over seeded draws (the paper's Table 5).
"""

from __future__ import annotations

import dataclasses
from typing import Any

from jsonargparse.typing import PositiveInt

from sign_ext.commands import console
from sign_ext.commands.options import option
from sign_ext.commands.shared import (
    CheckpointOptions,
    checkpoint_data,
    read_checkpoint,
    resolve_device,
)

EXAMPLES = (
    "sign-ext evaluate --checkpoint runs/sign/model.safetensors --data digits",
    "sign-ext evaluate --checkpoint runs/sign --json > runs/sign/test.json",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(CheckpointOptions):
    """Options of `sign-ext evaluate`."""

    test_size: int | None = option(
        None, type=PositiveInt, help="Use a stratified subset of this many test images."
    )
    draws: int = option(10, type=PositiveInt, help="How often pixels and noise are drawn.")
    batch_size: int = option(512, type=PositiveInt, help="Images worked on at once.")


def run(options: Options) -> None:
    """Evaluate and print a table, or JSON."""
    from sign_ext.evaluation import evaluate

    device = resolve_device(options.device)
    model, config = read_checkpoint(options.checkpoint, device)
    splits, name = checkpoint_data(options, config, test_size=options.test_size)
    with console.progress("evaluating") as report:
        result = evaluate(
            model,
            splits.test,
            draws=options.draws,
            seed=options.seed,
            batch_size=options.batch_size,
            progress=report,
        )
    if options.json:
        context = {"checkpoint": options.checkpoint, "data": name, "note": splits.note}
        console.print_json({**context, **result.to_dict()})
    else:
        console.say(splits.note)
        console.print_rich(_table(result, name))


def _table(result: Any, name: str) -> Any:
    from rich.table import Table

    from sign_ext.report.numbers import binomial_error, percent

    table = Table(title=f"{name}: {result.images:,} test images")
    table.add_column("condition")
    table.add_column("accuracy", justify="right")
    table.add_column("±", justify="right")
    table.add_column("± is", style="dim")
    error = binomial_error(result.accuracy, result.images)
    table.add_row("clean", percent(result.accuracy), percent(error), "binomial standard error")
    draws = f"standard deviation of {result.draws} draws"
    corrupted = {
        "50 pixels off": (result.pixels_off_mean, result.pixels_off_std),
        "Gaussian noise, σ = 10": (result.noise_mean, result.noise_std),
    }
    for condition, (mean, deviation) in corrupted.items():
        table.add_row(condition, percent(mean), percent(deviation), draws)
    table.add_section()
    for class_name, accuracy in result.per_class.items():
        table.add_row(f"class {class_name}", percent(accuracy), "", "")
    return table
