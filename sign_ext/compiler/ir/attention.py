"""Scaled dot-product attention: softmax(scale · q kᵀ + bias) v for each head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sign_ext.compiler.ir.op import Residue, count
from sign_ext.compiler.ir.viewed import Own, Viewed


@dataclass(frozen=True, eq=False, kw_only=True)
class Attention(Viewed):
    """softmax(scale · q kᵀ + bias) v, the operands being q, k and v.

    q is (..., T, D), k (..., S, D), v (..., S, E), with nothing, heads, or windows and heads in
    front. The value lies in memory as (windows, T, heads, E), so that the heads' features side by
    side, as the projection after it reads them, are a view.

    Between forward and backward it keeps q, k, v, the value, and one number a row: the logarithm of
    the sum of exponentials. The scores are computed again.

    Attributes:
        scale: of the products.
        bias: (windows or 1, heads or 1, T or 1, S), added to the scores; None for none.
        causal: whether a position reads only those up to its own.
    """

    scale: float
    bias: Tensor | None = None
    causal: bool = False

    kind: ClassVar[str] = "attention"

    def reads(self, operand: int) -> tuple[tuple[int, ...], bool]:
        """Each cotangent needs all operands and the value."""
        return (0, 1, 2), True

    def backward_reads(self, side: int) -> tuple[int, ...]:
        """All of them for the first input, with which the other cotangents are computed."""
        return super().backward_reads(side) if side == 0 else ()

    def value(self, *operands: Tensor) -> tuple[Tensor, Own]:
        """Evaluate the formula; keep the logarithms of the sums."""
        q, k, v = operands
        scores = self._scores(q, k)
        sums = torch.logsumexp(scores, -1)
        # A row that may read nothing gives 0.
        sums = sums.masked_fill_(sums == -torch.inf, 0)
        weights = scores.sub_(sums.unsqueeze(-1)).exp_().to(v.dtype)
        return weights @ v, (sums,)

    def _scores(self, q: Tensor, k: Tensor) -> Tensor:
        """scale · q kᵀ + bias, in float32 at least."""
        scores = q @ k.transpose(-1, -2)
        if scores.dtype.itemsize < 4:
            scores = scores.float()
        scores.mul_(self.scale)
        if self.bias is not None:
            scores.add_(self.bias.to(scores.dtype)[(0,) * (5 - scores.dim())])
        if self.causal:
            rows, columns = scores.shape[-2:]
            later = torch.ones(rows, columns, dtype=torch.bool, device=q.device).triu_(1)
            scores.masked_fill_(later, -torch.inf)
        return scores

    def cotangent(
        self, operand: int, g: Tensor, xs: Sequence[Tensor | None], y: Tensor | None, own: Own
    ) -> Tensor:
        """The cotangent of q, k or v."""
        return self.cotangents((operand,), g, xs, y, own)[0]

    def cotangents(
        self,
        operands: Sequence[int],
        g: Tensor,
        xs: Sequence[Tensor | None],
        y: Tensor | None,
        own: Own,
    ) -> list[Tensor]:
        """The softmax's cotangent needs of each row one number, the sum of g · y."""
        q, k, v = xs
        assert q is not None
        assert k is not None
        assert v is not None
        assert y is not None
        weights = self._scores(q, k).sub_(own[0].unsqueeze(-1)).exp_()
        to_v = weights.to(g.dtype).transpose(-1, -2) @ g
        rows = (g * y).sum(-1, keepdim=True, dtype=weights.dtype)
        to_weights = (g @ v.transpose(-1, -2)).to(weights.dtype)
        to_scores = weights.mul_(to_weights.sub_(rows)).mul_(self.scale).to(g.dtype)
        del weights, to_weights
        found = (to_scores @ k, to_scores.transpose(-1, -2) @ q, to_v)
        pairs = zip(found, (q, k, v), strict=True)
        # A head of k and v may belong to several of q.
        three = [part.sum_to_size(x.shape) for part, x in pairs]
        return [three[operand] for operand in operands]

    @property
    def rows(self) -> int:
        """Rows of one image's scores: windows · heads · T."""
        return count(self.out.shape[:-1])

    def own_residues(self, element_size: int) -> tuple[Residue, ...]:
        """One number per row, in float32 or float64."""
        return (Residue("logarithms of sums", self.rows * max(element_size, 4)),)

    @property
    def suits_library(self) -> bool:
        """Whether libraries' kernels take it: heads of one size, the same bias in all windows."""
        same = self.views[0].shape[-1] == self.views[2].shape[-1]
        contiguous = all(view.strides[-1] == 1 for view in self.views)
        return same and contiguous and not (self.causal and self.bias is not None)

    @property
    def _scores_bytes(self) -> int:
        """Of one image's scores where they are computed whole, in float32."""
        return 4 * self.rows * self.views[1].shape[-2]

    def _in_parts(self, element_size: int) -> bool:
        """Whether the library's kernel computes scores in parts, on a CPU."""
        return element_size >= 4 and self.suits_library

    @property
    def _bias_bytes(self) -> int:
        """Of one image's bias, which CUDA's kernels want once for each image if windows differ."""
        return self._scores_bytes if self.bias is not None and len(self.bias) > 1 else 0

    def workspace(self, element_size: int) -> int:
        """The scores and their exponentials, or the bias of each window."""
        return self._bias_bytes if self._in_parts(element_size) else 2 * self._scores_bytes

    def backward_workspace(self, element_size: int) -> int:
        """The cotangents of q, k and v; before them, the exponentials and their cotangent."""
        three = [count(view.shape) * element_size for view in self.views]
        if self._in_parts(element_size):
            return self._bias_bytes + sum(three)
        # The input's cotangent, which the schedule counts, is gathered after the scores are gone.
        before = self._scores_bytes + max(self._scores_bytes + three[2], sum(three))
        return max(before - count(self.in_shapes[0]) * element_size, sum(three))

    def flops(self) -> int:
        """Two products."""
        features = self.views[0].shape[-1] + self.views[2].shape[-1]
        return 2 * self.rows * self.views[1].shape[-2] * features

    def detail(self) -> str:
        """Windows, heads and what is added."""
        *lead, length, size = self.views[0].shape
        heads = lead[-1] if lead else 1
        terms = [f"{lead[0]} windows"] if len(lead) > 1 else []
        terms += [f"{heads} heads", f"{length}×{self.views[1].shape[-2]}", f"of {size}"]
        return " ".join([*terms, *["+ bias"] * (self.bias is not None), *["causal"] * self.causal])
