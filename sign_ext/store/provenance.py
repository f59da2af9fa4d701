"""Everything that determines a store's images: network, options, data, machine and versions."""

from __future__ import annotations

import hashlib
import platform

import torch
from torch import Tensor, nn

from sign_ext.data import ImageSource
from sign_ext.environment import versions
from sign_ext.eval_state import unwrap
from sign_ext.explanation import Explanation
from sign_ext.store.iteration import Iteration
from sign_ext.store.manifest import Provenance, as_json

# The packages that compute; others may change between a run and its rerun.
COMPUTING = ("sign-ext", "torch")


def provenance_of(
    iteration: Iteration,
    source: ImageSource,
    explanation: Explanation,
    about: Provenance | None = None,
) -> Provenance:
    """Describe what determines the images: repeating all of it gives the same bytes.

    Args:
        iteration: what makes the images.
        source: the data set.
        explanation: of the iteration, for images of the data set.
        about: what else the caller knows, such as the origin of the network.

    Returns:
        JSON-able.
    """
    device = next(iteration.model.parameters()).device
    return as_json(
        {
            **(about or {}),
            "network": {
                "class": type(unwrap(iteration.model)).__name__,
                "weights_sha256": weights_sha256(iteration.model),
            },
            "source_layer": explanation.source_layer,
            "settings": iteration.settings(),
            "engine": {
                "backend": explanation.backend,
                "arithmetic": explanation.arithmetic,
                "tuned": bool(iteration.measures or iteration.plan.choices),
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
    """Name the hardware that rounding depends on: the GPU, or the CPU's vector instructions.

    Args:
        device: that computes.
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
