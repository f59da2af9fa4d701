"""All that determines a store's images: network, options, data, machine and versions."""

from __future__ import annotations

import hashlib
import platform
from dataclasses import asdict

import torch
from torch import Tensor, nn

from sign_ext.data import ImageSource
from sign_ext.environment import versions
from sign_ext.eval_state import unwrap
from sign_ext.explanation import Explanation
from sign_ext.sign import SignTransform
from sign_ext.store.manifest import Recipe, as_json

# Of a run's packages these compute; others may change between a run and its rerun.
COMPUTING = ("sign-ext", "torch")


def recipe_of(
    sign: SignTransform,
    source: ImageSource,
    explanation: Explanation,
    about: Recipe | None = None,
) -> Recipe:
    """Write down what makes the images: who repeats all of it gets the same bytes.

    Args:
        sign: the transform.
        source: the data set.
        explanation: of the transform, for images of the data set.
        about: what else the caller knows, such as where the network was trained.

    Returns:
        JSON-able.
    """
    settings = asdict(sign.settings)
    device = next(sign.model.parameters()).device
    return as_json(
        {
            **(about or {}),
            "network": {
                "class": type(unwrap(sign.model)).__name__,
                "weights_sha256": weights_sha256(sign.model),
            },
            "source_layer": explanation.source_layer,
            "settings": {**settings, "snapshots": list(sign.settings.stops)},
            "engine": {
                "backend": explanation.backend,
                "arithmetic": explanation.arithmetic,
                "tuned": bool(sign.engines.fused.measure or sign.plan.choices),
                "machine": machine_kind(device),
            },
            "data": {
                "name": source.name,
                "note": source.note,
                "images": len(source),
                "fingerprint": source.fingerprint,
            },
            "versions": {name: each for name, each in versions().items() if name in COMPUTING},
        }
    )


def machine_kind(device: torch.device) -> str:
    """Name what the bits depend on: the GPU, or the processor's vector instructions.

    Args:
        device: where it is computed.
    """
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}"
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


def weights_sha256(model: nn.Module) -> str:
    """Return a SHA-256 over a network's parameters and buffers: names, dtypes, shapes, values.

    Args:
        model: the network.
    """
    digest = hashlib.sha256()
    for name, tensor in unwrap(model).state_dict().items():
        if not isinstance(tensor, Tensor):
            continue
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def first_readable(source: ImageSource, count: int) -> Tensor:
    """Read the first images that can be read, to find Φ on and to try the engine with.

    Args:
        source: the data set.
        count: how many at most.

    Returns:
        float32 (n, 3, H, W) with n ≥ 1.

    Raises:
        ValueError: none of the first hundred can be read.
    """
    stop = min(count, len(source))
    try:
        return source.read(0, stop).to(torch.float32)
    except ValueError:
        pass
    tried = min(100, len(source))
    for position in range(tried):
        try:
            return source.read(position, position + 1).to(torch.float32)
        except ValueError as error:
            last = error
    raise ValueError(f"none of the first {tried} images can be read: {last}")
