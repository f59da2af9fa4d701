"""What `SignTransform.explain()` answers: what will run, where, and why."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sign_ext.checks import place_of
from sign_ext.compiler.ir.dense import Convolution
from sign_ext.engine.onchip.cost import work_of
from sign_ext.engine.timing import ceilings
from sign_ext.engine.trajectory import iterate_dtype, memory_format
from sign_ext.errors import BackendError
from sign_ext.eval_state import unwrap
from sign_ext.formatting import bytes_in_words
from sign_ext.ops import sign_update_route
from sign_ext.source_layer import guess_source_layer

if TYPE_CHECKING:
    from sign_ext.engine.fused.step import Step
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
        operations: which operators run the network; () where it is not compiled.
        memory: the compiled step's memory plan, or None.
        bytes_per_image: that plan's peak, or None.
        floor: what an image and step cost at least on this machine, or None.
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
    operations: tuple[str, ...] = ()
    memory: str | None = None
    bytes_per_image: int | None = None
    floor: str | None = None
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
            *(("operations", line) for line in self.operations),
            *([("memory", self.memory)] if self.memory else []),
            *([("floor", self.floor)] if self.floor else []),
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
    settings = sign.settings
    compiled = _compiled(sign, images) if images is not None else {}
    choice = sign.engines.choice(device, images)
    arithmetic = f"network {dtype}, iterate {iterate}, precision {settings.precision}"
    notes = []
    if len(settings.stops) > 1:
        notes.append(f"snapshots {', '.join(map(str, settings.stops))} come from one trajectory")
    if images is not None and device.type == "cuda":
        notes.append(f"at most {sign.images_at_once(images):,} images at a time")
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
        **compiled,
        notes=tuple(notes),
    )


def _compiled(sign: SignTransform, images: Tensor) -> dict[str, Any]:
    """What there is to say of the compiled step, nothing where another backend runs."""
    choice = sign.engines.choice(images.device, images)
    if choice.backend == "onchip":
        try:
            network = sign.on_chip(images)
            return {"operations": network.lines(), "floor": str(work_of(network))}
        except BackendError as error:
            sign.engines.refuse("onchip", images, str(error))
            choice = sign.engines.choice(images.device, images)
    if choice.backend != "fused":
        return {}
    try:
        step = sign.step(images)
    except BackendError as error:
        sign.engines.refuse("fused", images, str(error))
        return {}
    return {
        "operations": operators_in_words(step),
        "memory": f"{step.memory}; {step.micro_batch} images at a time",
        "bytes_per_image": step.memory.peak,
        "floor": floor_in_words(step, images.device),
    }


def operators_in_words(step: Step) -> tuple[str, ...]:
    """Which operators run a compiled step, the fused ones and the library's."""
    ops = step.program.ops
    activations = sum(r.kind == "bit mask" for op in ops for r in op.residues())
    kinds = Counter(
        "depthwise convolution"
        if isinstance(op, Convolution) and op.is_depthwise
        else op.kind.replace("_", " ")
        for op in ops
    )
    library = {kind: kinds.pop(kind) for kind in ("convolution", "linear") if kind in kinds}
    torch_only = {
        kind: kinds.pop(kind)
        for kind in ("smooth", "multiply", "concat", "slice", "pad", "reshape", "adaptive average")
        if kind in kinds
    }
    lines = []
    fused = {**kinds, "activation kept as bits": activations} if activations else dict(kinds)
    names = (("fused", fused), (f"by {step.library}", library), ("by PyTorch", torch_only))
    for name, counted in names:
        if counted:
            what = ", ".join(f"{n} {kind}" for kind, n in counted.items())
            lines.append(f"{name}: {what}")
    if step.schedule.stem and ops:
        lines.append("the first convolution's input-backward adds to the image: no δ in memory")
    return tuple(lines)


def floor_in_words(step: Step, device: torch.device) -> str:
    """What one image and step cost at least, from this machine's measured ceilings."""
    most = ceilings(device, step.dtype)
    flops, traffic = step.program.flops(), step.memory.traffic
    arithmetic = flops / most.flops * 1e6
    text = f"{flops / 1e6:.3g} MFLOP an image and step: {arithmetic:.3g} µs at the "
    text += f"{most.flops / 1e9:.3g} GFLOP/s of a matrix product here"
    if device.type == "cuda":
        copying = traffic / most.bandwidth * 1e6
        text += f"; {bytes_in_words(traffic)} through memory: {copying:.3g} µs at "
        text += f"{most.bandwidth / 1e9:.4g} GB/s"
    return text
