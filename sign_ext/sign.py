"""SIGN as users call it: the function `iterative_sign` and the reusable object `SignTransform`.

The steps themselves, Algorithm 1 of the paper, are in `algorithm.py`.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sign_ext.algorithm import walk
from sign_ext.batch_forms import transform_in
from sign_ext.bounded_cache import BoundedCache
from sign_ext.calibrate import Calibration, calibrate
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
from sign_ext.engine.onchip.network import OnChipNetwork
from sign_ext.engine.trajectory import Problem, iterate_dtype
from sign_ext.errors import BackendError, NegligibleDeltaWarning, level_of_the_caller
from sign_ext.eval_state import computing, unwrap
from sign_ext.explanation import Explanation, explain
from sign_ext.model_inputs import NO_INPUTS, ModelInputs
from sign_ext.pixel_range import forget_units
from sign_ext.probe import forget
from sign_ext.problem import Found, Problems
from sign_ext.progress import Progress, reporting
from sign_ext.settings import LinearizeAt, Settings
from sign_ext.source_layer import (
    SourceLayer,
    guess_source_layer,
    named_source_layer,
)

INPUTS_KEPT = 4  # combinations of constant model_kwargs at a time


def iterative_sign(
    model: nn.Module,
    images: Tensor,
    steps: int = 50,
    *,
    layer: str | None = None,
    step_size: float = 1.0,
    momentum: float = 0.0,
    linearize_at: LinearizeAt = "iterate",
    clamp: tuple[float | None, float | None] | None = None,
    snapshots: Sequence[int] | None = None,
    batch_size: int | None = None,
    backend: str = "auto",
    precision: str = "float32",
    tune: bool | TuningPlan = False,
    strict: bool = False,
    model_kwargs: Mapping[str, Any] | None = None,
    out: Tensor | Mapping[int, Tensor] | None = None,
    progress: Progress = False,
) -> Tensor | dict[int, Tensor]:
    """Algorithm 1, Iterative SIGN: add Σ_a ∂Φ^a/∂x^i to the images, K times.

    Args, results and errors are those of `SignTransform` and its `transform`. What was compiled is
    kept with the network, so that further calls cost their steps.

    Args:
        model: a trained network; left exactly as it is.
        images: (N, C, H, W), (N, C, D, H, W) or (N, C, T) floating, pixel units 0–255 for this
            project's networks.
        steps: K.
        layer: make Φ this module's output; None takes the final classifier's input.
        step_size: factor of each step (the paper: 1).
        momentum: μ of v ← μv + δ (0: Algorithm 1 as printed).
        linearize_at: "iterate" or "input".
        clamp: (lowest, highest) for p*, or None.
        snapshots: steps to return, all from one trajectory.
        batch_size: images at a time.
        backend: "auto", "onchip", "fused", "graphed" or "autograd".
        precision: "float32", "tf32" or "bfloat16".
        tune: True measures the fused backend's algorithms first, or a `TuningPlan`.
        strict: True compiles nothing that has parts which the compiler has no rule for.
        model_kwargs: what else the network's forward pass takes, by name.
        out: where to write; `out=images` works in place.
        progress: True, or a function of (done, total).

    Returns:
        p*_K shaped as images, float32 (float64 for a float64 network); with snapshots a dict from
        step to such a tensor.

    Raises:
        TypeError, ValueError, SourceLayerError, BackendError, DivergenceError: as SignTransform.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from sign_ext import iterative_sign
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 2))
        >>> iterative_sign(model, torch.rand(3, 3, 2, 2) * 255, steps=2).shape
        torch.Size([3, 3, 2, 2])
    """
    sign = SignTransform(
        model,
        steps,
        layer=layer,
        step_size=step_size,
        momentum=momentum,
        linearize_at=linearize_at,
        clamp=clamp,
        snapshots=snapshots,
        batch_size=batch_size,
        backend=backend,
        precision=precision,
        tune=tune,
        strict=strict,
    )
    return sign.transform(images, model_kwargs=model_kwargs, out=out, progress=progress)


class SignTransform:
    """SIGN for one network, reusable: compiled steps, graphs and choices are kept between calls.

    All transforms of a network share what was compiled. Calls from several threads wait for each
    other; to run calls at the same time, make one transform for each. `sign(images)` is
    `sign.transform(images)`. Copies, also those that pickle makes for other processes, have the
    model, the options and the plan; those of another network compile for themselves.

    Args:
        model: Φ and its classifier, a trained `torch.nn.Module`; left exactly as it is.
        steps: K, the number of iterations.
        layer: make Φ the output of this module; None finds the final classifier and takes its
            input, "the output of the last layer (before the logits)".
        step_size: what each step adds is step_size times δ (the paper: 1). δ's size depends on
            the network and on the input's units: `calibrate` measures it.
        momentum: μ in v ← μv + δ, p* ← p* + step_size · v; 0 is Algorithm 1 as printed.
        linearize_at: "iterate" takes δ at p*_k; "input" takes it once, at p, for all steps.
        clamp: (lowest, highest) value, either of them None for no bound, that p* is clamped to
            after each step; None (the paper) does not clamp.
        snapshots: steps whose iterates to return, (50, 100) in the paper, from one trajectory.
        batch_size: images at a time; None takes 128 on a CPU, and what fills a CUDA device
            (`images_at_once`). Samples do not interact, so it changes memory and speed only.
        backend: "auto", "onchip" (an image's values stay in shared memory: bfloat16,
            convolutions), "fused" (compiled to fused operators), "graphed" (CUDA graphs) or
            "autograd" (any module and device).
        precision: arithmetic of float32 networks: "float32" (IEEE, TF32 switched off), "tf32" or
            "bfloat16" (autocast; iterate in float32). Networks of other dtypes use their own.
        tune: how the fused backend chooses algorithms: False, by a fixed rule, so that the same
            call gives the same bits everywhere; True, by measuring once for each batch shape, kept
            in `plan`, which can be saved; a `TuningPlan`, as measured before.
        strict: True lets the compiler refuse a network with operations that it has no rule for,
            and name them; by default PyTorch runs these as islands of the compiled step.

    Attributes:
        plan: the algorithm choices measured so far or passed in, a `TuningPlan`.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: an argument out of range, an unknown layer, or a network whose samples interact.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from sign_ext import SignTransform
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 2))
        >>> sign = SignTransform(model, steps=2, snapshots=(1, 2))
        >>> sorted(sign.transform(torch.rand(3, 3, 2, 2) * 255))
        [1, 2]
    """

    def __init__(
        self,
        model: nn.Module,
        steps: int = 50,
        *,
        layer: str | None = None,
        step_size: float = 1.0,
        momentum: float = 0.0,
        linearize_at: LinearizeAt = "iterate",
        clamp: tuple[float | None, float | None] | None = None,
        snapshots: Sequence[int] | None = None,
        batch_size: int | None = None,
        backend: str = "auto",
        precision: str = "float32",
        tune: bool | TuningPlan = False,
        strict: bool = False,
    ) -> None:
        """Check the options; nothing is computed yet."""
        check_model(model)
        self.model = model
        self.settings = Settings(
            steps=steps,
            layer=layer,
            step_size=step_size,
            momentum=momentum,
            linearize_at=linearize_at,
            clamp=clamp,
            snapshots=snapshots,
            batch_size=batch_size,
            backend=backend,
            precision=precision,
        )
        self._network = unwrap(model)
        self._named = named_source_layer(self._network, layer) if layer is not None else None
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
        self._warned = False
        self._seen: SourceLayer | None = None  # Φ's layer in the last call
        self._batches = Batches(self.engines, self.settings.batch_size)
        # The same for calls with further inputs, by the constants among them.
        self._with_inputs: BoundedCache[Hashable, tuple[Engines, Batches]]
        self._with_inputs = BoundedCache(INPUTS_KEPT)

    def __getstate__(self) -> dict[str, Any]:
        """What `pickle` and `copy` take along: no compiled step, no recorded graph, no lock."""
        measure = self.engines.fused.measure
        return {
            "model": self.model,
            "options": vars(self.settings).copy(),
            "plan": self.plan,
            "measure": measure,
            "strict": self._strict,
        }

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        """Begin anew with another's model, options and plan."""
        options = {**state["options"], "tune": state["plan"], "strict": state["strict"]}
        SignTransform.__init__(self, state["model"], **options)
        self.engines.fused.measure = state["measure"]

    def __call__(self, images: Any, *others: Any) -> Any:
        """`transform(images)`, so that a transform stands in a pipeline that works on batches.

        Args:
            images: (N, ...), as for `transform`; or a batch as a dict, list or tuple that holds
                such images: as an `Image` of torchvision's tv_tensors, else under the key
                "image", "images", "img" or "pixel_values", else as its first floating tensor of
                three dimensions or more.
            others: what comes with the images in the pipeline, labels for instance.

        Returns:
            What `transform` returns, as an `Image` where the images are one; with others a tuple of
            that and the others as they are. A batch keeps its form.

        Raises:
            TypeError: no images in the batch, or as `transform`.

        Example:
            >>> import torch
            >>> from torch import nn
            >>> model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 2))
            >>> sign = SignTransform(model, steps=2)
            >>> moved, labels = sign(torch.rand(2, 3, 2, 2) * 255, torch.tensor([1, 0]))
            >>> moved.shape
            torch.Size([2, 3, 2, 2])
            >>> sorted(sign({"image": torch.rand(2, 3, 2, 2) * 255, "label": labels}))
            ['image', 'label']
        """
        return transform_in((images, *others) if others else images, self.transform)

    def reset(self) -> None:
        """Forget what was compiled, recorded and found out; the next call begins anew.

        That holds for all transforms of the network, and gives the memory back. Changes to the
        network are noticed as a rule. Call this after one that cannot be, as the guide
        (docs/guide.md, "Changes between calls") says.

        Example:
            >>> from torch import nn
            >>> sign = SignTransform(nn.Sequential(nn.Flatten(), nn.Linear(12, 5)))
            >>> sign.reset()
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

    def transform(
        self,
        images: Tensor,
        *,
        steps: int | None = None,
        model_kwargs: Mapping[str, Any] | None = None,
        out: Tensor | Mapping[int, Tensor] | None = None,
        progress: Progress = False,
    ) -> Tensor | dict[int, Tensor]:
        """p*_K of every image, or every snapshot asked for.

        Args:
            images: (N, C, H, W), (N, C, D, H, W) or (N, C, T), floating, in the units the network
                takes (0–255 for this project's), on its device. Not modified unless `out`.
            steps: K of this call, where it differs from the transform's; no snapshots then. What
                was compiled serves every K.
            model_kwargs: what else the network's forward pass takes, by name. Tensors with N rows,
                also in tuples, lists and dicts, are split along the batch with the images; the
                rest, and what is marked as `Shared`, goes whole into every forward pass.
            out: where to write: a tensor like the result, the images themselves for in place,
                or with snapshots a dict from step to tensor.
            progress: True draws a bar; a function is called with (image-steps done, total).

        Returns:
            p*_K shaped as images, float32 (float64 for a float64 network); with snapshots a dict
            from step to such a tensor.

        Raises:
            TypeError: images or out of the wrong type or dtype.
            ValueError: images, model_kwargs or out of the wrong shape, device or values, or a
                network whose weights are not finite.
            SourceLayerError: Φ cannot be found, or has no gradient to the images.
            BackendError: the backend asked for by name cannot run this network here.
            DivergenceError: an iterate is not finite; `out` keeps its values from this batch on.
        """
        check_images(images)
        dtype, device = place_of(self._network, images)
        settings = self.settings if steps is None else self.settings.with_steps(steps)
        check_precision(settings.precision, dtype)
        inputs = ModelInputs.of(model_kwargs, len(images))
        engines, _ = self._engines_for(inputs)
        engines.candidates(device)  # a backend by name that cannot run there raises here
        is_dict = settings.snapshots is not None
        results = make_outputs(out, images, iterate_dtype(dtype), settings.stops, is_dict)
        if len(images):
            total = len(images) * settings.stops[-1]
            title = f"SIGN, K = {settings.stops[-1]}"
            with (
                explaining_layout(images),
                self._one_call,
                reporting(progress, total, title) as report,
            ):
                self._run(images, inputs, results, dtype, report, settings)
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
    ) -> None:
        inference = torch.is_inference_mode_enabled()

        def write(rows: slice, iterates: Mapping[int, Tensor]) -> None:
            # In the caller's mode, which alone may write what the caller made in it.
            with torch.no_grad(), torch.inference_mode(inference):
                for k, iterate in iterates.items():
                    results[k][rows].copy_(iterate)

        with computing(self._network, self.settings.precision):
            problem, source, varies = self._problem(images, dtype, inputs, settings)
            if not varies:
                self._warn(f"{_constant(source)}: pass layer=NAME of an earlier layer")
            engines, batches = self._engines_for(inputs)
            size = batches.size(problem, images)
            if not walk(problem, engines, images, size, write, report):
                self._warn(
                    f"δ was negligible in every step: all {settings.stops[-1]} of them move "
                    f"these {len(images):,} images by less than their largest value is rounded. "
                    "Raise the step size (calibrate proposes one) or pass another layer"
                )

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
    ) -> Found:
        """What a call with images like these is about."""
        engines, _ = self._engines_for(inputs)
        found = self._problems.find(engines.kept, images, dtype, inputs, settings)
        self._seen = found.source
        return found

    @contextmanager
    def _prepared(
        self, images: Tensor, model_kwargs: Mapping[str, Any] | None = None
    ) -> Iterator[Found]:
        """What `_problem` returns, for questions that run no step; the network is frozen inside."""
        check_images(images)
        dtype, _ = place_of(self._network, images)
        check_precision(self.settings.precision, dtype)
        inputs = ModelInputs.of(model_kwargs, len(images))
        with self._one_call, computing(self._network, self.settings.precision):
            with explaining_layout(images):
                found = self._problem(images, dtype, inputs)
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
            >>> from torch import nn
            >>> model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 2))
            >>> SignTransform(model).images_at_once(torch.rand(1, 3, 2, 2))
            128
        """
        with self._prepared(images, model_kwargs) as (problem, *_):
            return self._engines_for(problem.inputs)[1].rule(problem, images)

    def on_chip(
        self, images: Tensor, *, model_kwargs: Mapping[str, Any] | None = None
    ) -> OnChipNetwork:
        """What the `onchip` backend would keep on chip for images like these; see its `lines()`.

        Args:
            images: (N, C, H, W), as for `transform`.
            model_kwargs: as for `transform`.

        Raises:
            BackendError: too little of the network, this call or this device: the message says why.
            SourceLayerError: Φ cannot be found.
        """
        with self._prepared(images, model_kwargs) as (problem, *_):
            onchip = self._compiling(problem).onchip
            if self.settings.backend == "auto":
                onchip.require_most(problem, images)
            return onchip.network(problem, images)

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
            notes = [] if varies else [_constant(source)]
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

    def with_options(self, **changes: Any) -> SignTransform:
        """The same transform with some options changed."""
        tune = self.engines.fused.measure or self.plan
        kept = {**vars(self.settings), "tune": tune, "strict": self._strict}
        return SignTransform(self.model, **{**kept, **changes})

    def calibrate(
        self,
        images: Tensor,
        labels: Tensor | None = None,
        *,
        steps: int | None = None,
        step_sizes: Sequence[float] | None = None,
        target_share: float = 0.02,
        pixel_range: float = 255.0,
        model_kwargs: Mapping[str, Any] | None = None,
        progress: Progress = False,
        say: Callable[[str], None] | None = None,
    ) -> Calibration:
        """Measure what step sizes do to images, and propose one; see `sign_ext.calibrate`.

        A proposal holds for one K: `steps`, or None for the transform's own.
        """

        def moved(step_size: float, steps: int) -> Tensor:
            trial = self.with_options(steps=steps, snapshots=None, step_size=step_size)
            return trial.transform(images, model_kwargs=model_kwargs)  # type: ignore[return-value]  # no snapshots: a tensor

        return calibrate(
            moved,
            images,
            labels,
            model=self.model,
            settings=self.settings,
            steps=self.settings.steps if steps is None else steps,
            step_sizes=step_sizes,
            target_share=target_share,
            pixel_range=pixel_range,
            model_kwargs=model_kwargs,
            progress=progress,
            say=say,
        )


def _constant(source: SourceLayer) -> str:
    return (
        f"the sum over {source} is (nearly) constant, as after a LayerNorm, so δ is negligible and "
        "SIGN changes nothing"
    )
