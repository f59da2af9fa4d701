"""--sigma, --pixels, --corruptions and --plot of `sign-ext evaluate`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from sign_ext.commands import console
from sign_ext.commands.console import UsageError
from sign_ext.commands.options import NonNegativeFloat, NonNegativeInt, option
from sign_ext.formatting import did_you_mean

if TYPE_CHECKING:
    from torch import nn

    from sign_ext.data import ImageSet
    from sign_ext.evaluation import Condition, CorruptedAccuracy, Evaluation

ALL = "all"
# As in `sign_ext.evaluation.FAMILIES`, which imports torch; a test compares the two.
NAMES = (
    *("gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise", "gaussian_blur"),
    *("brightness", "contrast", "saturate", "jpeg_compression", "pixelate"),
)
SEVERITIES = ("1", "2", "3", "4", "5")
PLOTS = (".png", ".svg", ".pdf")


def _check_plot(name: str) -> None:
    if not name.endswith(PLOTS):
        raise UsageError(
            f"--plot is {name!r}; accepted: a file name that ends in {', '.join(PLOTS)}"
        )


def parse(given: tuple[str, ...]) -> list[tuple[str, int]]:
    """Return (name, severity) for each NAME[:SEVERITY], without repetitions.

    Raises:
        UsageError: another name or severity.

    Example:
        >>> parse(("contrast:2", "pixelate"))
        [('contrast', 2), ('pixelate', 1), ('pixelate', 2), ('pixelate', 3), ...
    """
    found: list[tuple[str, int]] = []
    for word in given:
        name, colon, severity = word.partition(":")
        if name == "none":
            raise UsageError(
                "--corruptions has 'none'; leave the option out: then the accuracy on clean images "
                "is measured, and with the paper's two corruptions (--pixels, --sigma)"
            )
        if name not in (ALL, *NAMES):
            hint = did_you_mean(name, NAMES) or ";"
            raise UsageError(f"--corruptions has {name!r}{hint} accepted: all, {', '.join(NAMES)}")
        if colon and severity not in SEVERITIES:
            raise UsageError(f"--corruptions has {word!r}; accepted: {name}:1 to {name}:5")
        for each in NAMES if name == ALL else (name,):
            found += [(each, int(s)) for s in ((severity,) if colon else SEVERITIES)]
    return list(dict.fromkeys(found))


@dataclasses.dataclass(frozen=True, kw_only=True)
class CorruptionOptions:
    """How test images are corrupted."""

    HEADING: ClassVar[str] = "corruptions"

    sigma: tuple[float, ...] = option(
        (10.0,),
        type=NonNegativeFloat,
        nargs="+",
        metavar="SIGMA",
        help="Standard deviations of the Gaussian noise, in grey levels.",
    )
    pixels: tuple[int, ...] = option(
        (50,),
        type=NonNegativeInt,
        nargs="+",
        metavar="N",
        help="Numbers of pixels set to 0 in each image.",
    )
    corruptions: tuple[str, ...] | None = option(
        None,
        nargs="+",
        metavar="NAME[:SEVERITY]",
        help="Corruptions of CIFAR-10-C besides, all severities 1 to 5 or the one that is given: "
        f"{', '.join(NAMES)}, or all.",
        check=parse,
    )
    plot: str | None = option(
        None,
        metavar="FILE",
        help="Also draw the accuracies over the strengths (.png, .svg, .pdf).",
        check=_check_plot,
    )

    def corrupted(self) -> bool:
        """Whether one of these options asks for more than the paper's two corruptions."""
        return any(
            getattr(self, field.name) != field.default
            for field in dataclasses.fields(CorruptionOptions)
        )

    def others(self) -> list[Condition]:
        """What is measured besides the first σ and the first number of pixels."""
        from sign_ext.evaluation import Condition

        pixels = [Condition("pixels_off", n) for n in dict.fromkeys(self.pixels)]
        sigmas = [Condition("noise", sigma) for sigma in dict.fromkeys(self.sigma)]
        named = [Condition(name, severity) for name, severity in parse(self.corruptions or ())]
        return [*pixels[1:], *sigmas[1:], *named]


def refuse_corruptions(options: CorruptionOptions) -> None:
    """Raise UsageError for an aleatoric network, which is measured otherwise."""
    if options.corrupted():
        raise UsageError(
            "--sigma, --pixels, --corruptions and --plot are for networks whose outputs are "
            "logits, and this one is aleatoric: its accuracy and confidence are measured"
        )


def measure(
    options: CorruptionOptions, model: nn.Module, part: ImageSet, **settings: Any
) -> list[CorruptedAccuracy]:
    """Measure `CorruptionOptions.others`, with a progress bar.

    Args:
        options: of the command.
        model: the network.
        part: the images.
        **settings: of `evaluate_corrupted`.
    """
    from sign_ext.evaluation import evaluate_corrupted

    conditions = options.others()
    if not conditions:
        return []
    with console.progress("corrupting") as report:
        return evaluate_corrupted(model, part, conditions, progress=report, **settings)


def check_conditions(options: CorruptionOptions, part: ImageSet) -> None:
    """Raise UsageError for a strength that these images cannot have, before any work is done."""
    from sign_ext.evaluation import Condition

    every = [Condition("pixels_off", options.pixels[0]), *options.others()]
    try:
        for condition in every:
            condition.check(tuple(part.images.shape[1:]))
    except ValueError as error:
        name = "--pixels" if condition.name == "pixels_off" else "--corruptions"
        raise UsageError(f"{name}: {error}") from error


def with_first(
    options: CorruptionOptions, result: Evaluation, others: list[CorruptedAccuracy]
) -> list[CorruptedAccuracy]:
    """Put the first number of pixels and the first σ, which `evaluate` measured, in front."""
    from sign_ext.evaluation import Condition, CorruptedAccuracy

    pixels = Condition("pixels_off", options.pixels[0])
    noise = Condition("noise", options.sigma[0])
    return [
        CorruptedAccuracy(pixels, result.pixels_off_mean, result.pixels_off_std, result.draws),
        CorruptedAccuracy(noise, result.noise_mean, result.noise_std, result.draws),
        *others,
    ]


def as_json(found: list[CorruptedAccuracy]) -> list[dict[str, Any]]:
    """The results for --json."""
    return [
        {
            **dataclasses.asdict(each.condition),
            "mean": each.mean,
            "std": each.std,
            "draws": each.draws,
        }
        for each in found
    ]


def write_plot(options: CorruptionOptions, clean: float, found: list[CorruptedAccuracy]) -> None:
    """Draw --plot, whole or not at all."""
    if options.plot is None:
        return
    from sign_ext.files import write_whole
    from sign_ext.report.corruption_plot import corruption_plot
    from sign_ext.report.show_figure import figure_file

    path = Path(options.plot)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, figure_file(corruption_plot(clean, found), path))
    console.say(f"plot: {path}")
