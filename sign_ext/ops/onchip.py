"""onchip_: SIGN's steps, or one half of a step, by a kernel that keeps an image on chip."""

from __future__ import annotations

from torch import Tensor

from sign_ext.ops.native import NATIVE, operator


def _fallback_reason(p: Tensor) -> str | None:
    if not p.is_cuda:
        return f"runs on CUDA only, and p is on {p.device}"
    return None if NATIVE.cuda else f"was not built: {NATIVE.why}"


@operator(reason=_fallback_reason)
def onchip_(
    p: Tensor,
    plan: Tensor,
    weights: Tensor,
    constants: Tensor,
    *,
    velocity: Tensor | None = None,
    features: Tensor | None = None,
    residues: Tensor | None = None,
    cotangent: Tensor | None = None,
    watch: Tensor,
    counts: Tensor,
    steps: int,
    step_size: float = 1.0,
    momentum: float = 0.0,
    clamp_min: float | None = None,
    clamp_max: float | None = None,
) -> None:
    """Run a plan of `sign_ext.engine.onchip` on CUDA; csrc/onchip/onchip.h is the contract.

    It has no reference here and no kernel for CPUs: the backend that calls it refuses them. Tests
    run the kernel's text on an emulated device.

    Args:
        p: (N, C, H, W) in channels_last, float32, pixel units (0–255). Changed in place by plans
            with a backward half.
        plan: the kernel's plan, int32 on the CPU.
        weights: all layers' weights as the plan places them, bfloat16, contiguous.
        constants: biases and the other constants, float32, contiguous.
        velocity: v, as p, or None. Changed in place.
        features: a forward plan writes the last value here, (N, C, H, W) in channels_last,
            bfloat16.
        residues: a forward plan writes the bits that a backward plan reads, uint8,
            (N, bytes of an image). A plan of whole steps writes those of its last step, if given.
        cotangent: of the last value for a backward plan, as features.
        watch: 2 values that are not negative, float32. They are raised to the largest |δ| and the
            largest |p + step_size · v| before the clamp; NaN stays.
        counts: 3 int32, `sign_ext.ops.watch.new_counts`: the steps taken, the first that was not
            finite, and the kernel's own. Plans without a backward half leave them alone.
        steps: how many; 1 for plans of half a step.
        step_size: factor of δ (or of v) in the update.
        momentum: factor of the old velocity.
        clamp_min: lower bound of p in pixel units, or None.
        clamp_max: upper bound, or None.

    Raises:
        NotImplementedError: p is not on CUDA, or the package was built without CUDA.
        RuntimeError: the operator refuses an argument, or the device the launch.

    Example:
        >>> import torch
        >>> p = torch.zeros(1, 1, 2, 2)
        >>> onchip_(p, p, p, p, steps=1, watch=p, counts=p)
        Traceback (most recent call last):
        ...
        NotImplementedError: onchip_ runs on CUDA only, and p is on cpu
    """
    raise NotImplementedError(f"onchip_ {_fallback_reason(p)}")


@onchip_.register_fake
def _(*_: object) -> None:
    """What changes, changes in place."""
