"""Checkpoints: weights and the configuration that rebuilds their model, without pickle.

model.safetensors is self-contained: the configuration is in its header. model.json next to it
holds the same configuration for people and scripts.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sign_ext.data.classes import remember_classes
from sign_ext.files import (
    open_tensors,
    parse_json,
    read_json,
    replacing,
    require_regular,
    require_schema,
    sha256_of,
    write_json,
)
from sign_ext.models.network_name import NetworkName, parse_network_name

TORCH_SUFFIXES = (".pth", ".pt", ".ckpt", ".bin", ".pth.tar")
CHECKPOINT_NAME = "model.safetensors"
_CONFIG_KEY = "sign_ext.config"
_MODEL_KEYS = ("name", "num_classes", "image_shape", "options")


def save_checkpoint(path: str | Path, model: nn.Module, config: Mapping[str, Any]) -> None:
    """Write a model's weights and configuration to PATH, and the configuration as JSON next to it.

    A process killed at any point leaves a checkpoint that loads: the old one or the new one.

    Args:
        path: of the .safetensors file; its folder is created. The JSON has the same name, .json.
        model: whose state_dict is written, from any device, in contiguous layout.
        config: plain JSON values. `config["model"]` with name, num_classes, image_shape and
            options (and "aleatoric": true for the model of Section 3.2) is what
            :func:`load_checkpoint` rebuilds the model from.

    Raises:
        ValueError: the path does not end in .safetensors, config["model"] lacks a key, or the
            configuration is not plain JSON.

    Example:
        >>> import tempfile
        >>> from sign_ext.models import build_model
        >>> spec = {"name": "basic_cnn", "num_classes": 10, "image_shape": [3, 32, 32]}
        >>> config = {"model": {**spec, "options": {}}}
        >>> with tempfile.TemporaryDirectory() as out:
        ...     save_checkpoint(f"{out}/model.safetensors", build_model("basic_cnn"), config)
        ...     model, stored = load_checkpoint(out)
        >>> stored == config
        True
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"path must end in .safetensors; got {str(path)!r}.")
    if "model" in config:
        _check_model_config(config["model"], "config['model']")
    try:
        text = json.dumps(config, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"config must hold plain, finite JSON values: {error}.") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    json_path = path.with_suffix(".json")
    # In this order weights are never next to the configuration of another model.
    json_path.unlink(missing_ok=True)
    write_tensors(path, model.state_dict(), {_CONFIG_KEY: text})
    write_json(json_path, json.loads(text))


def load_checkpoint(
    path: str | Path, device: str | torch.device = "cpu", *, model: str | None = None
) -> tuple[nn.Module, dict[str, Any]]:
    """Rebuild a model from a checkpoint.

    A checkpoint never causes code to be imported by itself. The networks of sign_ext, timm,
    torchvision and transformers (without remote code) are rebuilt freely; one that a function of
    the user's built, ``MODULE:FUNCTION`` or ``FILE.py:FUNCTION``, only if `model` repeats its name.

    Args:
        path: the .safetensors file, or a folder that holds model.safetensors.
        device: of the model.
        model: the name of the network, as `open_network` takes it, which must be the recorded one;
            a file may be in another folder by now. Needed for a user's own function. A file that
            has changed since the checkpoint was written is a warning.

    Returns:
        The model, in eval mode, and its configuration. The model's attribute ``class_names`` holds
        the names of its classes, if the checkpoint has them, for `sign_ext.evaluation`.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: it is not a regular file, or cannot be read.
        ValueError: the file is damaged, is not a checkpoint of this package, does not say how to
            build its model, disagrees with the JSON next to it, or its tensors do not match; the
            network is built by code of the user's and `model` does not name it.

    Example: see :func:`save_checkpoint`.
    """
    from sign_ext.training.schema import CheckpointPart

    path = _find(Path(path))
    tensors, config = _read(path)
    if isinstance(config, dict) and "model" not in config:
        raise ValueError(
            f"{path} does not say which model it holds (its configuration has no 'model'): build "
            "the model yourself and load it with safetensors.torch.load_model(model, path)."
        )
    require_schema(CheckpointPart, config, f"the configuration in {path}")
    spec = config["model"]
    _check_name(path, spec, model)
    problem = (
        f"The tensors in {path} do not match model {spec['name']!r} as its configuration builds it"
    )
    name = parse_network_name(spec["name"])
    shapes = None if name.is_code else _shapes(path, spec, name)
    ours = name.kind == "sign_ext"
    if shapes is not None:
        require_tensors(problem, shapes, tensors, infinite=not ours)
    network = _build(path, spec, model)
    if shapes is None:
        require_tensors(problem, network.state_dict(), tensors, infinite=True)
    network.load_state_dict(tensors)
    if class_names := class_names_of(config):
        remember_classes(network, class_names)
    return network.to(device).eval(), config


def recorded_name(path: str | Path) -> str:
    """Return the name of the network in a checkpoint, without building it.

    Args:
        path: as for :func:`load_checkpoint`.

    Raises:
        OSError: as for :func:`load_checkpoint`.
        ValueError: the file is not a checkpoint of this package, or does not name its network.
    """
    from sign_ext.training.schema import CheckpointPart

    path = _find(Path(path))
    _, config = _read(path, tensors=False)
    require_schema(CheckpointPart, config, f"the configuration in {path}")
    return str(config["model"]["name"])


def class_names_of(config: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Return a network's class names, in the order of its outputs.

    Args:
        config: of a checkpoint.

    Returns:
        The names; None for a checkpoint that does not have them, as those of early versions.
    """
    names, count = config.get("class_names"), config["model"]["num_classes"]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return None
    return tuple(names) if len(names) == count else None


def _check_name(path: Path, spec: Mapping[str, Any], given: str | None) -> None:
    """Raise ValueError unless a checkpoint's network may be built: importing needs the user's word.

    Args:
        path: of the checkpoint.
        spec: its record of the network.
        given: the name that the user gave, or None.
    """
    recorded = spec["name"]
    try:
        name = parse_network_name(recorded)
    except ValueError as error:
        raise ValueError(f"the configuration in {path}: model.name: {error}") from error
    if given is not None and not _is_same(name, given):
        raise ValueError(
            f"{path} holds the network {recorded!r}, and {given!r} is asked for: give the recorded "
            f"name, model={recorded!r} (--model {recorded}), or another checkpoint."
        )
    if not name.is_code:
        return
    if given is None:
        raise ValueError(
            f"the network in {path} is built by code of its author's, {recorded!r}, which a "
            "checkpoint does not import by itself. If you know that code and trust it, name it "
            f"again: model={recorded!r} (--model {recorded})."
        )
    place = Path(parse_network_name(given).place)
    if name.kind == "file" and place.is_file():
        then, now = spec.get("sha256"), sha256_of(place)
        if then is not None and then != now:
            warnings.warn(
                f"{place} has changed since {path} was written (SHA-256 {then[:12]}… then, "
                f"{now[:12]}… now).",
                stacklevel=3,
            )


def _is_same(recorded: NetworkName, given: str) -> bool:
    """Whether a user gives the recorded name; a file may be in another folder by now."""
    name = parse_network_name(given)
    if name == recorded:
        return True
    return recorded.kind == name.kind == "file" and (
        (Path(name.place).name, name.function) == (Path(recorded.place).name, recorded.function)
    )


def _shapes(path: Path, spec: Mapping[str, Any], name: NetworkName) -> dict[str, Tensor] | None:
    """Build a network without memory, because its record may ask for any amount of it.

    None for a network of another library that needs values to be built.
    """
    try:
        with torch.device("meta"):
            return _build(path, spec).state_dict()
    except ValueError:
        if name.kind == "sign_ext":
            raise
        return None


def _build(path: Path, spec: Mapping[str, Any], name: str | None = None) -> nn.Module:
    from sign_ext.models.network import rebuild_network

    try:
        return rebuild_network(spec, name)
    except ModuleNotFoundError:
        raise
    except Exception as error:  # options may hold anything, and the builders raise anything
        raise ValueError(
            f"the configuration in {path}: model is {_shortened(spec)}, which cannot be built: "
            f"{error}"
        ) from error


def _shortened(spec: Mapping[str, Any]) -> str:
    """A record of a network as JSON, without the long configuration of transformers."""
    return json.dumps({key: value for key, value in spec.items() if key != "hf_config"})


def _find(path: Path) -> Path:
    """Return the checkpoint file that a file or folder names."""
    if path.is_dir():
        inside = path / CHECKPOINT_NAME
        if inside.exists():
            require_regular(inside)
            return inside
        unfinished = (path / "last.safetensors").is_file()
        hint = (
            "its training run has not finished; resume it first (`sign-ext train --resume`)"
            if unfinished
            else "give the folder that a training run wrote, or the file itself"
        )
        raise FileNotFoundError(f"The folder {path} holds no {CHECKPOINT_NAME}: {hint}.")
    if path.exists():
        require_regular(path)
        if path.name.lower().endswith(TORCH_SUFFIXES):
            raise ValueError(
                f"{path} is no checkpoint of this package but a file of torch.save: name the "
                "network, and give the file as its weights: "
                f"open_network(NAME, weights={str(path)!r}), or --model NAME --weights {path} "
                "instead of --checkpoint."
            )
    else:
        raise FileNotFoundError(
            f"No checkpoint at {path}: give a .safetensors file, or a folder that holds "
            f"{CHECKPOINT_NAME}."
        )
    return path


def _read(path: Path, *, tensors: bool = True) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read tensors and configuration; if there is JSON next to them, check that it agrees."""
    from safetensors import SafetensorError

    try:
        with open_tensors(path) as file:
            metadata = file.metadata() or {}
            names = list(file.keys()) if tensors else []
            values = {name: file.get_tensor(name) for name in names}
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file: {error}.") from error
    if _CONFIG_KEY not in metadata:
        raise ValueError(
            f"{path} holds no configuration of this package: give a file that save_checkpoint or "
            "sign-ext train wrote. If it holds the weights of a network, name that too: "
            f"open_network(NAME, weights={str(path)!r}), or --model NAME --weights {path}."
        )
    config: dict[str, Any] = parse_json(metadata[_CONFIG_KEY], f"the configuration in {path}")
    json_path = path.with_suffix(".json")
    if json_path.exists() and read_json(json_path) != config:
        raise ValueError(
            f"{json_path} is not the configuration of {path}: one of the two comes from another "
            "run or was edited. The .safetensors file is self-contained; if it is the one you "
            f"want, remove {json_path.name}."
        )
    return values, config


def _check_model_config(spec: Any, where: str) -> None:
    missing = [k for k in _MODEL_KEYS if not isinstance(spec, Mapping) or k not in spec]
    if missing:
        raise ValueError(
            f"{where} must be a mapping with {', '.join(_MODEL_KEYS)}; missing: "
            f"{', '.join(missing)}."
        )


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors and text metadata as one safetensors file, atomically.

    Args:
        path: the file; an existing one is replaced.
        tensors: name → tensor on any device, in any memory format. Names may share storage: each
            is written in full.
        metadata: name → text, kept in the file's header.
    """
    from safetensors.torch import save_file

    # clone() separates tied weights: safetensors refuses tensors that share storage.
    plain = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    with replacing(path) as temporary:
        save_file(plain, temporary, metadata=dict(metadata))


def require_tensors(
    problem: str,
    wanted: Mapping[str, Tensor],
    found: Mapping[str, Tensor],
    *,
    infinite: bool = False,
) -> None:
    """Raise ValueError unless a file's tensors fit a model: names, shapes, kinds, no NaN.

    Args:
        problem: begins the error message, which lists the first differences.
        wanted: the model's; their values do not matter.
        found: the file's.
        infinite: accept infinite values, which a user's network may have as a mask.
    """
    differences = [f"{k} is missing" for k in wanted if k not in found]
    differences += [f"{k} is not in the model" for k in found if k not in wanted]
    for name in (k for k in wanted if k in found):
        mine, stored = wanted[name], found[name]
        if stored.shape != mine.shape:
            differences.append(f"{name} is {tuple(stored.shape)}, the model's {tuple(mine.shape)}")
        elif stored.is_floating_point() != mine.is_floating_point() or stored.is_complex():
            differences.append(f"{name} is {stored.dtype}, the model's {mine.dtype}")
        elif bool(stored.isnan().any()) or not (infinite or bool(stored.isfinite().all())):
            differences.append(f"{name} has values that are not finite")
    if differences:
        shown = "; ".join(differences[:3]) + ("; …" if len(differences) > 3 else "")
        raise ValueError(f"{problem}: {shown}. It was written by another version or edited.")
