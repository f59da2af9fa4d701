"""Algorithm 1 of the paper, Iterative SIGN, over a set of images.

    1  p*_0 = p
    2  for k = 0 to K - 1 do
    3      δ_{k+1} = Σ_a ∂Φ^a/∂x^i |_{p*_k}
    4      p*_{k+1} = p*_k + δ_{k+1}
    5  end
    6  p* = p*_K

`iterate` below is these lines for one batch, numbered as in the paper. Lines 3 and 4 are
`Trajectory.step`, which each backend runs in its own way; `reference.py` has the whole in ten lines
of plain autograd.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from sign_ext.engine.backends import Engines
from sign_ext.engine.objective import NO_TARGET, Target
from sign_ext.engine.trajectory import Problem, Trajectory
from sign_ext.errors import DivergenceError
from sign_ext.source_layer import Phi, check_weights

DIAGNOSED = 8  # images at most, to find out why a first step is not finite


def iterate(
    trajectory: Trajectory, stops: tuple[int, ...], report: Callable[[int], None] | None
) -> dict[int, Tensor]:
    """Lines 2 to 5 for one batch, whose trajectory is at p*_0.

    Args:
        trajectory: at p*_0; it is at p*_K afterwards.
        stops: the steps k whose iterates to return, ascending; the last is K.
        report: called with k after each step.

    Returns:
        k → p*_k. The last is the trajectory's own buffer, which its next start overwrites.
    """
    iterates: dict[int, Tensor] = {}
    k = 0
    for stop in stops:
        while k < stop:  # line 2
            # Steps that nobody watches go in one call: a backend may reorder images within it.
            steps = 1 if report is not None else stop - k
            try:
                trajectory.advance(steps)  # lines 3 and 4
            except Exception as error:
                raise _StepFailed(error) from error
            k += steps
            if report is not None:
                report(k)
        iterates[stop] = trajectory.iterate if stop == stops[-1] else trajectory.iterate.clone()
    return iterates


def walk(
    problem: Problem,
    engines: Engines,
    images: Tensor,
    batch_size: int,
    write: Callable[[slice, Mapping[int, Tensor]], None],
    report: Callable[[int], None] | None = None,
    target: Target = NO_TARGET,
) -> bool:
    """Take every image from p to p*_K, a batch at a time; the samples of a batch never interact.

    Args:
        problem: Φ and the options.
        engines: what runs the steps.
        images: p, (N, ...), N ≥ 1.
        batch_size: images at a time.
        write: called for each finished batch with its rows and its iterates by step; the tensors
            are valid until it returns.
        report: called with the image-steps done so far.
        target: labels and originals, where the objective or the projection is not SIGN's.

    Returns:
        Whether any step moved any of the images.

    Raises:
        DivergenceError: an iterate is not finite; that batch was not written.
        ValueError: so it is because the network's weights are not.
        BackendError: the backend asked for by name cannot run this network.
    """
    stops = problem.settings.stops
    moved = False
    for first in range(0, len(images), batch_size):
        rows = slice(first, min(first + batch_size, len(images)))
        part = problem.for_images(rows)
        of_batch = _report_batch(report, rows, stops[-1])
        p = images[rows].detach()
        trajectory, iterates = _run(part, engines, p, of_batch, target[rows])
        _check_finite(trajectory, problem, images, rows)
        # One batch that moves is enough; the others need not be asked, which waits for the device.
        moved = moved or trajectory.moved()
        write(rows, iterates)  # line 6
        engines.finish_reading(images.device)
    return moved


def evaluate(
    problem: Problem,
    engines: Engines,
    owners: Sequence[int],
    batch_size: int,
    points: Callable[[slice], Tensor],
    use: Callable[[slice, Tensor], None],
    report: Callable[[int], None] | None = None,
    target: Target = NO_TARGET,
) -> None:
    """The gradient at many points near the images, a batch at a time, without a step.

    Args:
        problem: the objective and the options, of a gradient alone.
        engines: what runs it.
        owners: of each point the number of its image.
        batch_size: points at a time.
        points: from a slice of the points to these, (count, ...).
        use: called with the slice and the gradients there, which are valid until it returns.
        report: called with the number of points done so far.
        target: the images' labels.

    Raises:
        DivergenceError: a gradient is not finite.
        BackendError: the backend asked for by name cannot run this network.
    """
    for first in range(0, len(owners), batch_size):
        rows = slice(first, min(first + batch_size, len(owners)))
        of = list(owners[rows])
        p = points(rows).detach()
        part = problem.for_images(of)
        trajectory, _ = _run(part, engines, p, None, target[of])
        if trajectory.first_bad_step():
            raise DivergenceError(
                f"the gradient of the objective is not finite for images {of[0]} to {of[-1]}: its "
                "values may overflow there, or it has no derivative, as the norm of 0",
                1,
            )
        assert trajectory.gradient is not None
        use(rows, trajectory.gradient)
        engines.finish_reading(p.device)
        if report is not None:
            report(rows.stop)


class _StepFailed(Exception):
    """A step raised `error`: told apart from what the caller's own `report` raises."""

    def __init__(self, error: Exception) -> None:
        self.error = error


def _run(
    problem: Problem,
    engines: Engines,
    p: Tensor,
    report: Callable[[int], None] | None,
    target: Target,
) -> tuple[Trajectory, dict[int, Tensor]]:
    """A batch's trajectory at p*_K and its iterates, by the first backend whose steps run."""
    while True:  # each failure rules one out
        trajectory = engines.start(problem, p, target)  # line 1
        try:
            return trajectory, iterate(trajectory, problem.settings.stops, report)
        except _StepFailed as failed:
            if not engines.step_failed(problem, p, failed.error):
                raise failed.error from None


def _report_batch(
    report: Callable[[int], None] | None, rows: slice, steps: int
) -> Callable[[int], None] | None:
    """From step k of a batch to the image-steps of the whole call."""
    if report is None:
        return None
    return lambda k: report(rows.start * steps + k * (rows.stop - rows.start))


def _check_finite(trajectory: Trajectory, problem: Problem, images: Tensor, rows: slice) -> None:
    """Read once, after the loop, what the steps noted on the device, and find out the cause."""
    step = trajectory.first_bad_step()
    if not step:
        return
    settings = problem.settings
    where = f"images {rows.start} to {rows.stop - 1}"
    cause = _bad_from_the_start(trajectory, problem, images, rows) if step == 1 else ""
    cause = cause or (
        f"step_size={settings.step_size:g} is too large for this network in these units. Lower it "
        "(calibrate proposes one), or clamp to the range of pixels: clamp=(0, 255), on the "
        "command line --clamp 0 255"
    )
    raise DivergenceError(
        f"step {step} of {settings.stops[-1]} is not finite for {where}: {cause}", step
    )


def _bad_from_the_start(
    trajectory: Trajectory, problem: Problem, images: Tensor, rows: slice
) -> str:
    """What is not finite before any step is taken, in words, or "" where all is."""
    if isinstance(problem.phi, Phi):
        check_weights(problem.phi.model)
    finite = torch.isfinite(trajectory.iterate).flatten(1).all(1)
    suspects = (~finite).nonzero().flatten().tolist()  # none where a clamp has hidden them
    for i in (suspects or range(len(finite)))[:DIAGNOSED]:
        row = slice(rows.start + i, rows.start + i + 1)
        with torch.enable_grad(), problem.autocast(images.device):
            x = images[row].detach().to(problem.model_dtype).requires_grad_()
            value = problem.for_images(row).phi(x)
        if not bool(torch.isfinite(value).all()):
            return (
                f"Φ of image {row.start} as it was given is not finite in {problem.model_dtype}, "
                "with weights that are: the images may be in other units than the network takes"
            )
        (delta,) = torch.autograd.grad(value, x, torch.ones_like(value))
        if not bool(torch.isfinite(delta).all()):
            return (
                f"δ of image {row.start} as it was given is not finite although Φ is, as at the "
                "square root or the norm of 0: move the image off that place, or pass layer=NAME "
                "of an earlier layer"
            )
    return ""
