"""`SignTransform.explain()`: what will run, where, and why."""

from __future__ import annotations

import re
import textwrap
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sign_ext.checks import device_of
from sign_ext.compiler.ir.dense import Convolution
from sign_ext.compiler.ir.framewise import Framewise
from sign_ext.compiler.ir.island import Island, label_of
from sign_ext.compiler.ir.op import Op
from sign_ext.engine.backends import Engines
from sign_ext.engine.batch import DEFAULT_BATCH
from sign_ext.engine.eager import Layout
from sign_ext.engine.fused.step import Step
from sign_ext.engine.onchip.cost import work_of
from sign_ext.engine.timing import ceilings
from sign_ext.engine.trajectory import Problem, compiled_layout, iterate_dtype
from sign_ext.formatting import bytes_in_words, counted, quantity, share_in_words
from sign_ext.ops import sign_update_route
from sign_ext.settings import SIGN

ISLANDS_SHOWN = 5
COLUMNS = 120  # of a printed line
NO_BREAK = "\N{NO-BREAK SPACE}"
NAMES = 11  # of them, for what a line is about

# What operations are called whose kind is no noun, or has an irregular plural.
NOUNS = {
    "adaptive average": "adaptive average pool",
    "adaptive maximum": "adaptive max pool",
    "broadcast": "broadcast operation",
    "choose": "choice by a mask",
    "concat": "concatenation",
    "elementwise": "elementwise operation",
    "elu": "ELU",
    "first": "extreme value",
    "gather": "gathering of positions",
    "group norm": "GroupNorm",
    "insert": "insertion",
    "linear": "linear layer",
    "matmul": "matrix product",
    "multiply": "product of two values",
    "pad": "padding",
    "pointwise": "pointwise operation",
    "prelu": "PReLU",
    "rearrange": "rearrangement",
    "reduce": "reduction",
    "resample": "interpolation",
    "rms norm": "RMSNorm",
    "select": "selection",
    "smooth": "smooth activation",
    "squeeze-excitation": "squeeze-and-excitation",
    "take": "selection by an index",
    "upsample": "upsampling",
}
PLURALS = {
    "choice by a mask": "choices by a mask",
    "convolution 1×1": "convolutions 1×1",
    "gathering of positions": "gatherings of positions",
    "product of two values": "products of two values",
    "selection by an index": "selections by an index",
    "softmax": "softmaxes",
    "squeeze-and-excitation": "squeeze-and-excitations",
}


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
        return f"{shown}: {share_in_words(self.share)} of a step (estimated)"


@dataclass(frozen=True)
class Explanation:
    """What runs and why; `print` it, or take `to_dict()`.

    Attributes:
        model: the network's class.
        source_layer: where Φ is read, or the output that an objective reads.
        backend: the backend's name.
        reason: why that one.
        device: where it runs.
        arithmetic: dtypes of iterate and network, and the float32 switches.
        layout: memory layout of the iterate.
        update: which kernel runs line 4 of Algorithm 1.
        products: vector-Jacobian products for each image.
        operations: which operators run the network, with their estimated shares of a step; ()
            where it is not compiled.
        islands: the parts of the compiled step that PyTorch runs, since the compiler has no rule
            for them, the largest first.
        memory: the compiled step's memory plan, or None.
        bytes_per_image: that plan's peak, or None.
        floor: the least that an image and step can cost on this machine, or None.
        notes: anything else worth knowing.
        objective: what a step climbs and how, where that is not SIGN's; or "".
        reads_output: whether the objective is one of the network's output, not the sum over Φ.
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
    objective: str = ""
    reads_output: bool = False

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        return asdict(self)

    def in_short(self) -> str:
        """One line: where Φ is read, what runs where, and why if the network is not compiled."""
        why = "" if self.operations else f" ({self.reason})"
        layer = f"Φ is {self.source_layer}"
        if self.reads_output:
            layer = f"the objective ({self.objective.split(';')[0]}) reads {self.source_layer}"
        return f"{layer}; backend {self.backend}{why} on {self.device}"

    def __str__(self) -> str:
        """One answer a row, broken at 120 columns."""
        rows = [
            ("model", self.model),
            *self._objective_rows(),
            ("backend", f"{self.backend} ({self.reason})"),
            ("device", self.device),
            ("arithmetic", self.arithmetic),
            ("layout", self.layout),
            ("update", self.update),
            ("products", f"{counted(self.products, 'vector-Jacobian product')} for each image"),
            *(("operations", line) for line in self.operations),
            *self._island_rows(),
            *([("memory", self.memory)] if self.memory else []),
            *([("floor", self.floor)] if self.floor else []),
            *(("note", note) for note in self.notes),
        ]
        return "\n".join(_row(name, value) for name, value in rows)

    def _objective_rows(self) -> list[tuple[str, str]]:
        """Φ; or the objective, and the output that it reads where that is not Φ."""
        layer = ("output" if self.reads_output else "Φ", self.source_layer)
        return [layer, ("objective", self.objective)] if self.objective else [layer]

    def _island_rows(self) -> list[tuple[str, str]]:
        """Each of the largest islands; of several, first how much of a step all of them take."""
        rows = [("island", str(island)) for island in self.islands[:ISLANDS_SHOWN]]
        if len(self.islands) > 1:
            share = share_in_words(sum(island.share for island in self.islands))
            largest = f"; the largest {ISLANDS_SHOWN}:" if len(self.islands) > ISLANDS_SHOWN else ""
            total = f"{len(self.islands)}, together {share} of a step (estimated){largest}"
            rows.insert(0, ("islands", total))
        return rows


def _row(name: str, value: str) -> str:
    """A row; a number stays on the line of what it counts, and a parenthesis on that before it."""
    row = textwrap.fill(
        re.sub(r"(?<=\d) | (?=\()", NO_BREAK, value),
        COLUMNS,
        initial_indent=f"{name:<{NAMES}}",
        subsequent_indent=" " * NAMES,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return row.replace(NO_BREAK, " ")


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
        update=(
            "torch: this update needs the whole gradient in memory"
            if settings.rule.needs_delta
            else sign_update_route(iterate, torch.empty_like(iterate, dtype=dtype))
        ),
        products=1 if settings.linearize_at == "input" else settings.stops[-1],
        **details,
        notes=tuple(notes),
        objective="" if settings.rule == SIGN else str(settings.rule),
        reads_output=settings.rule.reads_output,
    )


def _details(backend: str, problem: Problem, engines: Engines, images: Tensor) -> dict[str, Any]:
    """The compiled step, as fields of `Explanation`; {} where the backend compiles none."""
    if backend == "onchip":
        network = engines.onchip.network(problem, images)
        return {"operations": network.lines(), "floor": str(work_of(network))}
    if backend == "fused":
        step = engines.fused.step(problem, images)
        return {
            "operations": _describe_operators(step, by_stem=not problem.settings.rule.needs_delta),
            "islands": _islands(step),
            "memory": f"{step.memory}; {counted(step.micro_batch, 'image')} at a time",
            "bytes_per_image": step.memory.peak,
            "floor": _describe_floor(step, images.device),
        }
    return {}


def _describe_operators(step: Step, *, by_stem: bool) -> tuple[str, ...]:
    """Who runs a compiled step: our fused operators, the library's, PyTorch's; largest first."""
    library = "oneDNN and BLAS" if step.library == "oneDNN" else step.library
    names = {"ours": "fused", "library": f"by {library}", "PyTorch": "by PyTorch"}
    found: dict[str, dict[str, list[float]]] = {who: defaultdict(list) for who in names}
    for op, share in zip(step.program.ops, step.program.shares(), strict=True):
        found[op.runs_by][noun_of(op)].append(share)
    total = {who: sum(map(sum, kinds.values())) for who, kinds in found.items()}
    lines = []
    for who in sorted(names, key=lambda each: -total[each]):
        if kinds := found[who]:
            head = f"{names[who]}, {share_in_words(total[who])} of a step (estimated): "
            lines.append(head + ", ".join(_describe_kinds(kinds)))
    if bits := sum(r.kind == "bit mask" for op in step.program.ops for r in op.residues()):
        lines.append(f"{counted(bits, 'activation')} kept as bits until the backward pass")
    if by_stem and step.schedule.stem and step.program.ops:
        lines.append("the first convolution's input-backward adds to the image: no δ in memory")
    return tuple(lines)


def _describe_kinds(kinds: dict[str, list[float]]) -> list[str]:
    """Each kind's number, and its share if there is more than one kind; the largest first."""
    shown = []
    for noun, shares in sorted(kinds.items(), key=lambda item: -sum(item[1])):
        share = f" ({share_in_words(sum(shares))})" if len(kinds) > 1 else ""
        shown.append(counted(len(shares), noun, PLURALS.get(noun)) + share)
    return shown


def noun_of(op: Op) -> str:
    """What one operation of its kind is called.

    Args:
        op: of a program.
    """
    if isinstance(op, Framewise):
        return noun_of(op.inner)
    kind = op.kind.replace("_", " ")
    if isinstance(op, Convolution):
        if op.is_depthwise:
            return "depthwise convolution"
        return "convolution 1×1" if op.kernel == (1, 1) else kind
    return NOUNS.get(kind, kind)


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
    text = f"{quantity(flops, 'FLOP')} an image and step: {quantity(flops / most.flops, 's')} at "
    text += f"the {quantity(most.flops, 'FLOP/s')} of a matrix product here"
    if device.type == "cuda":
        text += f"; {bytes_in_words(traffic)} through memory: "
        text += f"{quantity(traffic / most.bandwidth, 's')} at {quantity(most.bandwidth, 'B/s')}"
    return text
