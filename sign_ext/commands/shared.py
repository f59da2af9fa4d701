"""What several commands share: options, devices, folders, data sets, checkpoints, networks."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from sign_ext.commands import console
from sign_ext.commands.console import UsageError
from sign_ext.commands.names import check_data_name
from sign_ext.commands.options import (
    CommonOptions,
    OutputOptions,
    PositiveInt,
    option,
    sign_option,
)
from sign_ext.formatting import counted, did_you_mean

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from sign_ext.data import Splits
    from sign_ext.data.listing import DataSummary
    from sign_ext.store import AttackIteration


SHOWN = 20  # lines about single images, or labels, that are printed

DATA_HELP = (
    "digits (bundled), drawings (generated), cifar10 or isic2017 (their files in --data-root), "
    "digits_imbalanced (bundled, in place of isic2017), or a path: a folder with one sub-folder "
    "per class, also inside train/, val/ and test/; WebDataset .tar files (one, a folder of them, "
    "or photos-{000..013}.tar); or a folder that Hugging Face's save_to_disk wrote."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataOptions(CommonOptions):
    """How the files of a data set are read."""

    HEADING: ClassVar[str] = "reading the images"

    labels: str | None = option(
        None,
        help="CSV, TSV or JSON file with the classes of a folder of images.",
        metavar="FILE",
    )
    label_columns: tuple[str, ...] | None = option(
        None,
        nargs=2,
        metavar=("IMAGE", "LABEL"),
        help="Columns of --labels with the file names and the classes. Default: guessed and "
        "printed.",
    )
    bit_depth: int | None = option(
        None,
        type=Literal[12, 16],
        help="Bits that are used in images with more than 8 bits a channel, which are then scaled "
        "to 8. Default: such images are refused.",
    )
    max_pixels: int | None = option(
        None,
        type=PositiveInt,
        help="Largest number of pixels of an image. Default: Pillow's limit, 179 million.",
        metavar="N",
    )

    def reading(self) -> dict[str, Any]:
        """Return those of these options that were given, as keyword arguments of `load_data`."""
        given = {field.name: getattr(self, field.name) for field in dataclasses.fields(DataOptions)}
        common = {field.name for field in dataclasses.fields(CommonOptions)}
        return {k: v for k, v in given.items() if v is not None and k not in common}


def on_error_option(what: str = "leave it out and list it") -> Any:
    """Declare --on-error.

    Args:
        what: what skip does, for the help.
    """
    return option(
        "fail",
        type=Literal["fail", "skip"],
        help=f"On an unreadable image: end the run, or {what}.",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SignOptions:
    """The options of Algorithm 1 except steps and step size, named as in `iterative_sign`."""

    HEADING: ClassVar[str] = "SIGN"

    momentum: float = sign_option("momentum", type=float)
    linearize_at: str = sign_option("linearize_at")
    layer: str | None = sign_option("layer", metavar="NAME")
    clamp: tuple[float, ...] | None = sign_option(
        "clamp", type=float, nargs=2, metavar=("LO", "HI")
    )
    batch_size: int | None = sign_option("batch_size", type=PositiveInt)
    backend: str = sign_option("backend")
    precision: str = sign_option("precision")

    def sign_settings(self, model: nn.Module | None = None) -> dict[str, Any]:
        """Return these options as keyword arguments of `SignTransform`.

        Args:
            model: whose layer --layer names; None to leave the name as it is.
        """
        settings = {
            field.name: getattr(self, field.name) for field in dataclasses.fields(SignOptions)
        }
        settings["layer"] = layer_in(model, self.layer)
        if self.clamp is not None:
            low, high = self.clamp
            settings["clamp"] = (
                None if low == float("-inf") else low,
                None if high == float("inf") else high,
            )
        return settings


LAST_LAYERS = 5  # that a message lists: Φ is near the end of a network


def layer_in(model: nn.Module | None, layer: str | None) -> str | None:
    """Return the name of a layer in a network behind its normalisation.

    Args:
        model: a network of `open_network`, whose module ``network`` is somebody's own.
        layer: a name in `model`, or in that network.

    Raises:
        UsageError: neither has such a module; the closest name and the last ones are given.
    """
    if model is None or layer is None:
        return layer
    names = [name for name, _ in model.named_modules() if name]
    inside = f"network.{layer}"
    if layer in names or inside in names:
        return layer if layer in names else inside
    own = [name.removeprefix("network.") for name in names]
    hint = did_you_mean(layer, own) or ";"
    last = ", ".join(own[-LAST_LAYERS:])
    raise UsageError(
        f"--layer {layer!r} is not a module of the network{hint} the last of its "
        f"{counted(len(own), 'module')} are {last}"
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoreOptions(OutputOptions):
    """A store of transformed images."""

    store: str = option(
        positional=True, help="Folder that `sign-ext transform` wrote.", metavar="STORE"
    )


PIXEL_RANGE = 255.0  # grey levels


def check_epsilon(flag: str, epsilon: float, norm: str = "linf") -> None:
    """Raise UsageError if a radius around an image holds every other image.

    Args:
        flag: the option.
        epsilon: the radius, in grey levels, above 0.
        norm: linf or l2; how far images are apart in l2 depends on their size.
    """
    if norm == "linf" and epsilon >= PIXEL_RANGE:
        raise UsageError(
            f"{flag} is {epsilon:g} grey levels, and pixels are 0 to 255: within that of an image "
            "is every other image; accepted: below 255, and usual are 1 to 16"
        )


def reporting_steps(
    report: Callable[[int, int], None], attack: AttackIteration, positions: Tensor, images: int
) -> Callable[[int, int], None]:
    """Return how an attack on some images of a data set reports its steps as part of the whole.

    Args:
        report: called with (image-steps done, total) of the whole data set.
        attack: that is run.
        positions: int64 (n,), of the images in the data set, ascending.
        images: in the data set.
    """
    first, steps = int(positions[0]), attack.image_steps
    part = (int(positions[-1]) + 1 - first) * steps

    def of_part(done: int, total: int) -> None:
        # Fewer where some images are left as they are, or cannot be read.
        report(first * steps + part * done // total, images * steps)

    return of_part


def resolve_device(name: str) -> torch.device:
    """Turn auto, cpu, cuda or cuda:INDEX into an available device.

    Raises:
        UsageError: there is no such device.
    """
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda" if count else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"--device is {name!r}; accepted: auto, cpu, cuda, cuda:INDEX")
    if device.type == "cuda" and (device.index or 0) >= count:
        usable = f"cuda:0 … cuda:{count - 1}" if count else "no CUDA device is usable here, use cpu"
        raise UsageError(f"--device is {name!r}; {usable}")
    return device


def own_device(name: str) -> str:
    """Choose the GPU of this process by the launcher's LOCAL_RANK."""
    import torch

    local = os.environ.get("LOCAL_RANK")
    if name in ("auto", "cuda") and local is not None and torch.cuda.is_available():
        return f"cuda:{local}"
    return name


def require_one_process(command: str) -> None:
    """Raise UsageError if a command that cannot share its work runs in several processes.

    Args:
        command: its name.

    Raises:
        UsageError: the launcher started several processes.
    """
    world = os.environ.get("WORLD_SIZE", "1")
    if world != "1":
        raise UsageError(
            f"`sign-ext {command}` runs in one process, and WORLD_SIZE is {world}: start it "
            "without torchrun; only `sign-ext transform` and `sign-ext train` share their work"
        )


def check_folder(out: str) -> Path:
    """Create the output folder, and check that it is writable before any work is done.

    Raises:
        OSError: it is not.
    """
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".sign-ext-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OSError(
            f"--out {folder} cannot be written ({error.strerror}); give another folder"
        ) from error
    return folder


def read_data(
    options: Any,
    name: str,
    check: Callable[[tuple[str, ...]], None] | None = None,
    **sizes: Any,
) -> Splits:
    """Load the splits of a data set with a command's --data-root, --seed and --on-error.

    What was found is printed before an image is decoded, and what was skipped afterwards.

    Args:
        options: the command's options.
        name: of the data set.
        check: called with the class names before an image is decoded; it raises if they are wrong.
        **sizes: arguments of `find_data`.

    Raises:
        UsageError: `name` is neither a data set nor a path.
        ValueError: images that cannot be read, unless they are skipped; the message lists them.
    """
    from sign_ext.data import UnreadableImages
    from sign_ext.data.load import find_data

    check_data_name(name)
    sizes = {**options.reading(), **sizes}
    data = find_data(name, options.data_root, seed=options.seed, **sizes)
    say_found(data.summary())
    if check is not None:
        check(data.class_names)
    try:
        splits = data.read(options.on_error)
    except UnreadableImages as error:
        advice = "Or leave such images out: --on-error skip"
        raise UnreadableImages(error.images, advice) from error
    say_converted(splits.summary)
    say_skipped(splits)
    return splits


def say_found(summary: DataSummary) -> None:
    """Print what a data set holds: its note, its classes, and which parts are cut out of others."""
    for line in summary.lines():
        console.say(line)


def say_converted(summary: DataSummary) -> None:
    """Print how many of the images that were read lost something, if any did."""
    if words := summary.converted_in_words():
        console.say(words)


def say_skipped(splits: Splits) -> None:
    """Print which images were skipped, the first ones if there are many."""
    skipped = splits.skipped
    for image in skipped[:SHOWN]:
        console.say(f"skipped: {' '.join(image.why.split())}")
    if skipped:
        more = f"; --json lists the other {len(skipped) - SHOWN:,}"
        console.say(
            f"left out {counted(len(skipped), 'image')} that cannot be read"
            + (more if len(skipped) > SHOWN else "")
        )


def skipped_as_json(splits: Splits) -> list[dict[str, Any]]:
    """Return the skipped images for --json."""
    return [dataclasses.asdict(image) for image in splits.skipped]
