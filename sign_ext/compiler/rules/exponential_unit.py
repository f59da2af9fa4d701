"""Rules for ELU, SELU and CELU."""

from __future__ import annotations

from sign_ext.compiler.ir.elementwise import Elementwise
from sign_ext.compiler.ir.exponential_unit import ExponentialUnit
from sign_ext.compiler.ir.op import Shape
from sign_ext.compiler.lower import Builder, Ref, lowers

SELU = (1.6732632423543772848170429916717, 1.0507009873554804934193349852946)  # of its publication


@lowers("elu.default", elementwise=True)
def elu(
    builder: Builder,
    shape: Shape,
    x: Ref,
    alpha: float = 1,
    scale: float = 1,
    input_scale: float = 1,
) -> Ref:
    """scale · (x, or alpha · (exp(input_scale · x) - 1) below 0)."""
    if alpha < 0 or scale <= 0 or input_scale <= 0:
        # The derivative does not follow from the output.
        numbers = (float(alpha), float(scale), float(input_scale))
        return builder.add(Elementwise, (x,), shape, function="elu", parameters=numbers)
    return builder.add(
        ExponentialUnit,
        (x,),
        shape,
        alpha=float(alpha),
        scale=float(scale),
        input_scale=float(input_scale),
    )


@lowers("selu.default", elementwise=True)
def selu(builder: Builder, shape: Shape, x: Ref) -> Ref:
    """ELU with the constants that keep mean and variance."""
    return elu(builder, shape, x, *SELU)


@lowers("celu.default", elementwise=True)
def celu(builder: Builder, shape: Shape, x: Ref, alpha: float = 1.0) -> Ref:
    """ELU whose derivative is continuous for any alpha."""
    return elu(builder, shape, x, alpha, 1, 1 / alpha)
