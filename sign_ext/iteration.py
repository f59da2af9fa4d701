"""What every iteration of a network's inputs is made of: its engines, its problem, its calls.

`iterate.py` has the iteration of any objective, `sign.py` SIGN. Here is what they share: where the
cotangent is taken is found and checked, a call is run in batches, and questions about what would
run are answered.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sign_ext.algorithm import walk
from sign_ext.bounded_cache import BoundedCache
from sign_ext.checks import (
    check_images,
    check_model,
    check_precision,
    device_of,
    explaining_layout,
    make_outputs,
    place_of,
)
from sign_ext.compiler.ir.inverted_residual import fuse_blocks
from sign_ext.compiler.ir.program import Program
from sign_ext.engine.backends import Engines
from sign_ext.engine.batch import Batches
from sign_ext.engine.fused.step import Step
from sign_ext.engine.fused.tuning_plan import TuningPlan
from sign_ext.engine.kept import forget_kept
from sign_ext.engine.objective import (
    NO_TARGET,
    Target,
    check_function,
    check_labels,
    check_output,
)
from sign_ext.engine.trajectory import Problem, iterate_dtype
from sign_ext.errors import (
    BackendError,
    NegligibleDeltaWarning,
    SourceLayerError,
    level_of_the_caller,
)
from sign_ext.eval_state import computing, unwrap
from sign_ext.explanation import Explanation, explain
from sign_ext.model_inputs import NO_INPUTS, ModelInputs
from sign_ext.pixel_range import forget_units
from sign_ext.probe import forget
from sign_ext.problem import Found, Problems
from sign_ext.progress import Progress, reporting
from sign_ext.settings import Settings
from sign_ext.slow_precision import warn_of_slow_precision
from sign_ext.source_layer import (
    SourceLayer,
    guess_source_layer,
    named_source_layer,
    output_layer,
    producer_of,
)

INPUTS_KEPT = 4  # combinations of constant model_kwargs at a time


class Iteration:
    """An iteration of one network; its engines keep what was compiled.

    Attributes:
        model: the network as it was given.
        settings: the options.
        plan: the algorithm choices measured so far or passed in, a `TuningPlan`.
        engines: what runs the steps.
    """

    _title = "iteration"  # of a progress bar

    def _set_up(
        self, model: nn.Module, settings: Settings, tune: bool | TuningPlan, strict: bool
    ) -> None:
        """Begin with checked options; nothing is computed yet."""
        check_model(model)
        self.model = model
        self.settings = settings
        self._network = unwrap(model)
        self._named = self._asked_for(settings.layer)
        self._problems = Problems(self._network, self.settings, self._named)
        if not isinstance(tune, bool | TuningPlan):
            raise TypeError(f"tune must be True, False or a TuningPlan, got {tune!r}")
        if not isinstance(strict, bool):
            raise TypeError(f"strict must be True or False, got {strict!r}")
        self.plan = tune if isinstance(tune, TuningPlan) else TuningPlan()
        self._strict = strict
        self.engines = Engines(
            self.settings, self._network, self.plan, measure=tune is True, strict=strict
        )
        self._one_call = threading.RLock()  # recorded graphs work on buffers that calls share
        self._warned = self._called = False
        self._seen: SourceLayer | None = None  # Φ's layer in the last call
        self._batches = Batches(self.engines, self.settings.batch_size)
        # The same for calls with further inputs, by the constants among them.
        self._with_inputs: BoundedCache[Hashable, tuple[Engines, Batches]]
        self._with_inputs = BoundedCache(INPUTS_KEPT)

    def _asked_for(self, layer: str | None) -> SourceLayer | None:
        """The layer that the cotangent is at where that is known without images, or None."""
        if self.settings.rule.reads_output:
            return output_layer(self._network, layer)
        return named_source_layer(self._network, layer) if layer is not None else None

    def __getstate__(self) -> dict[str, Any]:
        """What `pickle` and `copy` take along: no compiled step, no recorded graph, no lock."""
        return {
            "model": self.model,
            "settings": self.settings,
            "plan": self.plan,
            "measure": self.engines.fused.measure,
            "strict": self._strict,
        }

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        """Begin anew with another's model, options and plan."""
        self._set_up(state["model"], state["settings"], state["plan"], state["strict"])
        self.engines.fused.measure = state["measure"]

    def reset(self) -> None:
        """Forget what was compiled, recorded and found out; the next call begins anew.

        That holds for all iterations of the network, and gives the memory back. Changes to the
        network are noticed as a rule. Call this after one that cannot be, as the guide
        (docs/guide.md, "Changes between calls") says.

        Example:
            >>> from torch import nn
            >>> from sign_ext import InputIteration
            >>> iteration = InputIteration(nn.Sequential(nn.Flatten(), nn.Linear(12, 5)))
            >>> iteration.reset()
        """
        with self._one_call:
            self._seen = None
            forget(self._network)
            forget_units(self._network)
            self.engines.kept.clear()
            forget_kept(self._network)
            measure = self.engines.fused.measure
            self.engines = Engines(
                self.settings, self._network, self.plan, measure=measure, strict=self._strict
            )
            self._batches = Batches(self.engines, self.settings.batch_size)
            self._with_inputs = BoundedCache(INPUTS_KEPT)

    def _transform(
        self,
        images: Tensor,
        labels: Tensor | None,
        *,
        steps: int | None,
        start: Tensor | None,
        model_kwargs: Mapping[str, Any] | None,
        out: Tensor | Mapping[int, Tensor] | None,
        progress: Progress,
    ) -> Tensor | dict[int, Tensor]:
        check_images(images)
        dtype, device = place_of(self._network, images)
        settings = self.settings if steps is None else self.settings.with_steps(steps)
        check_precision(settings.precision, dtype)
        if not self._called:
            warn_of_slow_precision(settings.precision, device, dtype)
            self._called = True
        target = Target(check_labels(labels, images, settings.rule))
        if start is not None:
            _check_start(start, images)
            target = Target(target.labels, images)
        inputs = ModelInputs.of(model_kwargs, len(images))
        engines, _ = self._engines_for(inputs)
        engines.candidates(device)  # a backend by name that cannot run there raises here
        is_dict = settings.snapshots is not None
        results = make_outputs(out, images, iterate_dtype(dtype), settings.stops, is_dict)
        if len(images):
            total = len(images) * settings.stops[-1]
            title = f"{self._title}, K = {settings.stops[-1]}"
            with (
                explaining_layout(images),
                self._one_call,
                reporting(progress, total, title) as report,
            ):
                begin = images if start is None else start
                self._run(begin, inputs, results, dtype, report, settings, target)
        if settings.snapshots is None:
            return results[settings.steps]
        return {k: results[k] for k in settings.snapshots}

    def _engines_for(self, inputs: ModelInputs) -> tuple[Engines, Batches]:
        """What runs calls with such further inputs: what was compiled depends on them."""
        if not inputs:
            return self.engines, self._batches

        def make() -> tuple[Engines, Batches]:
            measure, why = self.engines.fused.measure, inputs.why_eager
            # A plan of their own: places in a plan are those of one program.
            engines = Engines(
                self.settings,
                self._network,
                TuningPlan(),
                measure=measure,
                strict=self._strict,
                eager_only=why,
            )
            return engines, Batches(engines, self.settings.batch_size)

        with self._one_call:
            return self._with_inputs.get_or_make(inputs.key, make)

    def _run(
        self,
        images: Tensor,
        inputs: ModelInputs,
        results: dict[int, Tensor],
        dtype: torch.dtype,
        report: Callable[[int], None] | None,
        settings: Settings,
        target: Target = NO_TARGET,
    ) -> None:
        inference = torch.is_inference_mode_enabled()

        def write(rows: slice, iterates: Mapping[int, Tensor]) -> None:
            # In the caller's mode, which alone may write what the caller made in it.
            with torch.no_grad(), torch.inference_mode(inference):
                for k, iterate in iterates.items():
                    results[k][rows].copy_(iterate)

        with computing(self._network, self.settings.precision):
            problem, source, varies = self._problem(images, dtype, inputs, settings, target)
            if doubt := varies.doubt(source, self._network):
                self._warn(doubt)
            engines, batches = self._engines_for(inputs)
            size = batches.size(problem, images)
            if not walk(problem, engines, images, size, write, report, target):
                self._warn(_negligible(settings, len(images)))

    def _warn(self, message: str) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(message, NegligibleDeltaWarning, stacklevel=level_of_the_caller())

    def _problem(
        self,
        images: Tensor,
        dtype: torch.dtype,
        inputs: ModelInputs = NO_INPUTS,
        settings: Settings | None = None,
        target: Target | None = None,
    ) -> Found:
        """What a call with images like these is about; a mere question has no target."""
        engines, _ = self._engines_for(inputs)
        found = self._problems.find(engines.kept, images, dtype, inputs, settings)
        self._seen = found.source
        if self.settings.rule.reads_output:
            self._check_objective(found.problem, images, target)
        return found

    def _check_objective(self, problem: Problem, images: Tensor, target: Target | None) -> None:
        """Refuse an output, labels or a function that the objective is not defined for."""
        rule = self.settings.rule
        # A copy, since the caller's may have been made in inference mode.
        image = torch.empty_like(images[:1], dtype=problem.model_dtype).copy_(images[:1].detach())
        with torch.enable_grad(), problem.autocast(images.device):
            output = problem.for_images(slice(0, 1)).phi(image.requires_grad_())
        if rule.objective in ("cross_entropy", "margin") and producer_of(output).startswith(
            "Softmax"
        ):
            raise SourceLayerError(
                f"{self._named} are a softmax, and objective={rule.objective!r} takes logits, "
                "of which it makes a softmax itself: pass layer=NAME of the layer before it"
            )
        check_output(rule, output.detach(), None if target is None else target.labels, 1)
        if target is not None and not isinstance(rule.objective, str):
            labels = target[:1].labels
            check_function(rule, output.detach(), None if labels is None else labels.clone())

    @contextmanager
    def _prepared(
        self,
        images: Tensor,
        model_kwargs: Mapping[str, Any] | None = None,
        target: Target | None = None,
    ) -> Iterator[Found]:
        """What `_problem` returns, for questions that run no step; the network is frozen inside."""
        check_images(images)
        dtype, _ = place_of(self._network, images)
        check_precision(self.settings.precision, dtype)
        inputs = ModelInputs.of(model_kwargs, len(images))
        with self._one_call, computing(self._network, self.settings.precision):
            with explaining_layout(images):
                found = self._problem(images, dtype, inputs, target=target)
            yield found

    def source_layer(
        self, images: Tensor | None = None, *, model_kwargs: Mapping[str, Any] | None = None
    ) -> SourceLayer | None:
        """Where Φ is read: found on images (N, ...), else as in the last call, else None."""
        if images is not None:
            with self._prepared(images, model_kwargs):
                pass
        return self._named or self._seen

    def program(self, images: Tensor, *, model_kwargs: Mapping[str, Any] | None = None) -> Program:
        """The network up to its source layer as the compiler sees it: `print` it.

        Args:
            images: one or more images (N, C, H, W), as for `transform`.
            model_kwargs: as for `transform`.

        Returns:
            The operations with what each keeps in bytes; `program.pullback_of_ones(images)` is δ.

        Raises:
            BackendError: the compiler cannot follow the network, or strict=True and it has no rule
                for an operation; it is named.
            SourceLayerError: Φ cannot be found.
        """
        with self._prepared(images, model_kwargs) as (problem, *_):
            fused = self._compiling(problem).fused
            blocks = fused.step(problem, images).choices.blocks
            return fuse_blocks(fused.program(problem, images), blocks)[0]

    def step(self, images: Tensor, *, model_kwargs: Mapping[str, Any] | None = None) -> Step:
        """What the `fused` backend would run for batches shaped as `images`.

        Args:
            images: (N, C, H, W), as for `transform`.
            model_kwargs: as for `transform`.

        Raises:
            BackendError, SourceLayerError: as `program`.
        """
        with self._prepared(images, model_kwargs) as (problem, *_):
            return self._compiling(problem).fused.step(problem, images)

    def _compiling(self, problem: Problem) -> Engines:
        """What compiles the step of a call; BackendError where its further inputs forbid that."""
        if why := problem.inputs.why_eager:
            raise BackendError(
                f'no step is compiled for this call, backend="autograd" runs it: {why}'
            )
        return self._engines_for(problem.inputs)[0]

    def images_at_once(
        self, images: Tensor, *, model_kwargs: Mapping[str, Any] | None = None
    ) -> int:
        """How many images like these, (N, ...), a batch holds, by the rule of `engine/batch.py`.

        Example:
            >>> import torch
            >>> from torch import nn
            >>> from sign_ext import InputIteration
            >>> model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 2))
            >>> InputIteration(model).images_at_once(torch.rand(1, 3, 2, 2))
            128
        """
        with self._prepared(images, model_kwargs) as (problem, *_):
            return self._engines_for(problem.inputs)[1].rule(problem, images)

    def explain(
        self, images: Tensor | None = None, *, model_kwargs: Mapping[str, Any] | None = None
    ) -> Explanation:
        """What will run and why; asking changes nothing that runs later.

        With tune=True, choices for a new batch shape are measured here as `transform` would.

        Args:
            images: one or more images (N, C, H, W) to find the source layer and the backend on.
                Without them it reports the last call's, or a guess that is marked as one.
            model_kwargs: as for `transform`.

        Returns:
            A printable Explanation.

        Raises:
            BackendError: the backend asked for by name cannot run this network here.
            TypeError, ValueError, SourceLayerError: as `transform`.
        """
        if images is None:
            return self._explain_unseen()
        with self._prepared(images, model_kwargs) as (problem, source, varies):
            notes = [doubt] if (doubt := varies.doubt(source, self._network)) else []
            engines, batches = self._engines_for(problem.inputs)
            if images.is_cuda:
                at_once = batches.rule(problem, images)
                notes.append(f"at most {at_once:,} images at a time")
            return explain(
                problem,
                engines,
                images,
                network=self._network,
                source_layer=str(source),
                notes=notes,
            )

    def _explain_unseen(self) -> Explanation:
        """What is known without images: no step has been compiled for them."""
        source = self._named or self._seen
        layer = str(source) if source is not None else "not known before images are seen"
        if source is None and (guess := guess_source_layer(self._network)):
            layer = f"{guess}, a guess until images are seen"
        image = torch.zeros(1, 3, 32, 32, device=device_of(self._network))
        dtype, _ = place_of(self._network, image)
        problem = Problem(self._network, self.settings, dtype)
        with self._one_call:
            return explain(problem, self.engines, None, network=self._network, source_layer=layer)


def _negligible(settings: Settings, images: int) -> str:
    """What to say where no step moved any image."""
    rule, steps = settings.rule, settings.stops[-1]
    if not rule.reads_output:
        return (
            f"δ was negligible in every step: all {steps} of them move these {images:,} images by "
            "less than their largest value is rounded. Raise the step size (calibrate proposes "
            "one) or pass another layer"
        )
    margin = (
        ' The softmax of confident logits is flat: objective="margin" has a gradient there'
        if rule.objective == "cross_entropy"
        else ""
    )
    return (
        f"the gradient of the objective ({rule.objective_name}) was negligible in every step: all "
        f"{steps} of them move these {images:,} images by less than their largest value is "
        f"rounded. Raise the step size.{margin}"
    )


def _check_start(start: Any, images: Tensor) -> None:
    """Refuse a start that is no place for these images."""
    if not isinstance(start, Tensor) or not start.is_floating_point():
        kind = start.dtype if isinstance(start, Tensor) else type(start).__name__
        raise TypeError(f"start must be a floating tensor shaped as images, got {kind}")
    if start.shape != images.shape or start.device != images.device:
        raise ValueError(
            f"start must be shaped as images, {tuple(images.shape)} on {images.device}; got "
            f"{tuple(start.shape)} on {start.device}"
        )
    if not bool(torch.isfinite(start).all()):
        raise ValueError("start holds NaN or Inf")
