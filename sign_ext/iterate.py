"""Iterations as users call them: `iterate_inputs`, and the reusable `InputIteration`.

An iteration adds a gradient to its images, K times. SIGN's gradient is that of the sum over Φ
(`sign.py`, a special case); here it is that of any objective of the network's output, with other
updates and a projection. Compiled steps, schedules, micro-batches and graphs are the same. The
steps themselves, Algorithm 1 of the paper, are in `algorithm.py`; what an objective is, in
`engine/objective.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

from sign_ext.algorithm import evaluate
from sign_ext.checks import (
    check_images,
    check_option_names,
    check_precision,
    explaining_layout,
    place_of,
)
from sign_ext.engine.fused.tuning_plan import TuningPlan
from sign_ext.engine.objective import (
    Target,
    check_labels,
)
from sign_ext.engine.trajectory import iterate_dtype
from sign_ext.eval_state import computing
from sign_ext.iteration import Iteration
from sign_ext.model_inputs import ModelInputs
from sign_ext.progress import Progress, reporting
from sign_ext.settings import GradientSettings, IterationSettings, Objective


def iterate_inputs(
    model: nn.Module,
    images: Tensor,
    steps: int = 50,
    *,
    objective: Objective = "features",
    labels: Tensor | None = None,
    update: str = "gradient",
    step_size: float = 1.0,
    momentum: float = 0.0,
    project: tuple[str, float] | None = None,
    clamp: tuple[float | None, float | None] | None = None,
    snapshots: Sequence[int] | None = None,
    batch_size: int | None = None,
    backend: str = "auto",
    precision: str = "float32",
    layer: str | None = None,
    tune: bool | TuningPlan = False,
    strict: bool = False,
    model_kwargs: Mapping[str, Any] | None = None,
    start: Tensor | None = None,
    out: Tensor | Mapping[int, Tensor] | None = None,
    progress: Progress = False,
) -> Tensor | dict[int, Tensor]:
    """Climb an objective of the network, from the images, K steps along its gradient.

    p_0 = p;  v ← momentum · v + ∂f/∂p;  p ← p + step_size · u(v), projected, then clamped. The
    objective f is maximised: a negative step size minimises it. With the defaults this is
    `iterative_sign`, which has the same bits. Arithmetic is in the units of the images, 0–255 for
    this project's networks. Args, results and errors are those of `InputIteration` and its
    `transform`. What was compiled is kept with the network, so that further calls cost their steps.

    Args:
        model: a trained network; left exactly as it is, and run in evaluation mode.
        images: (N, C, H, W), (N, C, D, H, W) or (N, C, T) floating, pixel units.
        steps: K.
        objective: f for each image. "features": the sum over Φ (SIGN). Of the logits z and a label
            y: "cross_entropy", −log softmax(z)_y; "logit", z_y; "margin", max_{i≠y} z_i − z_y. Or
            a function from the network's output (N, ...), and the labels if there are any, to (N,).
        labels: (N,) integers; a function may have others, (N, ...). None for "features".
        update: u(v). "gradient": v; "sign": its sign; "l2": v / ‖v‖₂ for each image.
        step_size: factor of each step; negative to descend.
        momentum: μ of v ← μv + ∂f/∂p.
        project: ("linf", ε) or ("l2", ε), the ball around the images that p is brought back to
            after each step, ε in pixel units; None for none.
        clamp: (lowest, highest) for p after the projection, either None for no bound; or None.
        snapshots: steps to return, all from one trajectory.
        batch_size: images at a time; samples never interact.
        backend: "auto", "fused", "graphed" or "autograd"; "onchip" for SIGN's own step only.
        precision: "float32", "tf32" or "bfloat16".
        layer: with "features", Φ's module; else the module whose output is z, by default the whole
            network's.
        tune: True measures the fused backend's algorithms first, or a `TuningPlan`.
        strict: True compiles nothing that has parts which the compiler has no rule for.
        model_kwargs: what else the network's forward pass takes, by name.
        start: where to begin, shaped as images, if not at these; the projection is around images.
        out: where to write; `out=images` works in place.
        progress: True, or a function of (done, total).

    Returns:
        p_K shaped as images, float32 (float64 for a float64 network); with snapshots a dict from
        step to such a tensor.

    Raises:
        TypeError, ValueError, SourceLayerError, BackendError, DivergenceError: as InputIteration.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from sign_ext import iterate_inputs
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 2))
        >>> images, labels = torch.rand(3, 3, 2, 2) * 255, torch.tensor([0, 1, 1])
        >>> moved = iterate_inputs(
        ...     model, images, 4, objective="cross_entropy", labels=labels, update="sign",
        ...     step_size=2.0, project=("linf", 5.0), clamp=(0, 255),
        ... )
        >>> bool((moved - images).abs().max() <= 5.001)
        True
    """
    iteration = InputIteration(
        model,
        steps,
        objective=objective,
        update=update,
        step_size=step_size,
        momentum=momentum,
        project=project,
        clamp=clamp,
        snapshots=snapshots,
        batch_size=batch_size,
        backend=backend,
        precision=precision,
        layer=layer,
        tune=tune,
        strict=strict,
    )
    return iteration.transform(
        images, labels, start=start, model_kwargs=model_kwargs, out=out, progress=progress
    )


class InputIteration(Iteration):
    """An iteration of one network's inputs, reusable: what is compiled is kept between calls.

    All iterations of a network share what was compiled. Calls from several threads wait for each
    other; to run calls at the same time, make one object for each. Copies, also those that pickle
    makes for other processes, have the model, the options and the plan; those of another network
    compile for themselves.

    Args:
        model: a trained `torch.nn.Module`; left exactly as it is.
        steps: K, the number of steps.
        objective: what each image climbs: "features", "cross_entropy", "logit", "margin", or a
            function; `iterate_inputs` has the formulas.
        update: "gradient", "sign" or "l2".
        step_size: factor of each step; negative to descend.
        momentum: μ of v ← μv + ∂f/∂p.
        project: ("linf", ε) or ("l2", ε) around the originals, in pixel units, or None.
        clamp: (lowest, highest) value after each step, either None for no bound; or None.
        snapshots: steps whose iterates to return, from one trajectory.
        batch_size: images at a time; None takes 128 on a CPU, and what fills a CUDA device
            (`images_at_once`).
        backend: "auto", "fused" (compiled to fused operators), "graphed" (CUDA graphs) or
            "autograd" (any module and device). "onchip" serves "features" with "gradient" alone.
        precision: arithmetic of float32 networks: "float32", "tf32" or "bfloat16".
        layer: with "features", Φ's module; else the module whose output the objective reads.
        tune: how the fused backend chooses algorithms, as for `SignTransform`.
        strict: True lets the compiler refuse a network with operations that it has no rule for.

    Attributes:
        plan: the algorithm choices measured so far or passed in, a `TuningPlan`.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: an argument out of range, an unknown layer, or a network whose samples interact.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from sign_ext import InputIteration
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 2))
        >>> attack = InputIteration(model, 2, objective="margin", update="l2", step_size=10.0)
        >>> images, labels = torch.rand(3, 3, 2, 2) * 255, torch.tensor([0, 1, 1])
        >>> attack.transform(images, labels).shape
        torch.Size([3, 3, 2, 2])
    """

    def __init__(
        self,
        model: nn.Module,
        steps: int = 50,
        *,
        objective: Objective = "features",
        update: str = "gradient",
        step_size: float = 1.0,
        momentum: float = 0.0,
        project: tuple[str, float] | None = None,
        clamp: tuple[float | None, float | None] | None = None,
        snapshots: Sequence[int] | None = None,
        batch_size: int | None = None,
        backend: str = "auto",
        precision: str = "float32",
        layer: str | None = None,
        tune: bool | TuningPlan = False,
        strict: bool = False,
    ) -> None:
        """Check the options; nothing is computed yet."""
        settings = IterationSettings(
            steps=steps,
            layer=layer,
            step_size=step_size,
            momentum=momentum,
            clamp=clamp,
            snapshots=snapshots,
            batch_size=batch_size,
            backend=backend,
            precision=precision,
            objective=objective,
            update=update,
            project=project,
        )
        self._set_up(model, settings, tune, strict)

    @property
    def _options(self) -> dict[str, Any]:
        """Those of `__init__`, but for model, tune and strict."""
        options = {each.name: getattr(self.settings, each.name) for each in fields(self.settings)}
        del options["linearize_at"]
        return options

    def __call__(self, images: Tensor, labels: Tensor | None = None) -> Any:
        """`transform(images, labels)`.

        Args:
            images: as for `transform`.
            labels: as for `transform`.
        """
        return self.transform(images, labels)

    def transform(
        self,
        images: Tensor,
        labels: Tensor | None = None,
        *,
        steps: int | None = None,
        start: Tensor | None = None,
        model_kwargs: Mapping[str, Any] | None = None,
        out: Tensor | Mapping[int, Tensor] | None = None,
        progress: Progress = False,
    ) -> Tensor | dict[int, Tensor]:
        """p_K of every image, or every snapshot asked for.

        Args:
            images: (N, C, H, W), (N, C, D, H, W) or (N, C, T), floating, in the units the network
                takes (0–255 for this project's), on its device. Not modified unless `out`.
            labels: (N,) integers, the classes that the objective is about; a function's may be
                (N, ...) of any dtype; None for "features".
            steps: K of this call, where it differs from the iteration's; no snapshots then. What
                was compiled serves every K.
            start: p_0, shaped as images, if not these; the projection is around images.
            model_kwargs: what else the network's forward pass takes, by name. Tensors with N rows,
                also in tuples, lists and dicts, are split along the batch with the images; the
                rest, and what is marked as `Shared`, goes whole into every forward pass.
            out: where to write: a tensor like the result, the images themselves for in place,
                or with snapshots a dict from step to tensor.
            progress: True draws a bar; a function is called with (image-steps done, total).

        Returns:
            p_K shaped as images, float32 (float64 for a float64 network); with snapshots a dict
            from step to such a tensor.

        Raises:
            TypeError: images, labels or out of the wrong type or dtype.
            ValueError: images, labels, model_kwargs or out of the wrong shape, device or values,
                a function that mixes images, or a network whose weights are not finite.
            SourceLayerError: Φ, or the output, cannot be found, or has no gradient to the images.
            BackendError: the backend asked for by name cannot run this network here.
            DivergenceError: an iterate is not finite; `out` keeps its values from this batch on.
        """
        return self._transform(
            images,
            labels,
            steps=steps,
            start=start,
            model_kwargs=model_kwargs,
            out=out,
            progress=progress,
        )

    def gradients(
        self,
        images: Tensor,
        labels: Tensor | None = None,
        *,
        model_kwargs: Mapping[str, Any] | None = None,
    ) -> Tensor:
        """∂f/∂p of every image: the objective's gradient, by what runs the steps. Nothing moves.

        Args:
            images: as for `transform`.
            labels: as for `transform`.
            model_kwargs: as for `transform`.

        Returns:
            Shaped as images, float32 (float64 for a float64 network).

        Raises:
            TypeError, ValueError, SourceLayerError, BackendError, DivergenceError: as `transform`.

        Example:
            >>> import torch
            >>> from torch import nn
            >>> model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2))
            >>> iteration = InputIteration(model, objective="logit")
            >>> iteration.gradients(torch.rand(1, 2, 1, 1), torch.tensor([1])).shape
            torch.Size([1, 2, 1, 1])
        """

        check_images(images)
        dtype = iterate_dtype(place_of(self._network, images)[0])
        with torch.inference_mode(False):  # as the gradients are that are written to it
            found = torch.empty_like(images, dtype=dtype, requires_grad=False)

        def each(rows: slice) -> Tensor:
            return images[rows]

        def keep(rows: slice, gradient: Tensor) -> None:
            found[rows].copy_(gradient)

        self.gradients_at(images, labels, range(len(images)), each, keep, model_kwargs)
        return found

    def gradients_at(
        self,
        images: Tensor,
        labels: Tensor | None,
        owners: Sequence[int],
        points: Callable[[slice], Tensor],
        use: Callable[[slice, Tensor], None],
        model_kwargs: Mapping[str, Any] | None = None,
        progress: Progress = False,
    ) -> None:
        """Give `use` the gradients at points near the images, a batch at a time.

        Args:
            images: (N, ...).
            labels: of the images.
            owners: of each point the number of its image, whose label and further inputs it has.
            points: from a slice of the points to these, (count, ...).
            use: called with the slice and the gradients there, which are valid until it returns.
            model_kwargs: as for `transform`.
            progress: as for `transform`; the unit is points.

        Raises:
            TypeError, ValueError, SourceLayerError, BackendError, DivergenceError: as `transform`.
        """
        check_images(images)
        dtype, device = place_of(self._network, images)
        check_precision(self.settings.precision, dtype)
        target = Target(check_labels(labels, images, self.settings.rule))
        inputs = ModelInputs.of(model_kwargs, len(images))
        options = {each.name: getattr(self.settings, each.name) for each in fields(self.settings)}
        options |= {"steps": 1, "snapshots": None, "momentum": 0.0, "project": None, "clamp": None}
        options["linearize_at"] = "iterate"
        settings = GradientSettings(**options)
        engines, _ = self._engines_for(inputs)
        engines.candidates(device)
        if not len(images) or not len(owners):
            return
        with (
            explaining_layout(images),
            self._one_call,
            reporting(progress, len(owners), self._title) as report,
            computing(self._network, self.settings.precision),
        ):
            problem, *_ = self._problem(images, dtype, inputs, settings, target)
            engines, batches = self._engines_for(inputs)
            size = batches.rule(problem, images)
            evaluate(problem, engines, owners, size, points, use, report, target)

    def check(
        self,
        images: Tensor,
        labels: Tensor | None = None,
        *,
        model_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        """Raise what `transform` would raise for these arguments, without a step.

        Args:
            images: as for `transform`.
            labels: as for `transform`.
            model_kwargs: as for `transform`.

        Raises:
            TypeError, ValueError, SourceLayerError: as `transform`.
        """
        check_images(images)
        target = Target(check_labels(labels, images, self.settings.rule))
        with self._prepared(images, model_kwargs, target):
            pass

    def outputs(
        self,
        images: Tensor,
        *,
        model_kwargs: Mapping[str, Any] | None = None,
    ) -> Tensor:
        """What the objective reads, the network's output (or that of `layer`), for every image.

        Args:
            images: as for `transform`.
            model_kwargs: as for `transform`.

        Returns:
            (N, ...), without a graph.

        Raises:
            TypeError, ValueError, SourceLayerError: as `transform`.

        Example:
            >>> import torch
            >>> from torch import nn
            >>> model = nn.Sequential(nn.Flatten(), nn.Linear(2, 5))
            >>> iteration = InputIteration(model, objective="logit")
            >>> iteration.outputs(torch.rand(3, 2, 1, 1)).shape
            torch.Size([3, 5])
        """
        with self._prepared(images, model_kwargs) as (problem, *_), torch.no_grad():
            size = self._engines_for(problem.inputs)[1].rule(problem, images)
            found = []
            for first in range(0, len(images), size):
                rows = slice(first, first + size)
                with problem.autocast(images.device):
                    part = images[rows].detach().to(problem.model_dtype)
                    found.append(problem.for_images(rows).phi(part))
            return torch.cat(found)

    def with_options(self, **changes: Any) -> InputIteration:
        """The same iteration with some options changed.

        Args:
            **changes: options of `InputIteration`.

        Raises:
            TypeError: `InputIteration` has no such option.
        """
        check_option_names(changes, InputIteration)
        tune = self.engines.fused.measure or self.plan
        kept = {**self._options, "tune": tune, "strict": self._strict}
        return InputIteration(self.model, **{**kept, **changes})
