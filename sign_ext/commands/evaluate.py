"""Measure a trained network on the test images: clean, pixels off, Gaussian noise.

Accuracy overall and of each class, and accuracy with 50 random pixels set to 0
and with Gaussian noise of σ = 10 grey levels, each as mean ± standard
deviation over seeded draws (the paper's Table 5). --sigma and --pixels set
other strengths, --corruptions adds those of CIFAR-10-C, --plot draws all. With
--adversarial, also what is left under attack (`sign-ext attack` has more
options). Of an aleatoric network (`sign-ext train --aleatoric`): accuracy, and
its confidence where it is correct (the paper's Table 2).
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Literal

from sign_ext.commands import console, corruption_options
from sign_ext.commands.console import UsageError
from sign_ext.commands.corruption_options import CorruptionOptions
from sign_ext.commands.network_data import NetworkDataOptions, network_data, other_size
from sign_ext.commands.networks import network_as_json, read_network
from sign_ext.commands.options import PositiveFloat, PositiveInt, option
from sign_ext.commands.shared import (
    check_epsilon,
    on_error_option,
    reporting_steps,
    resolve_device,
    skipped_as_json,
)
from sign_ext.formatting import counted

if TYPE_CHECKING:
    from torch import Tensor, nn

    from sign_ext.data import ImageSet
    from sign_ext.evaluation import CorruptedAccuracy

EXAMPLES = (
    "sign-ext evaluate --checkpoint runs/sign/model.safetensors --data digits",
    "sign-ext evaluate --checkpoint runs/sign --json > runs/sign/test.json",
    "sign-ext evaluate --model timm:resnet18 --weights resnet18.pth --data photos \\",
    "    --image-size 64",
    "sign-ext evaluate --checkpoint runs/sign --sigma 5 10 20 40 \\",
    "    --corruptions contrast jpeg_compression:3 --plot robust.png",
    "sign-ext evaluate --checkpoint runs/sign --adversarial 2 8",
)


# What a table calls the images of a split.
_PARTS = {
    "train": "training",
    "validation": "validation",
    "test": "test",
    "all": "training, validation and test",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(NetworkDataOptions, CorruptionOptions):
    """Options of `sign-ext evaluate`."""

    split: str = option(
        "test",
        type=Literal["train", "validation", "test", "all"],
        help="Which split to measure on; all is the three in order.",
    )
    test_size: int | None = option(
        None, type=PositiveInt, help="Use a stratified subset of this many test images."
    )
    draws: int = option(
        10,
        type=PositiveInt,
        help="Draws of each corruption; for an aleatoric network, T of Eq. 11 is ten times "
        "as many.",
    )
    adversarial: tuple[float, ...] | None = option(
        None,
        type=PositiveFloat,
        nargs="+",
        metavar="EPS",
        help="Also attack the images within these many grey levels: PGD with 10 steps of EPS/4 "
        "from a random start, as `sign-ext attack --epsilon EPS`.",
    )
    batch_size: int = option(512, type=PositiveInt, help="Images in a batch.")
    on_error: str = on_error_option()

    def check(self) -> None:
        """Check the network, and --adversarial."""
        super().check()
        for epsilon in self.adversarial or ():
            check_epsilon("--adversarial", epsilon)


def run(options: Options) -> None:
    """Evaluate and print a table, or JSON."""
    from sign_ext.evaluation import evaluate, warn_of_units

    device = resolve_device(options.device)
    model, config = read_network(options, device)
    splits, name = network_data(options, config, test_size=options.test_size)
    part = splits.part(options.split)
    context = {
        "checkpoint": options.checkpoint,
        "network": network_as_json(config),
        "data": {**splits.summary.to_dict(), "name": name, "split": options.split},
        "note": splits.note,
        "skipped": skipped_as_json(splits),
    }
    if config["model"].get("aleatoric"):
        if options.adversarial:
            raise UsageError(
                "--adversarial is for networks whose outputs are logits, and this one is "
                "aleatoric: its outputs are a mean and a deviation for each class"
            )
        corruption_options.refuse_corruptions(options)
        warn_of_units(model, part.images)
        uncertain = _measure_uncertainty(options, model, part)
        _say_doubt(uncertain["accuracy"], part, other_size(options, config))
        if options.json:
            console.print_json({**context, **uncertain})
        else:
            console.print_rich(_uncertainty_table(uncertain, name, options.split))
        return
    corruption_options.check_conditions(options, part)
    settings = {"draws": options.draws, "seed": options.seed, "batch_size": options.batch_size}
    with console.progress("evaluating") as report:
        result = evaluate(
            model,
            part,
            num_off=options.pixels[0],
            sigma=options.sigma[0],
            progress=report,
            **settings,
        )
    _say_doubt(result.accuracy, part, other_size(options, config))
    attacked = [_attacked(options, model, part, epsilon) for epsilon in options.adversarial or ()]
    others = corruption_options.measure(options, model, part, **settings)
    corrupted = corruption_options.with_first(options, result, others)
    corruption_options.write_plot(options, result.accuracy, corrupted)
    if options.json:
        found = {"corruptions": corruption_options.as_json(corrupted)}
        if attacked:
            found["adversarial"] = attacked
        console.print_json({**context, **result.to_dict(), **found})
    else:
        console.print_rich(_table(result, corrupted, attacked, name, options.split))


def _attacked(options: Options, model: nn.Module, part: ImageSet, epsilon: float) -> dict[str, Any]:
    """Measure what is left under an attack; for --json."""
    from sign_ext.evaluation import robustness
    from sign_ext.store import AttackIteration

    attack = AttackIteration(model, epsilon=epsilon, seed=options.seed)

    with console.progress(f"attacking, ε = {epsilon:g}, images × steps") as report:

        def run(images: Tensor, labels: Tensor, positions: Tensor) -> Tensor:
            steps = reporting_steps(report, attack, positions, len(part))
            return attack.run(images, labels, positions, progress=steps)[attack.stops[-1]]

        found = robustness(model, part, run, batch_size=options.batch_size)
    return {"attack": attack.settings(), **found.to_dict()}


def _say_doubt(accuracy: float, part: ImageSet, size: str) -> None:
    """Print what to check about an accuracy at chance level, first the size if that is another."""
    from sign_ext.evaluation import doubt_of_guessing

    if doubt := doubt_of_guessing(accuracy, part.labels, len(part.class_names)):
        console.say(f"{size}: leave --image-size out. {doubt}" if size else doubt)


def _table(
    result: Any,
    corrupted: list[CorruptedAccuracy],
    attacked: list[dict[str, Any]],
    name: str,
    split: str,
) -> Any:
    from rich.table import Table

    from sign_ext.formatting import error_of_share, percent

    table = Table(title=f"{name}: {counted(result.images, f'{_PARTS[split]} image')}")
    table.add_column("condition")
    table.add_column("accuracy", justify="right")
    table.add_column("±", justify="right")
    table.add_column("± is", style="dim")
    right = round(result.accuracy * result.images)
    table.add_row("clean", percent(result.accuracy), *error_of_share(right, result.images))
    for each in corrupted:
        draws = f"standard deviation of {each.draws:,} draws" if each.draws > 1 else "one draw"
        what = draws if each.condition.random else "no draws"
        table.add_row(str(each.condition), percent(each.mean), percent(each.std), what)
    for attack in attacked:
        condition = f"adversarial, ε = {attack['attack']['epsilon']:g}"
        errors = error_of_share(attack["robust"], attack["images"])
        table.add_row(condition, percent(attack["robust_accuracy"]), *errors)
    table.add_section()
    for class_name, accuracy in result.per_class.items():
        table.add_row(f"class {class_name}", percent(accuracy), "", "")
    return table


def _measure_uncertainty(options: Options, model: nn.Module, images: ImageSet) -> dict[str, Any]:
    from sign_ext.evaluation import measure_uncertainty

    return measure_uncertainty(model, images, samples=10 * options.draws, seed=options.seed)


def _uncertainty_table(found: dict[str, Any], name: str, split: str) -> Any:
    from rich.table import Table

    from sign_ext.formatting import percent

    table = Table(title=f"{name}: {counted(found['images'], f'{_PARTS[split]} image')}, aleatoric")
    for column in ("class", "accuracy", "correct with p ≤ 0.5", "their mean p", "their mean σ"):
        table.add_column(column, justify="left" if column == "class" else "right")
    low = found["low"]
    rows = [("all", found["accuracy"], low["total"])]  # a list: a class may be called "all"
    for class_name, accuracy in found["per_class"].items():
        rows.append((class_name, accuracy, low["per_class"][class_name]))
    for class_name, accuracy, row in rows:
        means = (row["probability"], row["uncertainty"])
        shown = ("–" if mean is None else f"{mean:.3f}" for mean in means)
        table.add_row(class_name, percent(accuracy), f"{row['count']:,}", *shown)
    scores = ", ".join(f"{key} {value:.3f}" for key, value in found["scores"].items())
    table.caption = f"mean σ {found['sigma']:.3f}; {scores}"
    return table
