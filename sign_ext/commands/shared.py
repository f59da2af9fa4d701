"""What several commands share: options, devices, folders, data sets, checkpoints, networks."""

from __future__ import annotations

import dataclasses
import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from sign_ext.commands import console
from sign_ext.commands.console import UsageError
from sign_ext.commands.names import check_data_name, check_name
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
    from torch import nn

    from sign_ext.data import ImageSource, Splits
    from sign_ext.data.listing import DataSummary


SHOWN = 20  # lines about single images, or labels, that are printed

DATA_HELP = (
    "digits (bundled), cifar10 or isic2017 (their files in --data-root), digits_imbalanced (stands "
    "for isic2017), or a path: a folder with one sub-folder per class, WebDataset .tar files (one, "
    "a folder of them, or photos-{000..013}.tar), or a folder that Hugging Face's save_to_disk "
    "wrote."
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointOptions(DataOptions):
    """A trained network, and the data to use it on."""

    checkpoint: str = option(
        help="model.safetensors that `sign-ext train` wrote, or the folder it is in.",
        metavar="FILE",
    )
    data: str | None = option(
        None,
        help=DATA_HELP + " Default: what the network was trained on.",
        metavar="NAME",
        check=check_data_name,
    )
    image_size: int | None = option(
        None, type=PositiveInt, help="Height and width in pixels. Default: the network's."
    )
    same_classes: bool = option(
        False,
        type=bool,
        help="Match the network's classes by their order, although their names differ.",
    )


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
class StoreOptions(OutputOptions):
    """A store of transformed images."""

    store: str = option(
        positional=True, help="Folder that `sign-ext transform` wrote.", metavar="STORE"
    )


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


def read_checkpoint(path: str, device: torch.device) -> tuple[nn.Module, dict[str, Any]]:
    """Load a network and its configuration."""
    from sign_ext.training import load_checkpoint

    return load_checkpoint(path, device)


def checkpoint_data(
    options: CheckpointOptions, config: dict[str, Any], **sizes: Any
) -> tuple[Splits, str]:
    """Load the data to use a checkpoint on, and check that the two fit.

    Args:
        options: the command's options.
        config: the checkpoint's configuration.
        **sizes: train_size or test_size for `load_data`.

    Returns:
        The splits, with the labels and class names of the network, and the data set's name.

    Raises:
        UsageError: no data set is named, here or in the checkpoint.
        ValueError: image shape or classes differ from the network's.
    """
    name, size = _wanted_data(options, config)

    def check(class_names: tuple[str, ...]) -> None:
        _check_classes(options, config, name, class_names)

    sizes = {"image_size": size, **_reading(options, config), **sizes}
    splits = read_data(options, name, check, **sizes)
    return _with_network_classes(options, config, name, splits), name


def checkpoint_source(
    options: CheckpointOptions, config: dict[str, Any], split: str, **sizes: Any
) -> ImageSource:
    """Open the data to use a checkpoint on, without decoding images yet.

    Args:
        options: the command's options.
        config: the checkpoint's configuration.
        split: train, validation, test or all.
        **sizes: train_size or test_size for `open_data`.

    Raises:
        UsageError: no data set is named, here or in the checkpoint.
        ValueError: the classes differ from the network's.
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
    """Return the data set and image size: those asked for, or those of the network's training."""
    name = options.data or _trained_on(options, config)
    if name is None:
        raise UsageError("the checkpoint does not name its training data: give --data")
    _, height, width = config["model"]["image_shape"]
    return name, options.image_size or (height if height == width else None)


def _reading(options: CheckpointOptions, config: dict[str, Any]) -> dict[str, Any]:
    """How to read the files: as asked for or, of the same data, as in training."""
    trained = {} if options.data else config.get("data", {}).get("reading", {})
    return {**trained, **options.reading()}


def _trained_on(options: CheckpointOptions, config: dict[str, Any]) -> str | None:
    """Return the name of the data set that a checkpoint was trained on; None if it has none."""
    data = config.get("data")
    name = data.get("name") if isinstance(data, dict) else data
    if name is not None and not (isinstance(name, str) and isinstance(data, dict)):
        raise ValueError(
            f"the configuration in {options.checkpoint}: data.name is {name!r}; accepted: the name "
            "of a data set. Give --data"
        )
    return name


def _check_classes(
    options: CheckpointOptions, config: dict[str, Any], name: str, class_names: tuple[str, ...]
) -> None:
    """Raise ValueError unless the classes of a data set are all among the network's."""
    from sign_ext.data.classes import match_classes
    from sign_ext.training.checkpoints import class_names_of

    count, known = config["model"]["num_classes"], class_names_of(config)
    network = f"the network in {options.checkpoint}"
    if known is not None and not options.same_classes:
        try:
            match_classes(class_names, known, (name, network))
        except ValueError as error:
            same = len(class_names) == count
            cure = ", or pass --same-classes if each label means the same in both" if same else ""
            raise ValueError(
                f"{error}. {name} has {counted(len(class_names), 'class', 'classes')}, {network} "
                f"{count}: use the data set it was trained on, or train another network{cure}"
            ) from error
        return
    if len(class_names) != count:
        raise ValueError(
            f"{name} has {counted(len(class_names), 'class', 'classes')}, {network} {count}: use "
            "the data set it was trained on, or train another network"
        )
    if known is None:
        console.say(
            f"{options.checkpoint} does not name its classes: those of {name} are taken for them, "
            "in order"
        )


def _with_network_classes(
    options: CheckpointOptions, config: dict[str, Any], name: str, splits: Splits
) -> Splits:
    """Give images, whose classes were checked, a network's labels; print how they change."""
    import torch

    from sign_ext.data import ImageSet
    from sign_ext.data.classes import match_classes
    from sign_ext.training.checkpoints import class_names_of

    found, known = splits.class_names, class_names_of(config)
    if known is None or known == found:
        return splits
    labels = None if options.same_classes else match_classes(found, known, (name, "the network"))
    if labels is not None:
        changed = [
            f"{a} {old} → {labels[old]}" for old, a in enumerate(found) if labels[old] != old
        ]
        shown = changed[:SHOWN] + ["…"] * (len(changed) > SHOWN)
        console.say(
            f"{name} has other labels than the network for the same classes: they are changed to "
            f"the network's ({', '.join(shown) or 'it lacks the last classes'})"
        )

    def converted(part: ImageSet) -> ImageSet:
        own = part.labels if labels is None else torch.from_numpy(labels)[part.labels]
        return ImageSet(part.images, own, known, part.name)

    return dataclasses.replace(
        splits,
        train=converted(splits.train),
        validation=converted(splits.validation),
        test=converted(splits.test),
    )


def is_own(name: str) -> bool:
    """Whether a name is MODULE:FUNCTION, a user's own network."""
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
        check_name("--model", name, MODEL_NAMES)
    except UsageError as error:
        raise UsageError(f"{error}, or MODULE:FUNCTION of your own") from None


def own_network(name: str) -> nn.Module:
    """Import MODULE from the current folder or an installed package, and call its FUNCTION.

    Args:
        name: "module:function"; the function takes no arguments and returns a torch.nn.Module.

    Raises:
        UsageError: the module or function does not exist, or returns something else.
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
    found = module
    for part in function.split("."):
        if not hasattr(found, part):
            hint = did_you_mean(part, dir(found))
            raise UsageError(f"--model {name}: {module.__name__} has no {function!r}{hint}")
        found = getattr(found, part)
    return found
