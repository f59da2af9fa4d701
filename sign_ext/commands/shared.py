"""What several commands do in the same way: options they share, devices, data, folders."""

from __future__ import annotations

import dataclasses
import importlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jsonargparse.typing import PositiveInt

from sign_ext.commands import console
from sign_ext.commands.console import UsageError
from sign_ext.commands.options import CommonOptions, option

if TYPE_CHECKING:
    import torch
    from torch import nn

    from sign_ext.data import ImageSet, ImageSource, Splits
    from sign_ext.data.summary import DataSummary


DATA_HELP = (
    "digits, digits_imbalanced (stands for isic2017), cifar10 or isic2017 (both need --data-root), "
    "or a path: a folder with one sub-folder a class, .tar files in WebDataset's manner (one, a "
    "folder of them, or photos-{000..013}.tar), or a folder that Hugging Face's save_to_disk wrote."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataOptions(CommonOptions):
    """How the files of a data set are read."""

    labels: str | None = option(
        None,
        help="CSV, TSV or JSON file with the classes of a folder of images.",
        metavar="FILE",
    )
    label_columns: tuple[str, ...] | None = option(
        None,
        nargs=2,
        metavar=("IMAGE", "LABEL"),
        help="Columns of --labels: the file names' and the classes'. Default: guessed, and told.",
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointOptions(DataOptions):
    """A trained network, and the data to use it on."""

    checkpoint: str = option(
        help="model.safetensors that `sign-ext train` wrote, or the folder it is in.",
        metavar="FILE",
    )
    data: str | None = option(
        None, help=DATA_HELP + " Default: what the network was trained on.", metavar="NAME"
    )
    image_size: int | None = option(
        None, type=PositiveInt, help="Height and width in pixels. Default: the network's."
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SignOptions:
    """The options of Algorithm 1 that are not its step size; names as in `iterative_sign`."""

    momentum: float = option(
        0.0, type=float, help="μ of v ← μv + δ, p ← p + step·v; 0 is the paper's Algorithm 1."
    )
    linearize_at: str = option(
        "iterate",
        type=Literal["iterate", "input"],
        help="Where δ is taken: at each iterate, or once at the original image.",
    )
    layer: str | None = option(
        None,
        help="Module whose output is Φ. Default: the input of the final classifier layer.",
        metavar="NAME",
    )
    clamp: tuple[float, ...] | None = option(
        None,
        type=float,
        nargs=2,
        metavar=("LO", "HI"),
        help="Keep pixels in this range (grey levels; -inf or inf: no bound). Default: no clamp.",
    )
    batch_size: int | None = option(
        None,
        type=PositiveInt,
        help="Images worked on at once; does not change the result. Default: 128 on a CPU, on a "
        "GPU what fills it and fits by the memory plan.",
    )
    backend: str = option(
        "auto",
        help="auto, onchip, fused, graphed or autograd; `sign-ext info` says which can run here.",
    )
    precision: str = option("float32", help="Arithmetic of the network: float32, tf32 or bfloat16.")

    def sign_settings(self) -> dict[str, Any]:
        """Return these options as keyword arguments of `SignTransform`."""
        settings = {
            field.name: getattr(self, field.name) for field in dataclasses.fields(SignOptions)
        }
        if self.clamp is not None:
            low, high = self.clamp
            settings["clamp"] = (
                None if low == float("-inf") else low,
                None if high == float("inf") else high,
            )
        return settings


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoreOptions(CommonOptions):
    """A store of transformed images."""

    store: str = option(
        positional=True, help="Folder that `sign-ext transform` wrote.", metavar="STORE"
    )


def resolve_device(name: str) -> torch.device:
    """Turn auto, cpu, cuda or cuda:INDEX into a device that is there.

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
        there = f"cuda:0 … cuda:{count - 1}" if count else "no CUDA device is usable here, use cpu"
        raise UsageError(f"--device is {name!r}; {there}")
    return device


def check_name(argument: str, given: str, accepted: tuple[str, ...]) -> None:
    """Raise UsageError, naming the closest one, unless `given` is among `accepted`."""
    if given in accepted:
        return
    import difflib

    close = difflib.get_close_matches(given, accepted, n=1)
    hint = f", did you mean {close[0]!r}?" if close else ""
    raise UsageError(f"--{argument} is {given!r}{hint} accepted: {', '.join(accepted)}")


def check_folder(out: str) -> Path:
    """Make the output folder and see that files can be written there, before any work is done.

    Raises:
        OSError: they cannot.
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


def check_data_name(name: str) -> None:
    """Raise UsageError unless `name` is a data set's, a folder, or called like a tar."""
    from sign_ext.data import DATA_NAMES, OOD_NAMES
    from sign_ext.data.load import is_path

    known = ", ".join(DATA_NAMES)
    if name in OOD_NAMES:
        raise UsageError(
            f"--data is {name!r}, a test set for `sign-ext reproduce table3`, not a training set; "
            f"accepted: {known}, or a folder or tar that is there"
        )
    if name not in DATA_NAMES and not is_path(name):
        raise UsageError(f"--data is {name!r}; accepted: {known}, or a folder or tar that is there")


def read_data(options: Any, name: str, **sizes: Any) -> Splits:
    """Load the splits of the data set called `name` with a command's root and seed.

    What was found is printed before an image is decoded.

    Raises:
        UsageError: neither a known name nor a folder.
    """
    from sign_ext.data.load import find_data

    check_data_name(name)
    sizes = {**options.reading(), **sizes}
    data = find_data(name, options.data_root, seed=options.seed, **sizes)
    say_found(data.summary())
    splits = data.read()
    say_converted(splits.summary)
    return splits


def say_found(summary: DataSummary) -> None:
    """Print what a data set holds: its note, its classes, and which parts are cut out of others."""
    for line in summary.lines():
        console.say(line)


def say_converted(summary: DataSummary) -> None:
    """Print how many of the images that were read lost something, if any did."""
    if words := summary.converted_in_words():
        console.say(words)


def read_checkpoint(path: str, device: torch.device) -> tuple[nn.Module, dict[str, Any]]:
    """Load a network and its configuration."""
    from sign_ext.training import load_checkpoint

    return load_checkpoint(path, device)


def checkpoint_data(
    options: CheckpointOptions, config: dict[str, Any], **sizes: Any
) -> tuple[Splits, str]:
    """Load the data a checkpoint is to be used on, and see that the two fit.

    Args:
        options: the command's options.
        config: the checkpoint's configuration.
        **sizes: train_size or test_size for `load_data`.

    Returns:
        The splits and the data set's name.

    Raises:
        UsageError: no data set is named, here or in the checkpoint.
        ValueError: image shape or number of classes differ from the network's.
    """
    name, size = _wanted_data(options, config)
    splits = read_data(options, name, image_size=size, **_reading(options, config), **sizes)
    _check_classes(options, config, name, splits.class_names)
    return splits, name


def checkpoint_source(
    options: CheckpointOptions, config: dict[str, Any], split: str, **sizes: Any
) -> ImageSource:
    """Open the data a checkpoint is to be used on, to be read piece by piece.

    Args:
        options: the command's options.
        config: the checkpoint's configuration.
        split: train, validation, test or all.
        **sizes: train_size or test_size for `open_data`.

    Raises:
        UsageError: no data set is named, here or in the checkpoint.
        ValueError: the number of classes differs from the network's.
    """
    from sign_ext.data import open_data

    name, size = _wanted_data(options, config)
    check_data_name(name)
    source = open_data(
        name,
        options.data_root,
        split=split,
        seed=options.seed,
        image_size=size,
        **_reading(options, config),
        **sizes,
    )
    _check_classes(options, config, name, source.class_names)
    return source


def _wanted_data(options: CheckpointOptions, config: dict[str, Any]) -> tuple[str, int | None]:
    """The data set's name and the images' size, as asked for or as the network was trained."""
    name = options.data or config.get("data", {}).get("name")
    if name is None:
        raise UsageError("the checkpoint does not say what it was trained on: give --data")
    _, height, width = config["model"]["image_shape"]
    return name, options.image_size or (height if height == width else None)


def _reading(options: CheckpointOptions, config: dict[str, Any]) -> dict[str, Any]:
    """How to read the files: as asked for or, of the same data, as in training."""
    trained = {} if options.data else config.get("data", {}).get("reading", {})
    return {**trained, **options.reading()}


def _check_classes(
    options: CheckpointOptions, config: dict[str, Any], name: str, there: tuple[str, ...]
) -> None:
    classes = config["model"]["num_classes"]
    if len(there) != classes:
        raise ValueError(
            f"{name} has {len(there)} classes, the network in {options.checkpoint} {classes}: use "
            "the data set it was trained on, or train another network"
        )


def part_of(splits: Splits, name: str) -> ImageSet:
    """Return the split called train, validation or test, or all of them one after another."""
    if name == "all":
        from sign_ext.data import ImageSet

        parts = [splits.train, splits.validation, splits.test]
        return ImageSet.concatenate(parts, f"{splits.name}/all")
    part: ImageSet = {
        "train": splits.train,
        "validation": splits.validation,
        "test": splits.test,
    }[name]
    return part


# A network by name: one of sign_ext's, or what a user's function returns, as MODULE:FUNCTION.


def is_own(name: str) -> bool:
    """Whether a name means a user's function."""
    return ":" in name


def check_network_name(name: str) -> None:
    """Raise UsageError unless `name` is one of sign_ext's networks or MODULE:FUNCTION."""
    from sign_ext.models import MODEL_NAMES

    if is_own(name):
        module, _, function = name.partition(":")
        if not all(part.isidentifier() for part in f"{module}.{function}".split(".")):
            raise UsageError(
                f"--model is {name!r}; accepted: MODULE:FUNCTION, such as "
                "torchvision.models:mobilenet_v2"
            )
        return
    try:
        check_name("model", name, MODEL_NAMES)
    except UsageError as error:
        raise UsageError(f"{error}, or MODULE:FUNCTION of your own") from None


def own_network(name: str) -> nn.Module:
    """Import MODULE, from the current folder or from what is installed, and call its FUNCTION.

    Args:
        name: "module:function"; the function takes no arguments and returns a torch.nn.Module.

    Raises:
        UsageError: no such module or function, or what it returns is no Module.
        RuntimeError: importing the module, or calling the function, fails.
    """
    from torch import nn

    module, _, function = name.partition(":")
    build = _find(name, _import(name, module), function)
    if isinstance(build, nn.Module):
        return build
    if not callable(build):
        raise UsageError(f"--model {name}: {function} is a {type(build).__name__}, not a function")
    try:
        network = build()
    except Exception as error:
        raise RuntimeError(
            f"--model {name}: {function}(), called without arguments, failed: "
            f"{type(error).__name__}: {error}"
        ) from error
    if not isinstance(network, nn.Module):
        raise UsageError(
            f"--model {name}: {function}() returned a {type(network).__name__}; accepted: a "
            "torch.nn.Module"
        )
    return network


def _import(name: str, module: str) -> Any:
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)  # as `python` does for a script
    try:
        return importlib.import_module(module)
    except Exception as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name is not None
        if missing and f"{module}.".startswith(f"{error.name}."):  # type: ignore[attr-defined]
            raise UsageError(
                f"--model {name}: there is no module {module!r}, in this folder or installed"
            ) from error
        raise RuntimeError(
            f"--model {name}: importing {module} failed: {type(error).__name__}: {error}"
        ) from error


def _find(name: str, module: Any, function: str) -> Any:
    import difflib

    found = module
    for part in function.split("."):
        if not hasattr(found, part):
            close = difflib.get_close_matches(part, dir(found), n=3)
            hint = f"; did you mean {', '.join(close)}?" if close else ""
            raise UsageError(f"--model {name}: {module.__name__} has no {function!r}{hint}")
        found = getattr(found, part)
    return found
