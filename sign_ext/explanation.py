"""What `SignTransform.explain()` answers: what will run, where, and why."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sign_ext.checks import place_of
from sign_ext.engine.trajectory import iterate_dtype, memory_format
from sign_ext.freeze import unwrap
from sign_ext.ops import sign_update_route
from sign_ext.source_layer import guess_source_layer

if TYPE_CHECKING:
    from sign_ext.sign import SignTransform


@dataclass(frozen=True)
class Explanation:
    """What runs and why; `print` it, or take `to_dict()`.

    Attributes:
        model: the network's class.
        source_layer: where Φ is read.
        backend: the backend's name.
        reason: why that one.
        device: where it runs.
        arithmetic: dtypes of iterate and network, and the float32 switches.
        layout: memory layout of the iterate.
        update: which kernel does line 4 of Algorithm 1.
        products: vector-Jacobian products for each image.
        notes: anything else worth knowing.
    """

    model: str
    source_layer: str
    backend: str
    reason: str
    device: str
    arithmetic: str
    layout: str
    update: str
    products: int
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        return asdict(self)

    def __str__(self) -> str:
        """One line an answer."""
        rows = [
            ("model", self.model),
            ("Φ", self.source_layer),
            ("backend", f"{self.backend} ({self.reason})"),
            ("device", self.device),
            ("arithmetic", self.arithmetic),
            ("layout", self.layout),
            ("update", self.update),
            ("products", f"{self.products} vector-Jacobian products for each image"),
            *(("note", note) for note in self.notes),
        ]
        return "\n".join(f"{name:<11}{value}" for name, value in rows)


def explain(sign: SignTransform, images: Tensor | None) -> Explanation:
    """The answers for one transform; see `SignTransform.explain`."""
    network = unwrap(sign.model)
    source = sign.source_layer(images)
    if source is not None:
        layer = str(source)
    elif guess := guess_source_layer(network):
        layer = f"{guess}, a guess until images are seen"
    else:
        layer = "not known before images are seen"
    weights = [t for t in [*network.parameters(), *network.buffers()] if t.is_floating_point()]
    at = weights[0].device if weights else torch.device("cpu")
    like = torch.zeros(1, 3, 32, 32, device=at) if images is None else images
    dtype, device = place_of(network, like)
    iterate = iterate_dtype(dtype)
    layout = memory_format(network, like)
    p = torch.empty((1, *like.shape[1:]), dtype=iterate, device=device)
    p = p.contiguous(memory_format=layout)
    delta = torch.empty_like(p, dtype=dtype)
    choice = sign.engines.choice(device)
    settings = sign.settings
    arithmetic = f"network {dtype}, iterate {iterate}, precision {settings.precision}"
    notes = []
    if len(settings.stops) > 1:
        notes.append(f"snapshots {', '.join(map(str, settings.stops))} come from one trajectory")
    return Explanation(
        model=type(network).__name__,
        source_layer=layer,
        backend=choice.backend,
        reason=choice.reason,
        device=str(device),
        arithmetic=arithmetic.replace("torch.", ""),
        layout=str(layout).removeprefix("torch."),
        update=sign_update_route(p, delta),
        products=1 if settings.linearize_at == "input" else settings.stops[-1],
        notes=tuple(notes),
    )
