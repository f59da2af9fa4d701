"""Choose a step size: measure what SIGN does to images for a grid of them, and propose one.

δ is a gradient, so its size depends on the network and on the units of the input; the paper gives
no step size. `calibrate` measures the change of the images and what the network makes of them.
"""

from __future__ import annotations

import functools
import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sign_ext.change import describe_change
from sign_ext.checks import check_images, explaining_layout
from sign_ext.engine.batch import DEFAULT_BATCH
from sign_ext.errors import DivergenceError, NegligibleDeltaWarning, level_of_the_caller
from sign_ext.eval_state import computing, unwrap
from sign_ext.formatting import counted, duration
from sign_ext.model_inputs import ModelInputs
from sign_ext.pixel_range import (
    Values,
    likely_range,
    range_of_other_units,
    warn_once,
    was_told,
)
from sign_ext.progress import Progress, reporting
from sign_ext.pushforward import pullback_of_ones, variation_of_sum
from sign_ext.settings import Settings
from sign_ext.source_layer import hint_of_layer

GRID = (0.1, 0.3, 1.0, 3.0, 10.0)  # factors of the step that a constant δ would ask for
BESIDE = (1 / 3, 3.0)  # factors of the proposal that a table shows beside it
ALIKE = 1.5  # rows whose step sizes differ by less say the same
CLOSE = 0.1  # relative distance from the target within which a proposal is taken
FALLS = 3  # how often a first step size that diverges is divided by 10
TIMED_STEPS = 3  # of which the forecast takes the time of all but the first
TIMED_FROM = 10  # K from which a forecast takes less time than it tells of


@dataclass(frozen=True)
class CalibrationRow:
    """What one step size does.

    Attributes:
        step_size: the factor of δ; 0 is the images as they are.
        rms: root mean square of p*_K − p, in the images' units.
        largest: largest |p*_K − p|, in the images' units.
        share_negative: share of variables of p*_K below 0, which the paper calls discarded.
        accuracy: of the network on p*_K; None without labels.
        confidence: mean probability of the predicted class; None if the network's output is not
            (N, classes).
        diverged: the iterates left the finite numbers, so the other numbers are NaN or None.
    """

    step_size: float
    rms: float
    largest: float
    share_negative: float
    accuracy: float | None
    confidence: float | None
    diverged: bool = False


@dataclass(frozen=True)
class Calibration:
    """A table of step sizes and a proposal; `print` it, or take `to_dict()`.

    Attributes:
        rows: one row a step size, in order, the first for the images as they are.
        proposed: the step whose rms change after `steps` steps is `target_share` of the range.
        steps: K.
        target_share: of the pixel range.
        pixel_range: what the images span (255).
        images: how many images were measured.
    """

    rows: tuple[CalibrationRow, ...]
    proposed: float
    steps: int
    target_share: float
    pixel_range: float
    images: int

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        return asdict(self)

    def __str__(self) -> str:
        """A table for a terminal."""
        lines = [
            f"{'step size':>10}{'rms':>9}{'largest':>10}{'negative':>10}{'accuracy':>10}"
            f"{'confidence':>12}"
        ]
        for row in self.rows:
            if row.diverged:
                lines.append(f"{row.step_size:>10.3g}  diverges")
                continue
            numbers = f"{row.step_size:>10.3g}{row.rms:>9.3g}{row.largest:>10.3g}"
            numbers += f"{row.share_negative:>10.2%}"
            numbers += f"{'':>10}" if row.accuracy is None else f"{row.accuracy:>10.1%}"
            numbers += f"{'':>12}" if row.confidence is None else f"{row.confidence:>12.4f}"
            lines.append(numbers + ("  ← proposed" if row.step_size == self.proposed else ""))
        lines.append(
            f"K = {self.steps}, {counted(self.images, 'image')}; rms and largest change in units "
            "of the images"
        )
        lines.append(
            f"step size {self.proposed:.3g} is proposed for K = {self.steps}: use it with --steps "
            f"{self.steps} (in Python steps={self.steps}). It aims at an rms change of "
            f"{self.target_share * self.pixel_range:.3g}, which is {100 * self.target_share:.3g}% "
            f"of {self.pixel_range:g}"
        )
        return "\n".join(lines)


def calibrate(
    transform: Callable[[float, int, Progress], Tensor],
    images: Tensor,
    labels: Tensor | None = None,
    *,
    model: nn.Module,
    settings: Settings,
    steps: int | None = None,
    step_sizes: Sequence[float] | Literal["grid"] | None = None,
    target_share: float = 0.02,
    pixel_range: float = 255.0,
    model_kwargs: Mapping[str, Any] | None = None,
    progress: Progress = False,
    say: Callable[[str], None] | None = None,
) -> Calibration:
    """Measure what step sizes do to images, and propose the one with a stated rms change.

    Labels only fill a column: the proposal never looks at them, so it may use any images.

    Args:
        transform: from a step size, K and a function of (image-steps done, total), or False, to
            p*_K of `images`.
        images: (N, C, H, W) floating, in the network's units, on its device; dozens are enough.
        labels: (N,) integer classes, or None.
        model: the network.
        settings: the transform's; layer, momentum, precision and batch size are used.
        steps: K at which to measure, and for which the proposal holds; None takes the settings'.
        step_sizes: what to measure beside the proposal, positive. None takes a third of it and
            three times as much, and () nothing. "grid" takes five around the step that a constant
            δ asks for, between which the proposal is interpolated.
        target_share: the rms change to propose a step for, as a share of `pixel_range`.
        pixel_range: what the images span; a PixelRangeWarning says so if they clearly do not, with
            the step size that their own range would have given.
        model_kwargs: what else the network takes, as for `SignTransform.transform`.
        progress: True draws a bar; a function is called with (image-steps done, total). The total
            is that of the step sizes that will probably be tried.
        say: called with a forecast of the time that this will take, before it is spent.

    Returns:
        The table and the proposal.

    Warns:
        NegligibleDeltaWarning: the sum over Φ is nearly constant.

    Raises:
        ValueError: nothing to measure (no images, δ zero everywhere, or nothing but rounding since
            the sum over Φ is constant), labels of another length
            or beyond the network's outputs, or a step size, target or range that is not positive.
        DivergenceError: every step size that is tried diverges.
        TypeError, SourceLayerError, BackendError: as `SignTransform.transform`.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from sign_ext import SignTransform
        >>> _ = torch.manual_seed(0)
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.Linear(5, 2))
        >>> table = SignTransform(model).calibrate(torch.rand(8, 3, 2, 2) * 255, steps=10)
        >>> rms = {row.step_size: row.rms for row in table.rows}
        >>> abs(rms[table.proposed] / (0.02 * 255) - 1) < 0.1
        True
    """
    asked = step_sizes or ()
    _check_arguments(images, labels, target_share, pixel_range, asked)
    steps = settings.steps if steps is None else steps
    target = target_share * pixel_range
    inputs = ModelInputs.of(model_kwargs, len(images))
    _require_varying(model, images, inputs, settings)
    grid = functools.partial(_grid, model, images, inputs, settings)
    if other := range_of_other_units(images, pixel_range):
        _warn_of_units(
            other,
            functools.partial(
                calibrate,
                transform,
                images,
                model=model,
                settings=settings,
                steps=steps,
                target_share=target_share,
                model_kwargs=model_kwargs,
            ),
            model,
            pixel_range,
            lambda span: grid(target_share * span / steps)[GRID.index(1.0)],
        )
    beside = BESIDE if step_sizes is None else ()
    if asked and asked != "grid":
        sizes = [float(size) for size in asked]
    else:
        with explaining_layout(images):
            sizes = grid(target / steps)
        sizes = sizes if asked else [sizes[GRID.index(1.0)]]
    tries = len(sizes) + 1 + len(beside)  # the proposal is measured too
    if say is not None:
        say(_forecast(transform, images, steps, min(sizes), tries))
    rows = [_row(0.0, images, images, labels, model, inputs, settings)]
    work = len(images) * steps  # of one step size
    tried = 0

    with reporting(progress, tries * work, "calibrating") as report:

        def measure(step_size: float) -> CalibrationRow:
            nonlocal tried
            before, tried = tried * work, tried + 1

            def within(done: int, _: int) -> None:
                assert report is not None
                report(min(before + done, tries * work))

            try:
                moved = transform(step_size, steps, False if report is None else within)
                row = _row(step_size, images, moved, labels, model, inputs, settings)
            except DivergenceError:
                row = _diverged(step_size)
            rows.append(row)
            return row

        if asked:
            for size in sizes:
                measure(size)
            proposed = _propose(rows, target, measure)
        else:
            proposed = _search(sizes[0], rows, target, measure)
            rows = _without_duplicates(rows, proposed)
            for size in (_round(factor * proposed) for factor in beside):
                if not any(_alike(size, row.step_size) for row in rows):
                    measure(size)
        if report is not None:
            report(tries * work)
    rows.sort(key=lambda row: row.step_size)
    return Calibration(tuple(rows), proposed, steps, target_share, pixel_range, len(images))


def _warn_of_units(
    values: Values,
    again: Callable[..., Calibration],
    model: nn.Module,
    pixel_range: float,
    first: Callable[[float], float],
) -> None:
    """Warn, once for a network, that images do not span `pixel_range`, with the step they ask for.

    Args:
        values: the images'.
        again: calibrates with the rest of the arguments.
        model: the network.
        pixel_range: what was given.
        first: from another range to a step size to begin with.
    """
    network = unwrap(model)
    if was_told(network, "pixel_range"):
        return
    likely = likely_range(values)
    try:
        proposed = again(pixel_range=likely, step_sizes=[first(likely)]).proposed
        then = f" would propose the step size {proposed:g}"
    except (DivergenceError, ValueError):
        then = " says so"
    warn_once(
        network,
        "pixel_range",
        f"the images span {values}, and pixel_range is {pixel_range:g}, of which the rms change "
        f"that a step size is proposed for is a share: pixel_range={likely:g}{then}. If the images "
        "should be 0–255, the network's preprocessing belongs into it: "
        "sign_ext.models.with_normalization(network, mean, std), on the command line --normalize",
    )


def _forecast(
    transform: Callable[[float, int, Progress], Tensor],
    images: Tensor,
    steps: int,
    smallest: float,
    tries: int,
) -> str:
    """How long a calibration of `tries` step sizes will take, from a few steps of the smallest."""
    what = f"{len(images)} images, K = {steps}, {tries} step sizes"
    if steps < TIMED_FROM:
        return f"{what} on {images.device}"

    def seconds(some: int) -> float:
        began = time.perf_counter()
        transform(smallest, some, False)
        if images.is_cuda:
            torch.cuda.synchronize(images.device)
        return time.perf_counter() - began

    try:
        seconds(1)  # what is found out once for a network is not counted
        one, several = seconds(1), seconds(TIMED_STEPS)
    except DivergenceError:
        return f"{what} on {images.device}"
    step = max(several - one, 0.0) / (TIMED_STEPS - 1)
    expected = tries * (one + (steps - 1) * step)
    return f"{what}: about {duration(expected)} on {images.device}"


def _check_arguments(
    images: Tensor,
    labels: Tensor | None,
    target_share: float,
    pixel_range: float,
    step_sizes: Sequence[float] | str,
) -> None:
    check_images(images)
    if not len(images):
        raise ValueError("images is empty: calibrate on at least one, better dozens")
    if labels is not None and labels.shape != images.shape[:1]:
        raise ValueError(f"labels must be ({len(images)},), got {tuple(labels.shape)}")
    positive = [("target_share", target_share), ("pixel_range", pixel_range)]
    if isinstance(step_sizes, str):
        if step_sizes != "grid":
            raise ValueError(f"step_sizes={step_sizes!r}; accepted: numbers, None or 'grid'")
    else:
        positive += [("step_sizes", value) for value in step_sizes]
    for name, value in positive:
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be positive and finite, got {value}")


def _require_varying(
    model: nn.Module, images: Tensor, inputs: ModelInputs, settings: Settings
) -> None:
    """Raise ValueError where δ is what rounding leaves: its size says nothing of a step size."""
    with explaining_layout(images):
        varies, source = variation_of_sum(
            model, images, layer=settings.layer, model_kwargs=inputs.given(slice(0, 1))
        )
    if not varies:
        raise ValueError(
            f"the sum over {source} is constant but for rounding, as after a LayerNorm, so there "
            f"is no step size to propose: {hint_of_layer(model)}"
        )
    if doubt := varies.doubt(source, model):
        warnings.warn(doubt, NegligibleDeltaWarning, stacklevel=level_of_the_caller())


def _batches(images: Tensor, settings: Settings) -> list[slice]:
    size = settings.batch_size or DEFAULT_BATCH
    return [slice(first, first + size) for first in range(0, len(images), size)]


def _grid(
    model: nn.Module, images: Tensor, inputs: ModelInputs, settings: Settings, rms: float
) -> list[float]:
    """Step sizes around the one that moves images by `rms` in a step, were δ constant."""
    deltas = [
        pullback_of_ones(
            model, images[rows], layer=settings.layer, model_kwargs=inputs.given(rows)
        ).double()
        for rows in _batches(images, settings)
    ]
    every = torch.cat(deltas)
    if bad := (~torch.isfinite(every)).flatten(1).any(1).nonzero().flatten().tolist():
        raise ValueError(
            f"δ is not finite for {len(bad)} of {len(images)} images as they were given, first for "
            f"image {bad[0]}: check the images' units, or pass layer=NAME of an earlier layer"
        )
    scale = float(every.square().mean().sqrt())
    if scale == 0:
        raise ValueError("δ is zero for every image and variable: pass another layer")
    # With momentum, step k adds 1 / (1 - μ) times as much in the long run.
    return [_round(factor * rms / scale * (1 - settings.momentum)) for factor in GRID]


def _search(
    first: float,
    rows: Sequence[CalibrationRow],
    target: float,
    measure: Callable[[float], CalibrationRow],
) -> float:
    """The step size whose rms is `target`, looked for from the one that a constant δ asks for.

    Args:
        first: step size to begin with.
        rows: as for `_propose`.
        target: rms change, in the images' units.
        measure: as for `_propose`.
    """
    row = measure(first)
    for _ in range(FALLS):
        if not row.diverged:
            break
        row = measure(_round(row.step_size / 10))
    if not row.diverged and abs(row.rms / target - 1) <= CLOSE:
        return row.step_size
    return _propose(rows, target, measure)


def _without_duplicates(rows: Sequence[CalibrationRow], proposed: float) -> list[CalibrationRow]:
    """Leave out what was tried on the way to a proposal and is almost the same."""
    return [row for row in rows if row.step_size == proposed or not _alike(row.step_size, proposed)]


def _alike(one: float, other: float) -> bool:
    """Whether two step sizes are so close that a table needs only one of them."""
    return min(one, other) > 0 and max(one, other) < ALIKE * min(one, other)


def _propose(
    rows: Sequence[CalibrationRow], target: float, measure: Callable[[float], CalibrationRow]
) -> float:
    """The step size whose rms is `target`: interpolated, measured, and corrected once.

    Args:
        rows: what was measured so far, the first for the images as they are.
        target: rms change, in the images' units.
        measure: measures a step size and adds its row to `rows`.
    """
    proposed = _round(_interpolate(rows[1:], target))
    for _ in range(2):
        row = next((r for r in rows if r.step_size == proposed), None) or measure(proposed)
        if not row.diverged and abs(row.rms / target - 1) <= CLOSE:
            break
        corrected = _round(_interpolate(rows[1:], target))
        if corrected == proposed:
            break
        proposed = corrected
    if all(row.step_size != proposed for row in rows):
        measure(proposed)
    return proposed


def _interpolate(rows: Sequence[CalibrationRow], target: float) -> float:
    """The step size whose rms is `target`, on a straight line between logarithms."""
    known = sorted((r.step_size, r.rms) for r in rows if not r.diverged and r.rms > 0)
    if not known:
        raise DivergenceError("every step size that was tried diverges: pass smaller step_sizes", 1)
    if len(known) == 1:
        step, rms = known[0]
        return step * target / rms
    above = next((i for i, (_, rms) in enumerate(known) if rms >= target), len(known) - 1)
    (x0, y0), (x1, y1) = known[max(above, 1) - 1], known[max(above, 1)]
    slope = math.log(y1 / y0) / math.log(x1 / x0)
    slope = slope if slope > 0.1 else 1.0  # flat or falling: assume proportion
    return x0 * (target / y0) ** (1 / slope)


def _round(value: float) -> float:
    """Two significant digits: a step size that people can type."""
    return float(f"{value:.1e}")


def _row(
    step_size: float,
    images: Tensor,
    moved: Tensor,
    labels: Tensor | None,
    model: nn.Module,
    inputs: ModelInputs,
    settings: Settings,
) -> CalibrationRow:
    logits = _logits(model, moved, inputs, settings)
    accuracy = confidence = None
    if logits is not None:
        confidence = float(logits.softmax(1).amax(1).mean())
        if labels is not None:
            _check_labels(labels, logits.shape[1])
            accuracy = float((logits.argmax(1) == labels).double().mean())
    change = describe_change(moved, images)
    rms, largest, negative = (change[name] for name in ("rms", "largest", "share_negative"))
    return CalibrationRow(step_size, rms, largest, negative, accuracy, confidence)


def _check_labels(labels: Tensor, classes: int) -> None:
    """Raise ValueError for labels that no output of the network can match."""
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < 0 or highest >= classes:
        raise ValueError(
            f"labels range from {lowest} to {highest}, and the network has {classes} outputs: pass "
            f"labels 0 to {classes - 1}, or None"
            + (" (subtract 1 from every label)" if lowest == 1 else "")
        )


def _diverged(step_size: float) -> CalibrationRow:
    nan = math.nan
    return CalibrationRow(step_size, nan, nan, nan, None, None, diverged=True)


def _logits(
    model: nn.Module, images: Tensor, inputs: ModelInputs, settings: Settings
) -> Tensor | None:
    """The whole network's output on images, or None if it is not (N, classes)."""
    parameters = [p for p in model.parameters() if p.is_floating_point()]
    dtype = parameters[0].dtype if parameters else images.dtype
    outputs = []
    with computing(model, settings.precision), torch.no_grad():
        for rows in _batches(images, settings):
            outputs.append(model(images[rows].to(dtype), **inputs[rows]))
            if not isinstance(outputs[-1], Tensor) or outputs[-1].dim() != 2:
                return None
    return torch.cat(outputs).double()
