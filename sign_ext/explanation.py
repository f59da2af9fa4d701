"""`SignTransform.explain()`: what will run, where, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sign_ext.checks import device_of
from sign_ext.compiler.ir.island import Island, label_of
from sign_ext.engine.backends import Engines
from sign_ext.engine.batch import DEFAULT_BATCH
from sign_ext.engine.eager import Layout
from sign_ext.engine.fused.step import Step
from sign_ext.engine.onchip.cost import work_of
from sign_ext.engine.timing import ceilings
from sign_ext.engine.trajectory import Problem, compiled_layout, iterate_dtype
from sign_ext.formatting import bytes_in_words, counted
from sign_ext.ops import sign_update_route

ISLANDS_SHOWN = 5


@dataclass(frozen=True)
class IslandShare:
    """A part of a compiled step that PyTorch runs.

    Attributes:
        operations: the ATen operations inside.
        module: that of its weights, or "" if it has none.
        share: of a step, from 0 to 1, estimated from arithmetic and bytes moved.
    """

    operations: tuple[str, ...]
    module: str
    share: float

    def __str__(self) -> str:
        """One line."""
        shown = label_of(self.operations, self.module)
        return f"{shown}: {self.share:.0%} of a step (estimated)"


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
        update: which kernel runs line 4 of Algorithm 1.
        products: vector-Jacobian products for each image.
        operations: which operators run the network; () where it is not compiled.
        islands: the parts of the compiled step that PyTorch runs, since the compiler has no rule
            for them, the largest first.
        memory: the compiled step's memory plan, or None.
        bytes_per_image: that plan's peak, or None.
        floor: the least that an image and step can cost on this machine, or None.
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
    islands: tuple[IslandShare, ...] = ()
    memory: str | None = None
    bytes_per_image: int | None = None
    floor: str | None = None
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        return asdict(self)

    def in_short(self) -> str:
        """One line: where Φ is read, what runs where, and why if the network is not compiled."""
        why = "" if self.operations else f" ({self.reason})"
        return f"Φ is {self.source_layer}; backend {self.backend}{why} on {self.device}"

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
            *(("island", str(island)) for island in self.islands[:ISLANDS_SHOWN]),
            *([("islands", self._others())] if len(self.islands) > ISLANDS_SHOWN else []),
            *([("memory", self.memory)] if self.memory else []),
            *([("floor", self.floor)] if self.floor else []),
            *(("note", note) for note in self.notes),
        ]
        return "\n".join(f"{name:<11}{value}" for name, value in rows)

    def _others(self) -> str:
        others = self.islands[ISLANDS_SHOWN:]
        share = sum(island.share for island in others)
        return f"{len(others)} more, {share:.0%} of a step together (estimated)"


def explain(
    problem: Problem,
    engines: Engines,
    images: Tensor | None,
    *,
    network: nn.Module,
    source_layer: str,
    notes: Sequence[str] = (),
) -> Explanation:
    """What runs, where, and why; asking changes nothing that runs later.

    Args:
        problem: the call's; without images its Φ is not used.
        engines: what would run it.
        images: images like those to come, (N, ...), or None for what is known without.
        network: Φ and its classifier, without wrappers.
        source_layer: where Φ is read, for people.
        notes: what else is worth knowing.

    Raises:
        BackendError: the backend asked for by name cannot run this network.
    """
    settings, dtype = problem.settings, problem.model_dtype
    device = device_of(network) if images is None else images.device
    shape = (3, 32, 32) if images is None else images.shape[1:]
    iterate = torch.empty((1, *shape), dtype=iterate_dtype(dtype), device=device)
    details: dict[str, Any] = {}
    if images is None:
        choice = engines.last_choice(device)
        layout = Layout(compiled_layout(iterate))
    else:
        choice = engines.resolve(problem, images)
        batch = images[: settings.batch_size or DEFAULT_BATCH]
        layout = engines.layout(choice.backend, problem, batch)
        details = _details(choice.backend, problem, engines, images)
    iterate = torch.empty_like(iterate, memory_format=layout.format)
    if layout.why:
        notes = [f"runs in the layout of the images: {layout.why}", *notes]
    if len(settings.stops) > 1:
        steps = ", ".join(map(str, settings.stops))
        notes = [f"snapshots {steps} come from one trajectory", *notes]
    arithmetic = f"network {dtype}, iterate {iterate.dtype}, precision {settings.precision}"
    return Explanation(
        model=type(network).__name__,
        source_layer=source_layer,
        backend=choice.backend,
        reason=choice.reason,
        device=str(device),
        arithmetic=arithmetic.replace("torch.", ""),
        layout=str(layout.format).removeprefix("torch."),
        update=sign_update_route(iterate, torch.empty_like(iterate, dtype=dtype)),
        products=1 if settings.linearize_at == "input" else settings.stops[-1],
        **details,
        notes=tuple(notes),
    )


def _details(backend: str, problem: Problem, engines: Engines, images: Tensor) -> dict[str, Any]:
    """The compiled step, as fields of `Explanation`; {} where the backend compiles none."""
    if backend == "onchip":
        network = engines.onchip.network(problem, images)
        return {"operations": network.lines(), "floor": str(work_of(network))}
    if backend == "fused":
        step = engines.fused.step(problem, images)
        return {
            "operations": _describe_operators(step),
            "islands": _islands(step),
            "memory": f"{step.memory}; {counted(step.micro_batch, 'image')} at a time",
            "bytes_per_image": step.memory.peak,
            "floor": _describe_floor(step, images.device),
        }
    return {}


def _describe_operators(step: Step) -> tuple[str, ...]:
    """The operators of a compiled step: our fused ones, the library's and PyTorch's own."""
    ops = step.program.ops
    activations = sum(r.kind == "bit mask" for op in ops for r in op.residues())
    kinds: dict[str, Counter[str]] = {"ours": Counter(), "library": Counter(), "PyTorch": Counter()}
    for op in ops:
        ours = op.runs_by == "ours"
        kind = op.kind.replace("_", " ")
        kinds[op.runs_by]["depthwise convolution" if ours and kind == "convolution" else kind] += 1
    if activations:
        kinds["ours"]["activation kept as bits"] = activations
    lines = []
    names = {"ours": "fused", "library": f"by {step.library}", "PyTorch": "by PyTorch"}
    for who, found in kinds.items():
        if found:
            counts = ", ".join(f"{n} {kind}" for kind, n in found.items())
            lines.append(f"{names[who]}: {counts}")
    if step.schedule.stem and ops:
        lines.append("the first convolution's input-backward adds to the image: no δ in memory")
    return tuple(lines)


def _islands(step: Step) -> tuple[IslandShare, ...]:
    found = [
        IslandShare(op.names, op.where, share)
        for op, share in zip(step.program.ops, step.program.shares(), strict=True)
        if isinstance(op, Island)
    ]
    return tuple(sorted(found, key=lambda island: -island.share))


def _describe_floor(step: Step, device: torch.device) -> str:
    """The least that one image and step can cost, from this machine's measured ceilings."""
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
