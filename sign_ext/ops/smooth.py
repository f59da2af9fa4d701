"""smooth and smooth_backward: smooth activations, whose derivatives take 16 or 24 bits."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

import torch
from torch import Tensor
from torch.nn import functional as F

from sign_ext.ops.activation import widen
from sign_ext.ops.native import operator

_aten = torch.ops.aten
NOT_A_NUMBER = -32768  # the code of a derivative that is NaN


class SmoothFunction(Enum):
    """The activations that the operators know, by their numbers in the native schemas."""

    SILU = (0,)
    GELU = (1,)
    GELU_TANH = (2,)
    HARDSWISH = (3,)
    HARDSIGMOID = (4,)
    MISH = (5,)

    def value_of(self, x: Tensor) -> Tensor:
        """f(x).

        Args:
            x: any floating tensor.
        """
        return _FORMULAS[self][0](x)

    def derivative_of(self, x: Tensor) -> Tensor:
        """f′(x).

        Args:
            x: any floating tensor.
        """
        return _FORMULAS[self][1](torch.ones_like(x), x)

    @property
    def steps(self) -> tuple[float, float]:
        """How a derivative is stored: steps in 1, and what is added so that 16 bits hold them."""
        return (24576.0, -12288.0) if self is SmoothFunction.HARDSWISH else (49152.0, -24576.0)

    def encode(self, derivative: Tensor, *, fine: bool) -> tuple[Tensor, Tensor | None]:
        """A derivative as a number of steps. 0 and 1 are exact.

        Args:
            derivative: any floating tensor, from `derivative_of`.
            fine: whether 256ths of a step are stored too.

        Returns:
            Whole steps, int16, and 256ths, uint8, or None. Without those it is off by half a step
            at most, with them by a 256th.
        """
        scale, offset = self.steps
        steps = derivative * scale + offset
        whole = steps.floor() if fine else steps.round()
        whole = whole.clamp(-32767, 32767)
        parts = ((steps - whole) * 256).floor().clamp(0, 255)
        whole = whole.nan_to_num(nan=NOT_A_NUMBER).to(torch.int16)
        return whole, parts.nan_to_num(nan=0).to(torch.uint8) if fine else None

    def decode(self, whole: Tensor, fraction: Tensor | None, dtype: torch.dtype) -> Tensor:
        """The inverse of `encode`.

        Args:
            whole: int16; a floating tensor is a derivative as it is.
            fraction: uint8 or None.
            dtype: of the result.
        """
        if whole.dtype != torch.int16:
            return whole.to(dtype)
        scale, offset = self.steps
        steps = whole.to(dtype) - offset
        if fraction is not None:
            steps = steps + fraction.to(dtype) / 256
        return torch.where(whole == NOT_A_NUMBER, torch.nan, steps / scale)


def _hardswish_backward(g: Tensor, x: Tensor) -> Tensor:
    """As PyTorch's; written out because versions differ at x = -3 and 3."""
    return g * torch.where(x <= -3, 0.0, torch.where(x >= 3, 1.0, x / 3 + 0.5))


_FORMULAS: dict[
    SmoothFunction, tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]
] = {
    SmoothFunction.SILU: (F.silu, lambda g, x: _aten.silu_backward(g, x)),
    SmoothFunction.GELU: (F.gelu, lambda g, x: _aten.gelu_backward(g, x)),
    SmoothFunction.GELU_TANH: (
        lambda x: F.gelu(x, approximate="tanh"),
        lambda g, x: _aten.gelu_backward(g, x, approximate="tanh"),
    ),
    SmoothFunction.HARDSWISH: (F.hardswish, _hardswish_backward),
    SmoothFunction.HARDSIGMOID: (F.hardsigmoid, lambda g, x: _aten.hardsigmoid_backward(g, x)),
    SmoothFunction.MISH: (F.mish, lambda g, x: _aten.mish_backward(g, x)),
}


@operator(flatten={"function": "value"})
def smooth(
    x: Tensor,
    out: Tensor,
    derivative: Tensor | None = None,
    fraction: Tensor | None = None,
    *,
    function: SmoothFunction,
) -> None:
    """Write f(x) into `out`, and f′(x) into `derivative`.

    The arithmetic is float32 where x is float32 or bfloat16. Autograd does not see what is written.

    Args:
        x: float32 or bfloat16, dense, of any shape (any floating dtype and layout where the
            reference runs).
        out: x's shape, strides and dtype. It may be x.
        derivative: x's shape and strides, int16 (see `SmoothFunction.encode`; where the reference
            runs also a floating dtype, as it is), or None where there is no backward pass.
        fraction: x's shape and strides, uint8: 256ths of a step of the derivative. None rounds it
            to whole steps, enough where activations are bfloat16.
        function: the activation.

    Raises:
        RuntimeError: the native operator refuses an argument; the message names it.
        ValueError: the reference refuses one.

    Example:
        >>> x, steps = torch.tensor([-4.0, 0.0, 4.0]), torch.empty(3, dtype=torch.int16)
        >>> smooth(x, x, steps, function=SmoothFunction.HARDSWISH)
        >>> x.tolist(), SmoothFunction.HARDSWISH.decode(steps, None, torch.float32).tolist()
        ([-0.0, 0.0, 4.0], [0.0, 0.5, 1.0])
        >>> slope = torch.empty(1, dtype=torch.float64)
        >>> smooth.reference(slope * 0, slope * 0, slope, function=SmoothFunction.SILU)
        >>> slope.tolist()
        [0.5]
    """
    for name, tensor in (("out", out), ("derivative", derivative), ("fraction", fraction)):
        if tensor is not None and tensor.shape != x.shape:
            raise ValueError(f"smooth: {name} must have x's shape {tuple(x.shape)}")
    if fraction is not None and derivative is None:
        raise ValueError("smooth: fraction needs a derivative")
    wide = widen(x)
    slope = None if derivative is None else function.derivative_of(wide)
    out.copy_(function.value_of(wide))
    if derivative is None or slope is None:
        return
    if derivative.dtype != torch.int16:
        derivative.copy_(slope)
        return
    whole, parts = function.encode(slope, fine=fraction is not None)
    derivative.copy_(whole)
    if fraction is not None and parts is not None:
        fraction.copy_(parts)


@smooth.register_fake
def _(x: Tensor, out: Tensor, derivative: Tensor | None, *_: object) -> None:
    torch._check(out.shape == x.shape, lambda: "smooth: out must have x's shape")
    torch._check(out.device == x.device, lambda: "smooth: out must be on x's device")


@operator(flatten={"function": "value"})
def smooth_backward(
    g: Tensor,
    derivative: Tensor,
    out: Tensor,
    fraction: Tensor | None = None,
    *,
    other: Tensor | None = None,
    function: SmoothFunction,
) -> None:
    """Write g · f′ + other into `out`, f′ being what `smooth` wrote.

    Args:
        g: the cotangent of f(x), float32 or bfloat16, dense, of any shape (any floating dtype and
            layout where the reference runs).
        derivative: from `smooth`.
        out: g's shape, strides and dtype. It may be g or other.
        fraction: from `smooth`, or None where it wrote none.
        other: another branch's cotangent of x, g's shape, strides and dtype, or None for 0.
        function: the activation.

    Raises:
        RuntimeError: the native operator refuses an argument; the message names it.
        ValueError: the reference refuses one.

    Example:
        >>> x, steps = torch.zeros(2), torch.empty(2, dtype=torch.int16)
        >>> smooth(x, x, steps, function=SmoothFunction.SILU)
        >>> g = torch.tensor([2.0, 4.0])
        >>> smooth_backward(g, steps, g, function=SmoothFunction.SILU)
        >>> g.tolist()
        [1.0, 2.0]
    """
    given = {"derivative": derivative, "out": out, "fraction": fraction, "other": other}
    for name, tensor in given.items():
        if tensor is not None and tensor.shape != g.shape:
            raise ValueError(f"smooth_backward: {name} must have g's shape {tuple(g.shape)}")
    v = widen(g)
    v = v * function.decode(derivative, fraction, v.dtype)
    out.copy_(v if other is None else v + other)


@smooth_backward.register_fake
def _(g: Tensor, derivative: Tensor, out: Tensor, *_: object) -> None:
    torch._check(out.shape == g.shape, lambda: "smooth_backward: out must have g's shape")
    torch._check(derivative.shape == g.shape, lambda: "smooth_backward: derivative must fit g")
