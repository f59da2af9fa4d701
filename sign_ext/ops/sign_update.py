"""sign_update_: the last line of Algorithm 1's loop, p ← p + δ, in place and in one pass."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sign_ext.ops import native
from sign_ext.ops.layout import is_dense, may_overlap_itself, same_layout, share_memory
from sign_ext.ops.native import describe_route, operator
from sign_ext.ops.watch import check_watch, raise_watch

_ITERATE_TYPES = (torch.float32, torch.float64)
_DELTA_TYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_NATIVE_DELTA_TYPES = (torch.float32, torch.bfloat16, torch.float16)


def _fallback_reason(p: Tensor, delta: Tensor, velocity: Tensor | None = None) -> str | None:
    device = p.device.type
    if not native.NATIVE.loaded:
        return native.NATIVE.why
    if device not in ("cpu", "cuda"):
        return f"there is no native operator for {device}"
    if device == "cuda" and not native.NATIVE.cuda:
        return f"no CUDA operator was built: {native.NATIVE.why}"
    if p.dtype != torch.float32:
        return f"p is {_name(p.dtype)}, the native operator is float32"
    if delta.dtype not in _NATIVE_DELTA_TYPES:
        return f"delta is {_name(delta.dtype)}"
    if not is_dense(p):
        return "p is not dense"
    if not same_layout(p, delta):
        return "p and delta have different strides"
    if velocity is not None and not same_layout(p, velocity):
        return "p and velocity have different strides"
    return None


def _check_and_choose(
    p: Tensor,
    delta: Tensor,
    velocity: Tensor | None,
    _step_size: float,
    _momentum: float,
    clamp_min: float | None,
    clamp_max: float | None,
    watch: Tensor | None,
    counts: Tensor | None,
) -> str | None:
    # Arguments are checked first: a route can only be chosen for shapes that agree.
    _check(p, delta, velocity, clamp_min, clamp_max)
    check_watch(watch, counts)
    return _fallback_reason(p, delta, velocity)


@operator(reason=_check_and_choose, changed=("p", "velocity"))
def sign_update_(
    p: Tensor,
    delta: Tensor,
    velocity: Tensor | None = None,
    *,
    step_size: float = 1.0,
    momentum: float = 0.0,
    clamp_min: float | None = None,
    clamp_max: float | None = None,
    watch: Tensor | None = None,
    counts: Tensor | None = None,
) -> None:
    """Add one step of δ to the iterate p, in place (Algorithm 1, line 4).

    With a velocity: v ← momentum · v + δ, then p ← p + step_size · v ("accumulating a velocity
    across iterations"). Without: p ← p + step_size · δ. Then p is clamped, if bounds are given. The
    native operator makes one pass over memory; `sign_update_route` says whether it runs.

    Args:
        p: the iterate, any shape, float32 or float64, pixel units (0–255). Changed in place.
        delta: δ = Σ_a ∂Φ^a/∂x at p, p's shape and device, float32, float64, bfloat16 or float16.
        velocity: v, p's shape, dtype and device, or None. Changed in place.
        step_size: factor of δ (or of v) in the update.
        momentum: factor of the old velocity; used only with a velocity.
        clamp_min: lower bound of p in pixel units, or None. NaN stays NaN, as in `torch.clamp`.
        clamp_max: upper bound, or None. It wins where the bounds are crossed.
        watch: 2 contiguous values that are not negative, p's dtype and device, or None. They are
            raised to the largest |δ| and the largest |p + step_size · v| before the clamp; NaN
            stays.
        counts: 3 contiguous int32 on p's device (`sign_ext.ops.watch.new_counts`), or None. The
            step is counted, unless p is empty, and noted if it is the first after which the watch
            is not finite.

    Raises:
        TypeError: a dtype that is not accepted.
        ValueError: a shape, device or bound that does not fit, p or velocity written through
            overlapping elements, arguments that share memory, or counts without a watch.
        RuntimeError: grad mode is on and an argument requires grad: the update has no derivative.

    Example:
        >>> p, delta = torch.zeros(2, 3), torch.ones(2, 3)
        >>> sign_update_(p, delta, step_size=0.5, clamp_max=0.25)
        >>> p[0, 0].item()
        0.25
        >>> p, v = torch.zeros(3), torch.ones(3)
        >>> sign_update_.reference(p, torch.ones(3), v, momentum=0.5)
        >>> p.tolist()
        [1.5, 1.5, 1.5]
    """
    _check(p, delta, velocity, clamp_min, clamp_max)
    check_watch(watch, counts)
    direction = delta.to(p.dtype)
    if velocity is not None:
        direction = velocity.mul_(momentum).add_(direction)
    p.add_(direction, alpha=step_size)
    if watch is not None and p.numel():
        raise_watch(watch, delta, p, counts)
    if clamp_min is not None or clamp_max is not None:
        p.clamp_(clamp_min, clamp_max)


sign_update_reference_ = sign_update_.reference


@sign_update_.register_fake
def _(p: Tensor, delta: Tensor, velocity: Tensor | None, *_: object) -> None:
    for tensor in (delta, velocity):
        if tensor is not None:
            torch._check(tensor.shape == p.shape, lambda: "sign_update_: shapes must agree")
            torch._check(tensor.device == p.device, lambda: "sign_update_: devices must agree")


def sign_update_route(p: Tensor, delta: Tensor, velocity: Tensor | None = None) -> str:
    """Say how `sign_update_` would run these arguments.

    Args:
        p: as for `sign_update_`.
        delta: as for `sign_update_`.
        velocity: as for `sign_update_`.

    Returns:
        "native-cpu", "native-cuda", or "torch: " and the reason.

    Example:
        >>> p = torch.zeros(4, dtype=torch.float64)
        >>> sign_update_route(p, p.clone())
        'torch: p is float64, the native operator is float32'
    """
    return describe_route(p, _fallback_reason(p, delta, velocity))


def _check(
    p: Tensor,
    delta: Tensor,
    velocity: Tensor | None,
    clamp_min: float | None,
    clamp_max: float | None,
) -> None:
    """Refuse what neither route can do; the message names the argument."""
    if p.dtype not in _ITERATE_TYPES:
        raise TypeError(f"p is {_name(p.dtype)}; it must be float32 or float64: pass p.float()")
    if delta.dtype not in _DELTA_TYPES:
        raise TypeError(
            f"delta is {_name(delta.dtype)}; it must be float32, float64, bfloat16 or float16"
        )
    if velocity is not None and velocity.dtype != p.dtype:
        raise TypeError(f"velocity is {_name(velocity.dtype)}; it must be p's {_name(p.dtype)}")
    tensors = {"p": p, "delta": delta} | ({} if velocity is None else {"velocity": velocity})
    for name, tensor in tensors.items():
        if tensor.shape != p.shape:
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)}; it must have p's shape {tuple(p.shape)}"
            )
        if tensor.device != p.device:
            raise ValueError(
                f"{name} is on {tensor.device}; it must be on p's device {p.device}:"
                f" pass {name}.to({str(p.device)!r})"
            )
        if name != "delta" and may_overlap_itself(tensor):
            raise ValueError(
                f"{name} has elements that share memory (an expanded tensor?) and cannot be"
                f" written: pass {name}.clone(memory_format=torch.contiguous_format)"
            )
        if name != "p" and share_memory(tensor, p):
            raise ValueError(f"{name} shares memory with p: pass {name}.clone()")
        if torch.is_grad_enabled() and tensor.requires_grad:
            raise RuntimeError(
                f"{name} requires grad, and sign_update_ has no derivative: call it under"
                f" torch.no_grad(), or pass {name}.detach()"
            )
    if velocity is not None and share_memory(velocity, delta):
        raise ValueError("velocity shares memory with delta: pass velocity.clone()")
    for name, bound in (("clamp_min", clamp_min), ("clamp_max", clamp_max)):
        if bound is not None and math.isnan(bound):
            raise ValueError(f"{name} is NaN; it must be a number, or None for no bound")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
