"""Algorithm 1 of the paper, Iterative SIGN, over a set of images.

    1  p*_0 = p
    2  for k = 0 to K - 1 do
    3      δ_{k+1} = Σ_a ∂Φ^a/∂x^i |_{p*_k}
    4      p*_{k+1} = p*_k + δ_{k+1}
    5  end
    6  p* = p*_K

Lines 3 and 4 are `Trajectory.step`; `reference.py` has the same in ten lines, without batches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from sign_ext.engine.backends import Engines
from sign_ext.engine.trajectory import Problem, Trajectory
from sign_ext.errors import DivergenceError


def walk(
    problem: Problem,
    engines: Engines,
    images: Tensor,
    batch_size: int,
    write: Callable[[slice, Mapping[int, Tensor]], None],
    report: Callable[[int], None] | None = None,
) -> bool:
    """Take every image from p to p*_K, a batch at a time; the samples of a batch never interact.

    Args:
        problem: Φ and the options.
        engines: what runs the steps.
        images: p, (N, ...), N ≥ 1.
        batch_size: images at a time.
        write: called for each finished batch with its rows and its iterates by step; the tensors
            are good until it returns.
        report: called with the image-steps done so far.

    Returns:
        Whether any step moved the images at all.

    Raises:
        DivergenceError: an iterate is not finite; that batch was not written.
        BackendError: the backend asked for by name cannot run this network.
    """
    stops = problem.settings.stops
    moved = True
    for first in range(0, len(images), batch_size):
        rows = slice(first, min(first + batch_size, len(images)))
        p = images[rows].detach()
        trajectory = engines.start(problem, p)  # line 1
        finished: dict[int, Tensor] = {}
        k = 0
        for stop in stops:  # lines 2 to 5
            while k < stop:
                steps = stop - k if report is None else 1
                trajectory.advance(steps)
                k += steps
                if report is not None:
                    report(first * stops[-1] + k * len(p))
            is_last = stop == stops[-1]
            finished[stop] = trajectory.iterate if is_last else trajectory.iterate.clone()
        _check_finite(trajectory, rows)
        moved &= trajectory.moved()
        write(rows, finished)  # line 6
        engines.hand_over(images.device)
    return moved


def _check_finite(trajectory: Trajectory, rows: slice) -> None:
    """Read, once after the loop, what the steps noted on the device."""
    if step := trajectory.first_bad_step():
        settings = trajectory.problem.settings
        raise DivergenceError(
            f"step {step} of {settings.stops[-1]} is not finite for images {rows.start} to "
            f"{rows.stop - 1}: step_size={settings.step_size:g} is too large for this network in "
            "these units. Lower it (calibrate() proposes one) or pass clamp=(0, 255)",
            step,
        )
