"""All other operators at the networks' shapes: error against the reference, share of floor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from common import begin, share_of_floor, timed
from pool_layers import AVERAGE_POOLS, MAX_POOLS, Pool
from test_depthwise import LAYERS
from test_stem_update import STEMS
from torch import Tensor

from sign_ext.engine.agreement import relative_distance
from sign_ext.ops.activate import activate
from sign_ext.ops.activation import RELU, RELU6, mask_shape
from sign_ext.ops.average_pool_backward import average_pool_backward
from sign_ext.ops.depthwise import depthwise, depthwise_backward
from sign_ext.ops.masked_cotangent import masked_cotangent
from sign_ext.ops.max_pool import index_shape, max_pool, max_pool_backward
from sign_ext.ops.native import route
from sign_ext.ops.sign_update import sign_update_, sign_update_reference_
from sign_ext.ops.stem_update import stem_update_

IMAGES = 1056
CHECKED = 16  # images that are compared: the reference in float64 is slow
# Relative error allowed: of a value that is rounded once or summed in float32, and of an update.
CLOSE = {torch.float32: 1e-5, torch.bfloat16: 2**-8}
CLOSE_MOVE = 1e-3
BITS = 0.02  # largest share of bits that rounding may flip, for bfloat16 values close to a bound
STEP = {"step_size": 0.5, "clamp_min": 0.0, "clamp_max": 255.0}


@dataclass(frozen=True)
class Case:
    """One operator at one shape.

    Attributes:
        name: Name of the fact.
        run: The operator.
        definition: Its reference, called with the same arguments in float64.
        inputs: Positional arguments; (N, ...) tensors are sliced for the check.
        options: Keyword arguments.
        written: Indices of `inputs` and names of options that the operator writes.
        dtype: Type of the activations.
        flop: Operations that matrix units could do.
    """

    name: str
    run: Callable[..., None]
    definition: Callable[..., None]
    inputs: tuple[Tensor, ...]
    written: tuple[int | str, ...]
    dtype: torch.dtype
    options: dict[str, Any] = field(default_factory=dict)
    flop: float = 0

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors that are read or written."""
        return [t for t in (*self.inputs, *self.options.values()) if isinstance(t, Tensor)]

    @property
    def moved(self) -> int:
        """Bytes read and written: each tensor once, one updated in place twice."""
        changed = self.inputs[0] if 0 in self.written else None
        return sum(t.nbytes * (2 if t is changed else 1) for t in self.tensors)


def _part(value: Any, images: int, few: int, *, wide: bool) -> Any:
    """Copy the rows of the first few images; weights and vectors are copied whole.

    Activations have one row per image, bit masks one row per position of an image.
    """
    if not isinstance(value, Tensor):
        return value
    of_images = value.dim() == 4 or value.dtype == torch.uint8
    rows = len(value) // images * few if of_images and len(value) % images == 0 else len(value)
    part = value[:rows].clone()
    return part.double() if wide and part.is_floating_point() else part


def errors_of(case: Case) -> dict[str, Any]:
    """Relative L2 error of the outputs (an update: of the change), and the share of wrong bits."""
    images = len(case.inputs[0])
    few = min(CHECKED, max(1, images // 2))
    outcomes = []
    for run, wide in ((case.run, False), (case.definition, True)):
        inputs = [_part(each, images, few, wide=wide) for each in case.inputs]
        options = {name: _part(v, images, few, wide=wide) for name, v in case.options.items()}
        before = inputs[0].double().clone()
        run(*inputs, **options)
        outcome = {**dict(enumerate(inputs)), **options}
        if 0 in case.written:
            outcome[0] = outcome[0].double() - before
        outcomes.append(outcome)
    got, expected = outcomes
    found: dict[str, Any] = {"checked": few}
    apart = 0.0
    for which in case.written:
        if got[which].is_floating_point():
            error = relative_distance(got[which], expected[which])
            close = CLOSE_MOVE if which == 0 else CLOSE[got[which].dtype]
            found |= {"error": error, "right": error < close}
        else:
            apart = max(apart, float((got[which] != expected[which]).double().mean()))
            found["bytes_of_bits_apart"] = apart
    found["right"] = found["right"] and apart < BITS
    return found


def cases(device: torch.device) -> Iterator[Case]:
    """All cases, those of BasicCNN and MobileNetV2 first."""
    on_gpu = device.type == "cuda"
    images = IMAGES if on_gpu else 2
    bfloat16, float32 = torch.bfloat16, torch.float32

    def normal(*shape: int, dtype: torch.dtype = bfloat16) -> Tensor:
        x = torch.randn(shape, device=device).to(dtype)
        return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x

    def empty(x: Tensor) -> Tensor:
        return torch.full_like(x, float("nan"))

    def bits(x: Tensor) -> Tensor:
        return torch.randint(256, mask_shape(x.shape), device=device, dtype=torch.uint8)

    def vector(count: int) -> Tensor:
        return torch.randn(count, device=device)

    for dtype in (bfloat16, float32):
        # Few pixels reach a bound: clamping would hide a wrong update.
        p = 255 * torch.rand(images, 3, 32, 32, device=device)
        p, delta = p.contiguous(memory_format=torch.channels_last), normal(images, 3, 32, 32)
        yield Case("sign_update_", sign_update_, sign_update_reference_, (p, delta.to(dtype)), (0,),
                   dtype, STEP)  # fmt: skip
        x = normal(images, 64, 32, 32, dtype=dtype)
        yield Case("activate: bias, relu", activate, activate.reference, (x, empty(x)), (1, "mask"),
                   dtype, {"activation": RELU, "bias": vector(64), "mask": bits(x)})  # fmt: skip
        yield Case("masked_cotangent: relu", masked_cotangent, masked_cotangent.reference,
                   (x, empty(x)), (1,), dtype, {"mask": bits(x)})  # fmt: skip
        for name, pool in MAX_POOLS.items():
            yield from _pooled(name, pool, dtype, images, normal, empty, bits, vector)
        for name, (channels, size, side, stride) in LAYERS.items():
            x, half = normal(images, channels, size, size, dtype=dtype), side // 2
            out = normal(images, channels, *[(size - 1) // stride + 1] * 2, dtype=dtype)
            weight = torch.randn(side, side, channels, device=device)
            geometry = {"stride": (stride, stride), "padding": (half, half)}
            yield Case(f"depthwise: {name}", depthwise, depthwise.reference,
                       (x, weight, empty(out)), (2, "mask"), dtype,
                       {"bias": vector(channels), "activation": RELU6, "mask": bits(out),
                        **geometry})  # fmt: skip
            yield Case(f"depthwise_backward: {name}", depthwise_backward,
                       depthwise_backward.reference, (out, weight, empty(x)), (2,), dtype,
                       {"mask": bits(out), **geometry})  # fmt: skip
        for name, stem in STEMS.items():
            if stem.size > 32:
                continue
            g = normal(images, stem.channels, stem.size, stem.size, dtype=dtype)
            weight = torch.randn(stem.kernel, stem.kernel, 3, stem.channels, device=device)
            yield Case(f"stem_update_: {name}", stem_update_, stem_update_.reference,
                       (p.clone(), g, weight), (0,), dtype,
                       {"mask": bits(g), "padding": (stem.kernel // 2,) * 2, **STEP},
                       flop=2.0 * g.numel() * stem.kernel**2 * 3)  # fmt: skip
        for name, mean in AVERAGE_POOLS.items():
            few = max(1, images // 4)
            x = normal(few, mean.channels, mean.size, mean.size, dtype=dtype)
            g = normal(few, mean.channels, mean.out, mean.out, dtype=dtype)
            yield Case(f"average_pool_backward: {name}", average_pool_backward,
                       average_pool_backward.reference, (g, empty(x)), (1,), dtype,
                       {**mean.options, "x_mask": bits(x)})  # fmt: skip


def _pooled(
    name: str, pool: Pool, dtype: torch.dtype, images: int, normal: Any, empty: Any, bits: Any,
    vector: Any,
) -> Iterator[Case]:  # fmt: skip
    """Both directions of max pooling; backward reads the indices and bits that forward wrote."""
    few = images if pool.size <= 32 else max(1, images // 8)
    x = normal(few, pool.channels, pool.size, pool.size, dtype=dtype)
    y = normal(few, pool.channels, pool.out, pool.out, dtype=dtype)
    shape = index_shape(y.shape, pool.options["kernel"])
    index = torch.empty(shape, dtype=torch.uint8, device=x.device)
    mask = bits(y)
    options = {**pool.options, "bias": vector(pool.channels), "activation": RELU, "mask": mask}
    yield Case(f"max_pool: {name}", max_pool, max_pool.reference, (x, empty(y), index),
               (1, 2, "mask"), dtype, options)  # fmt: skip
    max_pool(x, empty(y), index, **options)
    yield Case(f"max_pool_backward: {name}", max_pool_backward, max_pool_backward.reference,
               (y, index, empty(x)), (2,), dtype, {**pool.options, "mask": mask})  # fmt: skip


def main() -> None:
    """Record one fact per case; after a failure continue, if the device still works."""
    device, facts = begin()
    for case in cases(device):
        shape = "x".join(map(str, case.inputs[0].shape))
        labels = {"shape": shape, "dtype": str(case.dtype).removeprefix("torch.")}
        labels["route"] = route(case.inputs[0])
        try:
            errors = errors_of(case)
            times = {}
            if device.type == "cuda":
                timing = timed(lambda each=case: each.run(*each.inputs, **each.options), device)
                times = timing.us() | share_of_floor(facts, timing, case.moved, case.flop)
        except Exception as error:  # continue with the other cases
            facts.record(
                case.name, **labels, right=False, why=f"{type(error).__name__}: {error}"[:300]
            )
            if device.type == "cuda":
                torch.cuda.synchronize()  # raises if the error has destroyed the context
            continue
        facts.record(case.name, **labels, **errors, **times)


if __name__ == "__main__":
    main()
