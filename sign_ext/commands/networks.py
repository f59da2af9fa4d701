"""The network that a command uses: named by --model, or read from --checkpoint."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from sign_ext.commands import console
from sign_ext.commands.console import UsageError
from sign_ext.commands.names import check_network_name, parse_name
from sign_ext.commands.options import OutputOptions, PositiveInt, option, seed_option
from sign_ext.formatting import did_you_mean

if TYPE_CHECKING:
    import torch
    from torch import nn

    from sign_ext.models.network_name import NetworkName

MODEL_HELP = (
    "basic_cnn (the paper's small network), mobilenet_v2, inception_resnet_v2, nasnet_mobile; "
    "timm:NAME, torchvision:NAME, or hf:FOLDER (Hugging Face's save_pretrained); or your own, "
    "MODULE:FUNCTION or FILE.py:FUNCTION, a function that returns a torch.nn.Module."
)
WEIGHTS_HELP = (
    "Weights of --model: a .safetensors, .pth, .pt, .ckpt or .bin file, or pretrained for those "
    "that timm or torchvision has for it."
)
NORMALIZE_HELP = (
    "What --model does first to images of 0–255: auto (what its weights or its library record), "
    "none, imagenet, or MEAN STD with a value a channel, of pixels in 0–1 "
    "(0.485,0.456,0.406 0.229,0.224,0.225) or in 0–255."
)
NORMALIZATIONS = ("auto", "none", "imagenet")
# Files of weights that say nothing about their network.
BARE = (".pth", ".pt", ".ckpt", ".bin")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelOptions(OutputOptions):
    """How a network named by --model is built."""

    HEADING: ClassVar[str] = "network"

    model_options: Mapping[str, Any] | None = option(
        None,
        type=dict[str, Any],
        help="Options of the network, as --model-options.NAME VALUE, e.g. dropout or stride.",
        metavar="{NAME: VALUE}",
    )
    weights: str | None = option(None, help=WEIGHTS_HELP, metavar="FILE")
    normalize: tuple[str, ...] = option(
        ("auto",), nargs="+", help=NORMALIZE_HELP, metavar="auto|none|imagenet|MEAN STD"
    )
    seed: int = seed_option("new weights")

    def check(self) -> None:
        """Check --normalize, and that the file of --weights exists."""
        super().check()
        normalization(self)
        if self.weights not in (None, "pretrained"):
            _check_weights_file(str(self.weights))


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkOptions(ModelOptions):
    """A network that is used as it is."""

    HEADING: ClassVar[str] = ModelOptions.HEADING

    checkpoint: str | None = option(
        None,
        help="A network that `sign-ext train` made: its model.safetensors, or the folder it is "
        "in. For any other give --model.",
        metavar="FILE",
    )
    model: str | None = option(
        None,
        help=f"The network's name, in place of --checkpoint: {MODEL_HELP}",
        metavar="NAME",
        check=check_network_name,
    )
    num_classes: int | None = option(
        None,
        type=PositiveInt,
        help="Number of classes of --model. Default: as many as its weights have.",
        metavar="N",
    )
    image_size: int | None = option(
        None, type=PositiveInt, help="Height and width in pixels. Default: the network's."
    )

    def given(self) -> bool:
        """Return whether any of these options was given."""
        others = {"seed", *(field.name for field in dataclasses.fields(OutputOptions))}
        own = [each for each in dataclasses.fields(NetworkOptions) if each.name not in others]
        return any(getattr(self, field.name) != field.default for field in own)

    def has_random_weights(self) -> bool:
        """Return whether the network gets new weights.

        hf: loads those in its folder, and the function of a user may load some itself.
        """
        if self.model is None or self.weights is not None:
            return False
        return parse_name(self.model).kind in ("sign_ext", "timm", "torchvision")

    def check(self) -> None:
        """Raise UsageError unless the options name one network, before any work is done."""
        super().check()
        if self.checkpoint is None and self.model is None:
            raise UsageError("--checkpoint is required, or --model (with --weights)")
        if self.checkpoint is None:
            return
        if self.checkpoint.endswith(BARE):
            model = self.model or "NAME (timm:resnet50, for example)"
            raise UsageError(
                f"--checkpoint {self.checkpoint}: such a file does not say which network its "
                f"weights belong to; name both: --model {model} --weights {self.checkpoint}"
            )
        for name in ("model_options", "weights", "normalize", "num_classes"):
            if getattr(self, name) not in (None, ("auto",)):
                raise UsageError(
                    f"--{name.replace('_', '-')} goes with --model; the network in --checkpoint "
                    f"{self.checkpoint} is read as it was trained"
                )


def read_network(
    options: NetworkOptions,
    device: torch.device,
    *,
    trained: bool = True,
    image_shape: tuple[int, ...] | None = None,
    say: Callable[[str], None] = console.say,
) -> tuple[nn.Module, dict[str, Any]]:
    """Open the network that the options name, and print what was understood.

    Args:
        options: the command's options.
        device: to put the network on.
        trained: whether its results matter; if not, a function of the user's needs no --normalize.
        image_shape: (C, H, W) of its images, in place of --image-size.
        say: prints a line.

    Returns:
        The network in eval mode, which takes images in pixel units 0–255; and its configuration:
        that of the checkpoint, or what `open_network` returns.

    Raises:
        UsageError: the options name no network, or several, or one that cannot be built.
        ValueError: the weights do not belong to the network, or the checkpoint is damaged.
        OSError: a file cannot be read.
        RuntimeError: the user's code fails.
    """
    if options.checkpoint is not None:
        return _read_checkpoint(options, options.checkpoint, device)
    name = parse_name(str(options.model))
    given: dict[str, Any] = {
        "image_shape": image_shape or options.image_size,
        "num_classes": options.num_classes,
    }
    if name.is_code and not trained and options.normalize == ("auto",):
        given["normalize"] = "none"
    model, config = build_network(options, name, say=say, **given)
    return model.to(device).eval(), config


def build_network(
    options: ModelOptions, name: NetworkName, *, say: Callable[[str], None], **arguments: Any
) -> tuple[nn.Module, dict[str, Any]]:
    """Call `open_network` with a command's options, and print what was understood.

    Args:
        options: the command's options.
        name: of the network.
        say: prints a line.
        **arguments: further arguments of `open_network`.

    Raises:
        UsageError: the options do not fit the network.
        ValueError: the file of weights does not.
    """
    import torch

    from sign_ext.models import open_network

    torch.manual_seed(options.seed)
    given = {
        "weights": options.weights,
        "options": dict(options.model_options or {}),
        "normalize": normalization(options),
        **arguments,
    }
    try:
        model, config = open_network(str(name), say=say, **given)
    except ValueError as error:
        if options.weights not in (None, "pretrained") and str(options.weights) in str(error):
            raise
        raise UsageError(str(error)) from error
    spec = config["model"]
    shape = "×".join(map(str, spec["image_shape"]))
    recorded = given["image_shape"] is None and name.kind != "sign_ext"
    say(
        f"network: {name}, {spec['num_classes']} classes, images of {shape}"
        + (
            ", as recorded for it; files are resized to that, --image-size N for another size"
            if recorded
            else ""
        )
    )
    return model, config


def _read_checkpoint(
    options: NetworkOptions, path: str, device: torch.device
) -> tuple[nn.Module, dict[str, Any]]:
    """Rebuild the network in a checkpoint; --model is for those that the user's code builds."""
    from sign_ext.training import load_checkpoint
    from sign_ext.training.checkpoints import recorded_name

    if options.model is not None and not parse_name(name := recorded_name(path)).is_code:
        raise UsageError(
            f"--checkpoint {path} holds the network {name}, which is rebuilt from it: leave out "
            "--model, or give --model and --weights without --checkpoint"
        )
    return load_checkpoint(path, device, model=options.model)


def network_as_json(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what --json and a store's manifest say about a network.

    Args:
        config: the network's configuration, as `read_network` returns it.
    """
    weights = {"weights": config["weights"]} if "weights" in config else {}
    # transformers' whole configuration is long, and says little that the rest does not.
    model = {key: value for key, value in config["model"].items() if key != "hf_config"}
    return {**model, **weights}


def recorded_size(name: NetworkName) -> int | None:
    """Return the height and width that a library records for a network, if they are equal.

    Raises:
        UsageError: the library has no such network.
    """
    from sign_ext.models.records import record_of

    try:
        shape = record_of(name).image_shape
    except ValueError as error:
        raise UsageError(f"--model: {error}") from error
    return shape[1] if shape is not None and shape[1] == shape[2] else None


def ignore(line: str) -> None:
    """Print nothing, where another process prints it."""


def normalization(options: ModelOptions) -> str | tuple[tuple[float, ...], tuple[float, ...]]:
    """Return --normalize as `open_network` takes it: a name, or mean and standard deviation.

    Raises:
        UsageError: it is neither.
    """
    words = options.normalize
    if len(words) == 1 and words[0] in NORMALIZATIONS:
        return words[0]
    try:
        mean, std = (tuple(float(value) for value in word.split(",")) for word in words)
    except ValueError:
        raise UsageError(
            f"--normalize is {' '.join(words)!r}; accepted: {', '.join(NORMALIZATIONS)}, or MEAN "
            "STD with a value a channel each, such as --normalize 0.485,0.456,0.406 "
            "0.229,0.224,0.225"
        ) from None
    return mean, std


def _check_weights_file(name: str) -> None:
    """Raise UsageError, suggesting a file beside it, unless there is a file of this name."""
    path = Path(name)
    if path.exists():
        return
    try:
        beside = sorted(str(path.with_name(each.name)) for each in path.parent.iterdir())
    except (OSError, ValueError):
        beside = []
    hint = did_you_mean(name, ["pretrained", *beside]) or ";"
    raise UsageError(f"--weights is {name!r}{hint} accepted: an existing file, or pretrained")


def called(options: NetworkOptions) -> str:
    """Return what a message calls the network."""
    if options.checkpoint is None:
        return f"the network {options.model}"
    return f"the network in {options.checkpoint}"
