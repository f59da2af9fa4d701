"""The data that a trained network is used on: which, at what size, and with whose labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sign_ext.commands import console
from sign_ext.commands.console import UsageError
from sign_ext.commands.names import check_data_name, parse_name
from sign_ext.commands.networks import NetworkOptions, called
from sign_ext.commands.options import option
from sign_ext.commands.shared import DATA_HELP, SHOWN, DataOptions, read_data

if TYPE_CHECKING:
    from sign_ext.data import ImageSource, Splits


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkDataOptions(DataOptions, NetworkOptions):
    """A trained network, and the data to use it on."""

    data: str | None = option(
        None,
        help=DATA_HELP + " Default: what the network in --checkpoint was trained on.",
        metavar="NAME",
        check=check_data_name,
    )
    same_classes: bool = option(
        False,
        type=bool,
        help="Match the network's classes by their order, although their names differ.",
    )

    def check(self) -> None:
        """Raise UsageError unless the options name one trained network, and data if need be."""
        super().check()
        if self.checkpoint is None and self.data is None:
            raise UsageError("--data is required with --model")
        if self.checkpoint is None and self.has_random_weights():
            published = "" if parse_name(str(self.model)).kind == "sign_ext" else " or pretrained"
            raise UsageError(
                f"--model {self.model} alone has random weights, and a trained network is needed: "
                f"give --weights FILE{published}"
            )


def network_data(
    options: NetworkDataOptions, config: dict[str, Any], **sizes: Any
) -> tuple[Splits, str]:
    """Load the data to use a network on, and check that the two fit.

    Args:
        options: the command's options.
        config: the network's configuration, as `read_network` returns it.
        **sizes: train_size or test_size for `load_data`.

    Returns:
        The splits, with the labels and class names of the network, and the data set's name.

    Raises:
        UsageError: no data set is named, here or in a checkpoint.
        ValueError: image shape or classes differ from the network's.
    """
    name, size = _wanted_data(options, config)
    if other := other_size(options, config):
        console.say(other)

    def check(class_names: tuple[str, ...]) -> None:
        _check_classes(options, config, name, class_names)

    sizes = {"image_size": size, **_reading(options, config), **sizes}
    splits = read_data(options, name, check, **sizes)
    return _with_network_classes(options, config, name, splits), name


def network_source(
    options: NetworkDataOptions,
    config: dict[str, Any],
    split: str,
    *,
    say: Callable[[str], None] = console.say,
    **sizes: Any,
) -> ImageSource:
    """Open the data to use a network on, without decoding images yet.

    Args:
        options: the command's options.
        config: the network's configuration, as `read_network` returns it.
        split: train, validation, test or all.
        say: prints a line, if the network does not name its classes.
        **sizes: train_size or test_size for `open_data`.

    Raises:
        UsageError: no data set is named, here or in a checkpoint.
        ValueError: the classes differ from the network's.
    """
    from sign_ext.data import open_data

    name, size = _wanted_data(options, config)
    if other := other_size(options, config):
        say(other)
    source = open_data(
        name,
        options.data_root,
        split=split,
        seed=options.seed,
        image_size=size,
        **_reading(options, config),
        **sizes,
    )
    _check_classes(options, config, name, source.class_names, say)
    return source


def other_size(options: NetworkDataOptions, config: dict[str, Any]) -> str:
    """Say that --image-size is another than the size a checkpoint was trained at, or ""."""
    _, height, width = config["model"]["image_shape"]
    size = options.image_size
    if options.checkpoint is None or size is None or (size, size) == (height, width):
        return ""
    return (
        f"{called(options)} was trained on images of {height}×{width}, and --image-size "
        f"{size} gives it {size}×{size}"
    )


def _wanted_data(options: NetworkDataOptions, config: dict[str, Any]) -> tuple[str, int | None]:
    """Return the data set and image size: those asked for, or those of the network's training."""
    name = options.data or _trained_on(options, config)
    if name is None:
        raise UsageError("the checkpoint does not name its training data: give --data")
    if options.data is None:
        try:
            check_data_name(name)
        except UsageError:
            raise UsageError(
                f"{called(options)} was trained on {name!r}, as its checkpoint records, and there "
                "is no such data set, folder or tar here: give --data"
            ) from None
    _, height, width = config["model"]["image_shape"]
    return name, options.image_size or (height if height == width else None)


def _reading(options: NetworkDataOptions, config: dict[str, Any]) -> dict[str, Any]:
    """How to read the files: as asked for or, of the same data, as in training."""
    trained = {} if options.data else config.get("data", {}).get("reading", {})
    return {**trained, **options.reading()}


def _trained_on(options: NetworkDataOptions, config: dict[str, Any]) -> str | None:
    """Return the name of the data set that a network was trained on; None if it is not known."""
    data = config.get("data")
    name = data.get("name") if isinstance(data, dict) else data
    if name is not None and not (isinstance(name, str) and isinstance(data, dict)):
        raise ValueError(
            f"the configuration in {options.checkpoint}: data.name is {name!r}; accepted: the name "
            "of a data set. Give --data"
        )
    return name


def _check_classes(
    options: NetworkDataOptions,
    config: dict[str, Any],
    name: str,
    class_names: tuple[str, ...],
    say: Callable[[str], None] = console.say,
) -> None:
    """Raise ValueError unless the classes of a data set are all among the network's."""
    from sign_ext.data.classes import match_classes
    from sign_ext.training.checkpoints import class_names_of

    count, known = config["model"]["num_classes"], class_names_of(config)
    network = called(options)
    if known is not None and not options.same_classes:
        try:
            match_classes(class_names, known, (name, network))
        except ValueError as error:
            same = len(class_names) == count
            cure = ", or pass --same-classes if each label means the same in both" if same else ""
            raise ValueError(
                f"{error}. {name} has {len(class_names)} classes, {network} {count}: use the data "
                f"set it was trained on, or {_training(options, name)}{cure}"
            ) from error
        return
    if len(class_names) != count:
        raise ValueError(
            f"{name} has {len(class_names)} classes, {network} {count}: use the data set it was "
            f"trained on, or {_training(options, name)}"
        )
    if known is None:
        say(f"{network} does not name its classes: those of {name} are taken for them, in order")


def _training(options: NetworkDataOptions, name: str) -> str:
    """How to get a network with the classes of a data set."""
    if options.model is None or options.checkpoint is not None:
        return "train another network"
    words = ["sign-ext train --model", options.model]
    if options.weights is not None:
        words += ["--weights", options.weights]
    if options.normalize != ("auto",):
        words += ["--normalize", *options.normalize]
    if options.image_size is not None:
        words += ["--image-size", str(options.image_size)]
    again = f" --model {options.model}" if parse_name(options.model).is_code else ""
    return (
        f"fine-tune it on this one ({' '.join(words)} --data {name} --out DIR) and give "
        f"--checkpoint DIR{again} in place of these options"
    )


def _with_network_classes(
    options: NetworkDataOptions, config: dict[str, Any], name: str, splits: Splits
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
