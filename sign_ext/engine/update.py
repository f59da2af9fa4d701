"""The step of a general iteration: a direction from the gradient, a projection, a clamp.

SIGN's own step, p ← p + step_size · δ, is `ops/sign_update.py`, and where the network begins with a
convolution `ops/stem_update.py`, in which δ is never in memory. A sign needs no more than one pass
over δ either, but a norm needs all of an image's δ before its first pixel can move, and a
projection needs the original beside it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sign_ext.ops.watch import raise_watch
from sign_ext.settings import StepRule


class Ball:
    """Where a projection leads: buffers of a batch's own, written anew at each start.

    Args:
        rule: with a projection.
        like: the iterate.
        clamp: (lowest, highest), or None.
    """

    def __init__(
        self, rule: StepRule, like: Tensor, clamp: tuple[float | None, float | None] | None
    ) -> None:
        """Allocate; `start` gives the buffers their values."""
        assert rule.project is not None
        self.norm, self.radius = rule.project
        self._bounds = clamp or (None, None)
        # The L∞ ball and the clamp together are one interval for each pixel; the L2 ball needs the
        # originals.
        self._low = torch.empty_like(like)
        self._high = torch.empty_like(like) if self.norm == "linf" else self._low

    def start(self, origin: Tensor) -> None:
        """Take a ball around other originals.

        Args:
            origin: (N, ...).
        """
        self._low.copy_(origin)
        if self.norm == "linf":
            torch.add(self._low, self.radius, out=self._high)
            self._low.sub_(self.radius)
            _clamp_(self._low, *self._bounds)
            _clamp_(self._high, *self._bounds)

    def project_(self, p: Tensor, rows: slice) -> None:
        """The nearest point of the ball for each image, then the clamp, in place.

        Args:
            p: some rows of the iterate.
            rows: which.
        """
        if self.norm == "linf":
            p.clamp_(self._low[rows], self._high[rows])
            return
        origin = self._low[rows]
        offset = p - origin
        norms = norms_of(offset)
        # Of an image that is inside nothing changes, not even by rounding.
        inside = torch.addcmul(origin, offset, self.radius / norms)
        p.copy_(torch.where(norms > self.radius, inside, p))
        _clamp_(p, *self._bounds)


def update_(
    p: Tensor,
    delta: Tensor,
    velocity: Tensor | None,
    rule: StepRule,
    ball: Ball | None,
    rows: slice,
    *,
    step_size: float,
    momentum: float,
    clamp: tuple[float | None, float | None] | None,
    watch: Tensor,
    counts: Tensor | None,
) -> None:
    """One step of some images, in place.

    v ← momentum · v + δ, p ← p + step_size · u(v), with u the identity, the sign, or the division
    by each image's L2 norm (an image whose v is 0 stays); then the projection, then the clamp.

    Args:
        p: the rows of the iterate, (N, ...).
        delta: the gradient there.
        velocity: v of these rows, or None without momentum.
        rule: update and projection.
        ball: of the whole batch, or None.
        rows: which of the batch's these are.
        step_size: factor.
        momentum: factor of the old velocity.
        clamp: (lowest, highest), or None.
        watch: as for `sign_update_`.
        counts: as for `sign_update_`.
    """
    direction = delta.to(p.dtype)
    if velocity is not None:
        direction = velocity.mul_(momentum).add_(direction)
    if rule.update == "sign":
        direction = direction.sign()
    elif rule.update == "l2":
        norms = norms_of(direction)
        direction = direction / torch.where(norms == 0, 1.0, norms)
    p.add_(direction, alpha=step_size)
    raise_watch(watch, delta, p, counts)
    if ball is not None:
        ball.project_(p, rows)
    elif clamp is not None:
        _clamp_(p, *clamp)


def norms_of(x: Tensor) -> Tensor:
    """The L2 norm of each image, (N, 1, ..., 1).

    Args:
        x: (N, ...).
    """
    return torch.linalg.vector_norm(x, dim=tuple(range(1, x.dim())), keepdim=True)


def _clamp_(p: Tensor, low: float | None, high: float | None) -> None:
    if low is not None or high is not None:
        p.clamp_(low, high)
