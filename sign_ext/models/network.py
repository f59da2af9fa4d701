"""A network by name, with its weights and its preprocessing: from any library, or the user's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sign_ext.models import hugging_face
from sign_ext.models.aleatoric import AleatoricHead
from sign_ext.models.network_name import NetworkName, parse_network_name
from sign_ext.models.normalize import (
    IMAGENET,
    PIXEL_RANGE,
    Constants,
    Normalize,
    constants_of,
    in_own_units,
    in_pixel_units,
    in_words,
    normalised_twice,
    own_normalization,
    put_first,
    understood_range,
)
from sign_ext.models.records import record_of
from sign_ext.models.source import ANY_CLASSES, Source
from sign_ext.models.user_code import file_sha256
from sign_ext.models.weights import (
    Weights,
    count_outputs,
    fit_names,
    load_weights,
    read_weights,
)

PRETRAINED = "pretrained"
OURS: Constants = ((0.0, 0.0, 0.0), (255.0, 255.0, 255.0))  # of sign_ext's own networks


def _quiet(_: str) -> None:
    """Say nothing."""


def open_network(
    name: str,
    *,
    weights: str | Path | None = None,
    num_classes: int | None = None,
    image_shape: Sequence[int] | int | None = None,
    options: Mapping[str, Any] | None = None,
    normalize: str | tuple[Any, Any] = "auto",
    new_head: bool = False,
    aleatoric: bool = False,
    say: Callable[[str], None] = _quiet,
) -> tuple[nn.Module, dict[str, Any]]:
    """Build a network of any source, ready for SIGN: it takes images in pixel units 0–255.

    Args:
        name: of one of sign_ext's networks (`MODEL_NAMES`), ``timm:NAME``, ``torchvision:NAME``,
            ``hf:FOLDER`` (transformers' ``save_pretrained``), ``MODULE:FUNCTION`` or
            ``FILE.py:FUNCTION``. The function is called with the options, and with ``num_classes``
            and ``image_shape`` if it has parameters of these names.
        weights: a file (see `read_weights`), or "pretrained" for the weights that timm or
            torchvision publish. None for new weights, for those in the folder of ``hf:``, and for
            those that a function of the user's loads itself.
        num_classes: None for the number in the weights' last layer, or the network's default.
        image_shape: (C, H, W), or the height and width of square RGB images; None for the recorded
            size, and 32×32 for sign_ext's networks.
        options: passed on to what builds the network.
        normalize: the preprocessing that becomes the first module. "auto" for what the file of
            weights records (see `read_weights`), else what the network begins with, else what timm,
            torchvision or transformers recorded; "none";
            "imagenet"; a pair (mean, std), or both as text, such as "0.5,0.5,0.5 0.2,0.2,0.2", in
            units of 0–1 or 0–255.
        new_head: where the weights' last layer has another number of outputs, or is missing, begin
            with a new one.
        aleatoric: also learn the standard deviation of each logit (see `build_model`).
        say: is called with a sentence for everything that was found or chosen.

    Returns:
        The network, in eval mode: a Sequential of ``normalize``, ``network`` and, with
        ``aleatoric``, ``head``. A layer called ``layer4`` is therefore ``network.layer4`` in
        ``layer=NAME``. And a configuration for `save_checkpoint`, as `load_checkpoint` returns it:
        "model" (name, num_classes, image_shape, options, aleatoric, normalization in pixel units),
        "weights" if any were loaded, "class_names" where transformers records them.

    Raises:
        FileNotFoundError: there is no such file of weights.
        ModuleNotFoundError: the library is not installed.
        ValueError: an unknown name or option, weights that do not fit, a network without a
            recorded size or normalisation; the message says what to give.
        RuntimeError: code of the user's fails, or a download.

    Example:
        >>> model, config = open_network("timm:resnet10t", num_classes=3, image_shape=33)
        >>> model(torch.rand(2, 3, 33, 33) * 255).shape
        torch.Size([2, 3])
        >>> [round(value, 1) for value in config["model"]["normalization"]["mean"]]
        [123.7, 116.3, 103.5]
    """
    parsed = parse_network_name(name)
    if num_classes is not None and num_classes < 1:
        raise ValueError(f"num_classes={num_classes}; accepted: 1 or more.")
    source = Source(parsed, options or {}, _shape(image_shape))
    if aleatoric and not source.takes_classes:
        raise ValueError(
            f"{name} has no parameter num_classes: the aleatoric model needs twice as many outputs "
            "as classes."
        )
    network, record, found = _with_weights(
        source, weights, num_classes, 2 if aleatoric else 1, new_head, say
    )
    constants = _constants(parsed, source, network, found, normalize, say)
    first = nn.Identity() if constants is None else Normalize(*constants)
    model = put_first(network.eval(), first).eval()
    shape = source.image_shape or record_of(network).image_shape
    if shape is None:
        raise ValueError(
            f"{name}: the size of its images is not recorded: give image_shape (--image-size)."
        )
    outputs = _count_outputs(parsed, model, shape)
    count = outputs // 2 if aleatoric else outputs
    if num_classes is not None and count != num_classes:
        raise ValueError(
            f"{name} has {count} outputs and num_classes is {num_classes}: give "
            f"num_classes={count} (--num-classes {count}), or a function with a parameter "
            "num_classes (one that takes any keyword gets it as an option, "
            f"--model-options.num_classes {num_classes})."
        )
    if aleatoric:
        model.add_module("head", AleatoricHead().eval())
    config: dict[str, Any] = {"model": _spec(parsed, source, count, shape, aleatoric, constants)}
    if record:
        config["weights"] = record
    if parsed.kind == "hf" and (names := hugging_face.class_names(source.made_config or {})):
        config["class_names"] = list(names)
    return model, config


def rebuild_network(spec: Mapping[str, Any], name: str | None = None) -> nn.Module:
    """Build the network of a checkpoint's record, with new weights.

    Args:
        spec: what `open_network` returns as ``config["model"]``.
        name: instead of the recorded one, for a file that is in another folder now.

    Returns:
        The same modules in training mode. For ``MODULE:FUNCTION`` and ``FILE.py:FUNCTION`` this
        imports the user's code: the caller has made sure that the user asked for it.

    Raises:
        ValueError: the record fits no network.
        ModuleNotFoundError: the library is not installed.
    """
    parsed = parse_network_name(spec["name"] if name is None else name)
    if parsed.kind == "hf" and spec.get("hf_config") is None:
        raise ValueError("it has no hf_config, which says what transformers is to build")
    aleatoric = spec.get("aleatoric", False)
    source = Source(parsed, spec["options"], tuple(spec["image_shape"]), spec.get("hf_config"))
    network = source.build(spec["num_classes"] * (2 if aleatoric else 1))
    constants = spec.get("normalization", "ours")
    if constants == "ours":
        first: nn.Module = Normalize()
    elif constants is None:
        first = nn.Identity()
    else:
        first = Normalize(constants["mean"], constants["std"])
    model = put_first(network, first).train()
    if aleatoric:
        model.add_module("head", AleatoricHead())
    return model


def _spec(
    parsed: NetworkName,
    source: Source,
    count: int,
    shape: tuple[int, int, int],
    aleatoric: bool,
    constants: Constants | None,
) -> dict[str, Any]:
    """Return what rebuilds the network, as JSON."""
    spec: dict[str, Any] = {
        "name": str(parsed),
        "num_classes": count,
        "image_shape": list(shape),
        "options": dict(source.options),
        "aleatoric": aleatoric,
    }
    # Absent for sign_ext's own networks, whose checkpoints are as they always were.
    if parsed.kind != "sign_ext" or constants != OURS:
        spec["normalization"] = None
        if constants is not None:
            spec["normalization"] = {"mean": list(constants[0]), "std": list(constants[1])}
    if source.made_config is not None:
        spec["hf_config"] = source.made_config
    if (digest := file_sha256(parsed)) is not None:
        spec["sha256"] = digest
    return spec


def _shape(given: Sequence[int] | int | None) -> tuple[int, int, int] | None:
    if given is None:
        return None
    shape = (3, given, given) if isinstance(given, int) else tuple(given)
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(
            f"image_shape={given!r}; accepted: (channels, height, width), or one number for the "
            "height and width of RGB images."
        )
    return shape


def _with_weights(
    source: Source,
    weights: str | Path | None,
    num_classes: int | None,
    factor: int,
    new_head: bool,
    say: Callable[[str], None],
) -> tuple[nn.Module, dict[str, Any] | None, Weights | None]:
    """Build the network with its weights; return it, what to record, and the file's content."""
    outputs = None if num_classes is None else factor * num_classes
    if factor > 1 and outputs is None and source.default_classes is not None:
        outputs = factor * source.default_classes
    if weights == PRETRAINED or (weights is None and source.folder is not None):
        return *_pretrained(source, outputs, new_head, say), None
    if weights is None:
        if not source.name.is_code:  # which may load some itself
            say(f"{source.name} has new random weights")
        return source.build(_known(source, outputs)), None, None
    found = read_weights(weights)
    if source.takes_classes:
        if num_classes is None:
            outputs = _count_in(source, found, factor) or outputs
        network = source.build(_known(source, outputs))
    else:
        network = source.build(None)
    head = None
    if new_head and source.takes_classes and outputs is not None:
        head = source.head(outputs)
    loaded = load_weights(network, found, new_head=new_head, head=head)
    undone = f" (undone: {', '.join(loaded.unwrapped)})" if loaded.unwrapped else ""
    say(f"weights: {len(loaded.tensors)} tensors of {weights}{undone}")
    for note in loaded.notes:
        say(note)
    return network, loaded.record(), found


def _known(source: Source, outputs: int | None) -> int | None:
    return source.default_classes if outputs is None else outputs


def _count_in(source: Source, found: Weights, factor: int) -> int | None:
    """Return the number of outputs of the last layer in a file."""
    guess = source.default_classes or ANY_CLASSES
    wanted = source.shapes(guess)
    tensors = fit_names(wanted, found).tensors
    counted = count_outputs(wanted, tensors)
    if counted is None:
        return guess if factor == 1 or guess % factor == 0 else None
    return counted


def _pretrained(
    source: Source, outputs: int | None, new_head: bool, say: Callable[[str], None]
) -> tuple[nn.Module, dict[str, Any] | None]:
    """Build a network with the weights that its library publishes, or that its folder holds."""
    kind, name = source.name.kind, source.name
    if kind not in ("timm", "torchvision", "hf"):
        why = (
            "loads its weights itself, if any"
            if name.is_code
            else "is sign_ext's own, and no weights are published for it"
        )
        raise ValueError(f"weights='pretrained': {name} {why}; accepted: a file, or none.")
    if kind == "hf":
        return _from_folder(source, outputs, new_head, say)
    published = source.record.num_classes
    other_head = outputs is not None and published is not None and outputs != published
    if other_head and not new_head:
        raise ValueError(
            f"the published weights of {name} have {published} outputs, and {outputs} are asked "
            f"for: leave num_classes (--num-classes) out, or train with a new last layer, as "
            "`sign-ext train` does (in Python new_head=True)."
        )
    try:
        network, tag = source.pretrained(outputs)
    except Exception as error:  # whatever the network, the cache or the library raises
        raise RuntimeError(
            f"the published weights of {name} could not be loaded: {type(error).__name__}: "
            f"{error}\nWhere there is no connection, download the file elsewhere and give "
            f"weights=FILE (--weights FILE){_address(source)}."
        ) from error
    if other_head and kind == "torchvision":
        state, network = network.state_dict(), source.build(outputs)
        load_weights(network, Weights(state), new_head=True, head=source.head(outputs or 0))
    say(f"weights: {tag}, published" + (", with a new last layer" if other_head else ""))
    return network, {PRETRAINED: tag}


def _address(source: Source) -> str:
    """Say where published weights are, if that is known."""
    if source.name.kind == "timm":
        import timm

        config = timm.get_pretrained_cfg(source.name.name)
        where = config and (
            f"https://huggingface.co/{config.hf_hub_id}" if config.hf_hub_id else config.url
        )
    else:
        from torchvision import models

        where = models.get_model_weights(source.name.name).DEFAULT.url
    return f": {where}" if where else ""


def _from_folder(
    source: Source, outputs: int | None, new_head: bool, say: Callable[[str], None]
) -> tuple[nn.Module, dict[str, Any] | None]:
    """Load a network of transformers with the weights in its folder."""
    name, recorded = source.name, source.record.num_classes
    if outputs is not None and recorded is not None and outputs != recorded and not new_head:
        raise ValueError(
            f"the weights of {name} have {recorded} outputs, and {outputs} are asked for: leave "
            "num_classes (--num-classes) out, or train with a new last layer, as `sign-ext train` "
            "does (in Python new_head=True)."
        )
    with torch.random.fork_rng(devices=[]):
        source.build(outputs)  # to make the configuration, and to name unknown networks
    assert source.folder is not None
    assert source.made_config is not None
    try:
        network, problems = hugging_face.load(source.folder, source.made_config)
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(f"the weights of {name} cannot be loaded: {error}") from error
    head = source.head(outputs or recorded or ANY_CLASSES) if new_head else frozenset()
    wrong = [
        f"{each} is {kind}"
        for kind, names in problems.items()
        for each in names
        if f"model.{each}" not in head
    ]
    if wrong:
        shown = ", ".join(wrong[:4]) + (", …" if len(wrong) > 4 else "")
        sized = " Their size depends on image_shape (--image-size)." * bool(problems["mismatched"])
        raise ValueError(
            f"the weights of {name} do not fit its configuration: {shown}; accepted: all of its "
            f"weights, in their shapes.{sized}"
        )
    new = problems["missing"] or problems["mismatched"]
    say(f"weights: those in {source.folder}" + (", with a new last layer" if new else ""))
    return network, {PRETRAINED: str(name)}


def _constants(
    parsed: NetworkName,
    source: Source,
    network: nn.Module,
    weights: Weights | None,
    normalize: str | tuple[Any, Any],
    say: Callable[[str], None],
) -> Constants | None:
    """Return the mean and std, in pixel units, of a network's preprocessing, and say what it is.

    None for a network that takes pixel values as they are, or normalises them itself.
    """
    if normalize == "auto":
        return _recorded_constants(parsed, source, network, weights, say)
    if normalize == "none":
        say("normalisation: none, the network gets images as they are")
        return None
    if normalize == "imagenet":
        _require_once(parsed, network, IMAGENET)
        say(f"normalisation: ImageNet's, {in_words(IMAGENET)}")
        return IMAGENET
    mean, std = _given_constants(normalize)
    constants = in_pixel_units(mean, std)
    _require_once(parsed, network, constants)
    as_given = constants == in_pixel_units(mean, std, value_range=255)
    units = "0–255" if as_given else "0–1"
    say(f"normalisation: {in_words(constants)}, understood as given in units of {units}")
    return constants


def _require_once(parsed: NetworkName, network: nn.Module, constants: Constants) -> None:
    """Raise ValueError if a network would normalise again what was normalised."""
    if twice := normalised_twice(network, constants):
        own = "none" if in_own_units(network) else "auto"
        raise ValueError(
            f"{parsed}: {twice}, so normalize (--normalize) would normalise images twice: give "
            f"{own} (--normalize {own})."
        )


def _given_constants(normalize: str | tuple[Any, Any]) -> tuple[Any, Any]:
    """Return mean and std, from a pair or from text."""
    parts = normalize.split() if isinstance(normalize, str) else list(normalize)
    accepted = "auto, none, imagenet, or MEAN STD such as 0.485,0.456,0.406 0.229,0.224,0.225"
    if len(parts) != 2:
        raise ValueError(f"normalize={normalize!r}; accepted: {accepted}.")
    try:
        pair = [
            [float(each) for each in part.split(",")] if isinstance(part, str) else part
            for part in parts
        ]
    except ValueError:
        raise ValueError(f"normalize={normalize!r}; accepted: {accepted}.") from None
    # One value stands for all three channels.
    mean, std = (
        [*part] * 3 if isinstance(part, list) and len(part) == 1 else part for part in pair
    )
    return mean, std


def _recorded_constants(
    parsed: NetworkName,
    source: Source,
    network: nn.Module,
    weights: Weights | None,
    say: Callable[[str], None],
) -> Constants | None:
    """Return the preprocessing that is recorded: with the weights, in the network, or for it."""
    own = own_normalization(network)
    # What a file has beside its weights may be what the network's own first module does.
    if weights is not None and weights.normalization is not None:
        if not weights.recorded:
            say(f"normalisation: {in_words(weights.normalization)}, as stored with the weights")
            return weights.normalization
        if own is None:
            where = f"as recorded in {weights} ({weights.recorded})"
            say(f"normalisation: {in_words(weights.normalization)}, {where}")
            return weights.normalization
    if parsed.kind == "sign_ext":
        return OURS
    if own is not None:
        return _before_own(own, say)
    record = source.record if source.record.constants is not None else record_of(network)
    if record.constants is not None:
        why = (
            f", because {weights} records none. If these weights were trained with another, give "
            "it: --normalize MEAN STD, or none (in Python normalize=(mean, std))"
            if weights is not None
            else ""
        )
        say(f"normalisation: {in_words(record.constants)}, from {record.origin}{why}")
        return record.constants
    raise ValueError(
        f"{parsed}: no preprocessing is recorded for this network. State what it was trained with: "
        "normalize='imagenet', normalize=(mean, std), or normalize='none' if it takes pixel values "
        "0–255 as they are (--normalize imagenet, --normalize MEAN STD or --normalize none; "
        "--normalize 0,0,0 255,255,255 for values of 0–1)."
    )


def _before_own(own: nn.Module, say: Callable[[str], None]) -> Constants | None:
    """Return what comes before a network that begins with its own normalisation."""
    mean, std = constants_of(own)
    if isinstance(own, Normalize) or understood_range(mean, std) == PIXEL_RANGE:
        say(f"normalisation: the network's own first module, {in_words((mean, std))}; kept")
        return None
    channels = len(mean)
    say(
        "normalisation: the network's own first module, for values of 0–1; kept, after a division "
        "by 255"
    )
    return (0.0,) * channels, (PIXEL_RANGE,) * channels


def _count_outputs(parsed: NetworkName, model: nn.Module, shape: tuple[int, int, int]) -> int:
    """Run a network on two grey images, and return its number of outputs."""
    parameter = next(model.parameters(), None)
    device = torch.device("cpu") if parameter is None else parameter.device
    images = torch.full((2, *shape), PIXEL_RANGE / 2, device=device)
    try:
        with torch.no_grad():
            output = model(images)
    except Exception as error:  # a user's network may raise anything
        size = "×".join(map(str, shape))
        raise ValueError(
            f"{parsed} does not take images of {size} (channels×height×width): "
            f"{type(error).__name__}: {error}. Give another image_shape (--image-size)."
        ) from error
    logits = _first_tensor(output)
    if logits is None or logits.ndim < 2 or len(logits) != 2:
        kind = type(output).__name__ if logits is None else f"shape {tuple(logits.shape)}"
        raise ValueError(f"{parsed} returns {kind} for 2 images; accepted: logits (2, classes).")
    return int(logits.shape[1])


def _first_tensor(output: Any) -> Tensor | None:
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        output = list(output.values())
    if isinstance(output, list | tuple) and output:
        return _first_tensor(output[0])
    logits = getattr(output, "logits", None)
    return logits if isinstance(logits, Tensor) else None
