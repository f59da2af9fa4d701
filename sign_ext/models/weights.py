"""Weights from files that other programs wrote: read without running code, and fitted by name."""

from __future__ import annotations

import difflib
import json
import pickle
import re
import shlex
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sign_ext.files import open_regular, open_tensors, require_regular, sha256_of
from sign_ext.formatting import did_you_mean
from sign_ext.models.normalize import Constants, constants_beside

SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".bin", ".pth.tar")
# What training scripts call the weights among other things, averaged weights first.
_AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "ema", "params_ema")
_PLAIN = ("state_dict", "model_state_dict", "model", "net", "network", "weights", "params")
# Names that wrappers of the whole network put in front of every name.
_PARALLEL = "module."
_COMPILED = "_orig_mod."
_SHOWN = 4
_COMPARED = 2000  # unexpected names that are compared with a missing one
_CONTAINERS = 5  # in one another

_FIRST_BYTES = (
    (b"version https://git-lfs", "a pointer of Git LFS, not the file itself: run `git lfs pull`"),
    (b"<!DOCTYPE", "a web page: the download went wrong"),
    (b"<!doctype", "a web page: the download went wrong"),
    (b"<html", "a web page: the download went wrong"),
)


# Parts of the messages of torch's reader of tensors when it meets another class or function.
_CODE = ("GLOBAL", "allowlisted", "must be imported", "unrecognized")
# What it raises on bytes that are no file of torch.save.
_DAMAGE = (RuntimeError, OSError, EOFError, ValueError, LookupError, TypeError, AttributeError)


@dataclass(frozen=True)
class Weights:
    """The tensors of a file.

    Attributes:
        tensors: name → tensor on the CPU, without the wrappings that were undone.
        unwrapped: what was undone, from the outside, such as ``("state_dict", "module.")``.
        path: the file; None for weights that come from none.
        normalization: mean and std in pixel units, if the file records them.
        recorded: the name that the file records them under; "" if it is a checkpoint of this
            package, in which they are a module.
        notes: a sentence for each choice that was made.
    """

    tensors: dict[str, Tensor]
    unwrapped: tuple[str, ...] = ()
    path: Path | None = None
    normalization: Constants | None = None
    recorded: str = ""
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """What error messages call them."""
        return "the weights" if self.path is None else str(self.path)

    def record(self) -> dict[str, Any]:
        """Return what a checkpoint keeps about them, as JSON."""
        found: dict[str, Any] = {"unwrapped": list(self.unwrapped)}
        return found if self.path is None else {"sha256": sha256_of(self.path), **found}


def read_weights(path: str | Path) -> Weights:
    """Read the weights in a file, without running code from it.

    Args:
        path: a .safetensors file, or one that `torch.save` wrote (.pth, .pt, .ckpt, .bin,
            .pth.tar). Weights may be nested in what training scripts save beside them
            (``state_dict``, ``model``, ``ema``, …), and their names may begin with ``module.`` or
            hold ``_orig_mod.``: all that is undone. Averaged weights are preferred to plain ones.
            A mean and std beside the weights (``mean`` and ``std``, also inside of
            ``pretrained_cfg``, ``config``, ``args``, …) are read as well.

    Returns:
        The tensors and what was undone.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: it cannot be read, or is not a regular file.
        ValueError: the file is empty, damaged or of another format, holds no weights, or needs a
            pickle that may run code; the message gives a line that converts it.

    Example:
        >>> import tempfile
        >>> network = torch.nn.Linear(3, 2)
        >>> wrapped = {f"module.{name}": value for name, value in network.state_dict().items()}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save({"epoch": 7, "state_dict": wrapped}, f"{folder}/net.pth")
        ...     weights = read_weights(f"{folder}/net.pth")
        >>> sorted(weights.tensors), weights.unwrapped
        (['bias', 'weight'], ('state_dict', 'module.'))
    """
    path = Path(path)
    if not path.exists():
        near = did_you_mean(str(path), weights_near(path)) or ":"
        raise FileNotFoundError(f"There is no file {path}{near} accepted: {_accepted()}.")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; accepted: {_accepted()}.")
    require_regular(path)
    if not path.name.lower().endswith(SUFFIXES):
        raise ValueError(f"{path}: weights are read from {_accepted()}.")
    _check_first_bytes(path)
    if path.suffix.lower() == ".safetensors":
        content: Any = _read_safetensors(path)
    else:
        content = _read_torch(path)
    found, unwrapped, notes = _undo_containers(path, content)
    tensors = _plain_tensors(path, found)
    tensors, prefixes = _undo_prefixes(tensors)
    constants, recorded, unclear = constants_beside(content, unwrapped)
    if unclear:
        notes.append(f"{path} records a normalisation, which is not used: {unclear}")
    unwrapped = [*unwrapped, *prefixes]
    return _own_checkpoint(
        Weights(tensors, tuple(unwrapped), path, constants, recorded, tuple(notes))
    )


def load_weights(
    network: nn.Module,
    weights: Weights | str | Path,
    *,
    new_head: bool = False,
    head: Collection[str] | None = None,
) -> Weights:
    """Load weights into a network: all of them, or an error.

    Args:
        network: is changed in place.
        weights: of `read_weights`, or the path of a file.
        new_head: keep the network's own last layer where the file's has another number of outputs,
            or none.
        head: the names of the last layer's weights; by default they are those that differ from the
            file's in their number of outputs alone.

    Returns:
        The weights as they were loaded: ``unwrapped`` also names a prefix that all names shared and
        the network's lack (``model.``), and ``notes`` says which layer is new.

    Raises:
        ValueError: names are missing or unexpected, shapes differ, or values are not finite. The
            message counts them and names the first ones and the closest matches.

    Example: see :func:`read_weights`.

        >>> network = torch.nn.Linear(3, 2)
        >>> load_weights(network, Weights({"net.weight": torch.ones(2, 3),
        ...     "net.bias": torch.zeros(2)})).unwrapped
        ('net.',)
    """
    weights = weights if isinstance(weights, Weights) else read_weights(weights)
    wanted = network.state_dict()
    weights = fit_names(wanted, weights)
    kept = head_that_differs(wanted, weights.tensors, head) if new_head else frozenset()
    left_out: list[str] = []
    if kept:
        layers = {name.rpartition(".")[0] + "." for name in kept}
        left_out = [
            name
            for name in weights.tensors
            if name not in wanted and name.startswith(tuple(layers))
        ]
        fitting = {name: t for name, t in weights.tensors.items() if name not in left_out}
        weights = replace(weights, tensors=fitting)
    _require_fit(wanted, weights, kept, new_head)
    notes = [*weights.notes, *_conversions(wanted, weights, kept)]
    if kept:
        without = f" (left out of the file: {_listed(left_out)})" if left_out else ""
        notes.append(f"new weights for the last layer: {_listed(sorted(kept))}{without}")
    tensors = {name: t for name, t in weights.tensors.items() if name not in kept}
    network.load_state_dict(tensors, strict=False)
    return replace(weights, notes=tuple(notes))


def fit_names(wanted: Mapping[str, Any], weights: Weights) -> Weights:
    """Remove, or add, a prefix that all names share, if that makes more of them fit a network.

    Args:
        wanted: by the network's names.
        weights: of a file.
    """
    best, gained = weights, _matches(wanted, weights.tensors)
    tensors, removed = weights.tensors, weights.unwrapped
    while (prefix := _shared_prefix(tensors)) is not None:
        tensors = {name.removeprefix(prefix): t for name, t in tensors.items()}
        removed = (*removed, prefix)
        if (count := _matches(wanted, tensors)) > gained:
            best, gained = replace(weights, tensors=tensors, unwrapped=removed), count
    prefix, added = _shared_prefix(wanted), ""
    while prefix is not None:
        added += prefix
        tensors = {added + name: t for name, t in weights.tensors.items()}
        if (count := _matches(wanted, tensors)) > gained:
            best, gained = replace(weights, tensors=tensors), count
        prefix = _shared_prefix([name.removeprefix(added) for name in wanted])
    return best


def head_that_differs(
    wanted: Mapping[str, Tensor], found: Mapping[str, Tensor], head: Collection[str] | None = None
) -> frozenset[str]:
    """Return the names of a network's last layer whose number of outputs is another in a file.

    Args:
        wanted: the network's tensors.
        found: the file's.
        head: the names of the last layer, where they are known; those that the file lacks count.
    """
    differing = {
        name
        for name, mine in wanted.items()
        if name in found
        and found[name].shape != mine.shape
        and found[name].shape[1:] == mine.shape[1:]
        and mine.ndim >= 1
    }
    if head is None:
        return frozenset(differing)
    absent = {name for name in head if name not in found}
    return frozenset((differing & set(head)) | absent)


def count_outputs(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> int | None:
    """Return the number of outputs of a file's last layer, if it alone differs from a network's.

    Args:
        wanted: the tensors of the network, with any number of classes.
        found: the file's, with names that fit.

    Returns:
        The number; None if the shapes differ in another way, or not at all.
    """
    if any(name not in found for name in wanted if not name.endswith("num_batches_tracked")):
        return None
    differing = {name for name in wanted if name in found}
    differing = {name for name in differing if wanted[name].shape != found[name].shape}
    head = head_that_differs(wanted, found)
    sizes = {found[name].shape[0] for name in head}
    return sizes.pop() if head and head == differing and len(sizes) == 1 else None


def weights_near(path: Path) -> list[str]:
    """List the files of weights beside one, as paths that are written like it."""
    try:
        names = sorted(each.name for each in path.parent.iterdir())
    except OSError:
        return []
    return [str(path.with_name(name)) for name in names if name.lower().endswith(SUFFIXES)]


def _accepted() -> str:
    return f"a file of weights ({', '.join(SUFFIXES)})"


def _check_first_bytes(path: Path) -> None:
    with open_regular(path) as file:
        first = file.read(64)
    if not first:
        raise ValueError(f"{path} is empty.")
    for begin, meaning in _FIRST_BYTES:
        if first.lstrip().startswith(begin):
            raise ValueError(f"{path} is {meaning}.")
    is_zip = first.startswith(b"PK\x03\x04")
    if is_zip and path.suffix.lower() == ".safetensors":
        raise ValueError(f"{path} was written by torch.save, not by safetensors: call it .pth.")
    if path.suffix.lower() != ".safetensors" and first[8:10] == b'{"':
        raise ValueError(f"{path} is a safetensors file: call it .safetensors.")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError

    try:
        with open_tensors(path) as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file: {error}.") from error


def _read_torch(path: Path) -> Any:
    try:
        with open_regular(path) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about what is refused below
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(_needs_code(path, str(error))) from error
    except _DAMAGE as error:
        if "TorchScript" in str(error):
            raise ValueError(
                f"{path} is a TorchScript archive, which holds code as well. If you trust whoever "
                f"wrote it, convert it once:\n{_conversion(path, 'torch.jit.load({}, {})')}"
            ) from error
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(
            f"{path} is damaged, or not a file that torch.save wrote: {first}"
        ) from error


def _needs_code(path: Path, reason: str) -> str:
    """Explain that a pickle asks for more than tensors, and how to get at its weights."""
    if not any(each in reason for each in _CODE):
        return f"{path} is damaged, or not a file that torch.save wrote."
    found = re.search(r"GLOBAL ([\w.]+)", reason)
    what = f" ({found[1]})" if found else ""
    return (
        f"{path} holds Python objects{what} beside tensors, perhaps a whole network. Reading these "
        "could run code from the file, so sign_ext reads tensors only. If you trust whoever wrote "
        "it, convert it once, where its classes can be imported:\n"
        + _conversion(path, "torch.load({}, map_location={}, weights_only=False)")
    )


def _conversion(path: Path, read: str) -> str:
    """Return a shell command that writes a file's weights alone to another file."""
    source, target = (json.dumps(str(each)) for each in (path, path.with_suffix(".weights.pth")))
    code = (
        f"import torch; x = {read.format(source, json.dumps('cpu'))}; "
        'x = x.get("state_dict", x.get("model", x)) if isinstance(x, dict) else x; '
        f"torch.save(x if isinstance(x, dict) else x.state_dict(), {target})"
    )
    return f"python -c {shlex.quote(code)}"


def _undo_containers(path: Path, content: Any) -> tuple[Mapping[Any, Any], list[str], list[str]]:
    """Find the weights in what a training script saved; say what they were in."""
    unwrapped: list[str] = []
    notes: list[str] = []
    for _ in range(_CONTAINERS):
        if not isinstance(content, Mapping):
            kind = type(content).__name__
            raise ValueError(
                f"{path} holds a {kind}; accepted: a state_dict, name → tensor, perhaps inside "
                f"others ({', '.join(_PLAIN)}, …). Save network.state_dict()."
            )
        inner = [
            key
            for key, value in content.items()
            if isinstance(key, str) and isinstance(value, Mapping) and _holds_weights(value)
        ]
        if not inner:
            return content, unwrapped, notes
        chosen = _choose(path, inner)
        if chosen in _AVERAGED and (plain := [key for key in inner if key in _PLAIN]):
            notes.append(
                f"{path} holds {plain[0]!r} and {chosen!r}: the averaged weights, {chosen!r}, were "
                "taken"
            )
        unwrapped.append(chosen)
        content = content[chosen]
    raise ValueError(f"{path}: its weights are nested too deeply ({' → '.join(unwrapped)}).")


def _holds_weights(value: Mapping[Any, Any], depth: int = _CONTAINERS) -> bool:
    """Whether a mapping is a state_dict, or holds one; an optimizer's has numbers as keys."""
    if not value or depth == 0 or not all(isinstance(key, str) for key in value):
        return False
    return any(
        isinstance(each, Tensor) or (isinstance(each, Mapping) and _holds_weights(each, depth - 1))
        for each in value.values()
    )


def _choose(path: Path, inner: Sequence[str]) -> str:
    known = [key for key in (*_AVERAGED, *_PLAIN) if key in inner]
    if known:
        return known[0]
    if len(inner) == 1:
        return inner[0]
    raise ValueError(
        f"{path} holds several sets of tensors ({_listed(inner)}), none of them under a usual name "
        f"({', '.join(_PLAIN)}): save the one you mean in a file of its own."
    )


def _plain_tensors(path: Path, found: Mapping[Any, Any]) -> dict[str, Tensor]:
    """Return name → dense tensor, or say what else a file holds."""
    tensors: dict[str, Tensor] = {}
    for name, value in found.items():
        if not isinstance(name, str) or type(value) not in (Tensor, nn.Parameter):
            kind = type(value).__name__
            raise ValueError(
                f"{path}: {name!r} is a {kind}, not a tensor, among the weights; accepted: a "
                "state_dict, name → tensor. Save network.state_dict()."
            )
        size = value.numel() * value.element_size()
        dense = value.layout is torch.strided and not (value.is_quantized or value.is_meta)
        if not dense or value.untyped_storage().nbytes() < size:
            raise ValueError(
                f"{path}: {name!r} is a sparse, quantized or empty tensor; accepted: dense ones."
            )
        tensors[name] = value.detach()
    if not tensors:
        raise ValueError(f"{path} holds no tensors.")
    return tensors


def _undo_prefixes(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Take the names of wrappers around a whole network out of its weights' names."""
    undone: list[str] = []
    if any(name.startswith(_COMPILED) or f".{_COMPILED}" in name for name in tensors):
        tensors = {name.replace(_COMPILED, ""): t for name, t in tensors.items()}
        undone.append(_COMPILED)
    # torch.optim.swa_utils.AveragedModel counts beside the network, its submodule `module`.
    inner = [name for name in tensors if name != "n_averaged"]
    while inner and all(name.startswith(_PARALLEL) for name in inner):
        tensors = {name.removeprefix(_PARALLEL): tensors[name] for name in inner}
        inner = list(tensors)
        undone.append(_PARALLEL)
    return tensors, undone


def _own_checkpoint(weights: Weights) -> Weights:
    """Take the network, and its normalisation, out of a checkpoint of this package."""
    tensors = weights.tensors
    if not {"normalize.mean", "normalize.std"} < set(tensors) or not all(
        name.startswith(("normalize.", "network.")) for name in tensors
    ):
        return weights
    mean, std = (
        tuple(tensors[f"normalize.{name}"].double().flatten().tolist()) for name in ("mean", "std")
    )
    inner = {name.removeprefix("network."): t for name, t in tensors.items() if name[:3] == "net"}
    unwrapped = (*weights.unwrapped, "network.")
    return replace(
        weights, tensors=inner, unwrapped=unwrapped, normalization=(mean, std), recorded=""
    )


def _shared_prefix(names: Collection[str]) -> str | None:
    """Return the first part of all names, with its dot, if they have the same and more after it."""
    first = {name.partition(".")[0] for name in names if "." in name}
    shared = len(first) == 1 and all("." in name for name in names)
    return f"{first.pop()}." if shared else None


def _matches(wanted: Collection[str], found: Collection[str]) -> int:
    return sum(name in found for name in wanted)


def _require_fit(
    wanted: Mapping[str, Tensor], weights: Weights, kept: Collection[str], new_head: bool
) -> None:
    """Raise ValueError unless weights fit a network, except for the names in `kept`."""
    found = weights.tensors
    missing = [
        name
        for name in wanted
        if name not in found and name not in kept and not name.endswith("num_batches_tracked")
    ]
    unexpected = [name for name in found if name not in wanted]
    shared = [name for name in wanted if name in found and name not in kept]
    shapes = [name for name in shared if found[name].shape != wanted[name].shape]
    other_head = ""
    if (missing or unexpected) and not new_head:
        other_head = _head_alone(wanted, found, [*missing, *shapes], [*unexpected, *shapes])
    if other_head:
        raise ValueError(f"{weights} does not fit the network: {other_head}.")
    problems = []
    if missing:
        problems.append(
            f"{len(missing)} of the network's {len(wanted)} tensors are missing in the file "
            f"({_listed(missing)})"
        )
    if unexpected:
        problems.append(
            f"{len(unexpected)} of the file's {len(found)} are not in the network "
            f"({_listed(unexpected)})"
        )
    same_shape = {
        name: [other for other in unexpected if found[other].shape == wanted[name].shape]
        for name in missing[:_SHOWN]
    }
    if close := _closest_names(same_shape):
        problems.append(f"closest: {close}")
    elif max(len(missing), len(unexpected)) > _SHOWN:
        problems.append("these are probably weights of another network")
    if shapes:
        head_alone = not (missing or unexpected or new_head)
        problems.append(_shape_problem(wanted, found, shapes, head_alone))
        # Every name is there: the same kind of network, built with other sizes.
        if not (missing or unexpected) and set(shapes) > head_that_differs(wanted, found):
            problems.append(
                "the names are the network's, so it was probably built with other options, such as "
                "patch_size or img_size: give the same image size and options (--image-size, "
                "--model-options.NAME VALUE; in Python image_shape and options={NAME: value})"
            )
    kinds = [
        f"{name} is {found[name].dtype}, the network's {wanted[name].dtype}"
        for name in shared
        if found[name].is_floating_point() != wanted[name].is_floating_point()
        or found[name].is_complex() != wanted[name].is_complex()
    ]
    problems += kinds[:_SHOWN]
    # Last, because it reads every value: only of tensors whose size is the network's.
    if not problems:
        bad = [n for n in shared if found[n].is_floating_point() and not _is_number(found[n])]
        if bad:
            problems.append(f"NaN in {len(bad)} tensors ({_listed(bad)})")
    if problems:
        raise ValueError(f"{weights} does not fit the network: {'; '.join(problems)}.")


def _is_number(tensor: Tensor) -> bool:
    """Whether no value is NaN; a user's network may have an infinite value as a mask."""
    return not bool(tensor.isnan().any())


def _shape_problem(
    wanted: Mapping[str, Tensor], found: Mapping[str, Tensor], names: list[str], head_alone: bool
) -> str:
    """Say which shapes differ; where nothing but the last layer's may, what to do about it."""
    differences = [
        f"{name} is {tuple(found[name].shape)}, the network's {tuple(wanted[name].shape)}"
        for name in names[:_SHOWN]
    ]
    more = f", and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    problem = "; ".join(differences) + more
    head = head_that_differs(wanted, found)
    outputs = {(found[name].shape[0], wanted[name].shape[0]) for name in head}
    if not head_alone or head != set(names) or len(outputs) != 1:
        return problem
    theirs, mine = outputs.pop()
    return (
        f"{problem}: the file's last layer has {theirs} outputs and the network's {mine}. Give "
        f"num_classes={theirs} (--num-classes {theirs}), or train with a new last layer, as "
        "`sign-ext train` does (in Python new_head=True)"
    )


def _head_alone(
    wanted: Mapping[str, Tensor],
    found: Mapping[str, Tensor],
    mine: Sequence[str],
    theirs: Sequence[str],
) -> str:
    """Say that a file has another last layer than a network, or none, and what to do; else "".

    Args:
        wanted: the network's tensors.
        found: the file's.
        mine: the network's names that the file lacks, or has in another shape.
        theirs: the file's names that the network lacks, or has in another shape.
    """
    first = {name.partition(".")[0] for name in (*mine, *theirs)}
    # The last layer is the last to be defined; timm's distilled networks have a second one.
    last = {list(names)[-1].partition(".")[0] for names in (wanted, found)}
    alone = (len(first) == 1 and first <= last) or all(name.startswith("head") for name in first)
    if alone and len(first) < len({name.partition(".")[0] for name in wanted}):
        ours = ", ".join(f"{name} {tuple(wanted[name].shape)}" for name in mine[:_SHOWN])
        others = ", ".join(f"{name} {tuple(found[name].shape)}" for name in theirs[:_SHOWN])
        return (
            f"all of it fits but the last layer. The network has {ours or 'none'}, the file "
            f"{others or 'none'}. `sign-ext train` leaves the file's out and trains a new one (in "
            "Python open_network(…, new_head=True), which is enough for SIGN: δ does not depend on "
            "the last layer); or name a function that builds the file's, --model FILE.py:FUNCTION"
        )
    return ""


def _closest_names(candidates: Mapping[str, Sequence[str]]) -> str:
    """Pair missing names with similar ones, of tensors of the same shape, that a file has."""
    pairs = []
    for name, others in candidates.items():
        if close := difflib.get_close_matches(name, others[:_COMPARED], n=1):
            pairs.append(f"{close[0]} in the file for {name}")
    return ", ".join(pairs[:2])


def _conversions(
    wanted: Mapping[str, Tensor], weights: Weights, kept: Collection[str]
) -> list[str]:
    """Say which types of numbers become another's."""
    changed = {
        (str(t.dtype).removeprefix("torch."), str(wanted[name].dtype).removeprefix("torch."))
        for name, t in weights.tensors.items()
        if name not in kept and t.is_floating_point() and t.dtype != wanted[name].dtype
    }
    return [f"weights stored as {old} were converted to {new}" for old, new in sorted(changed)]


def _listed(names: Collection[str]) -> str:
    shown = list(names)[:_SHOWN]
    return ", ".join(shown) + (", …" if len(names) > len(shown) else "")
