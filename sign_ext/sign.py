"""SIGN as users call it: the function `iterative_sign` and the reusable object `SignTransform`.

SIGN is the iteration (`iterate.py`) whose objective is the sum over Φ. The steps themselves,
Algorithm 1 of the paper, are in `algorithm.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from torch import Tensor, nn

from sign_ext.batch_forms import transform_in
from sign_ext.calibrate import Calibration, calibrate
from sign_ext.checks import check_option_names
from sign_ext.engine.fused.tuning_plan import TuningPlan
from sign_ext.engine.onchip.network import OnChipNetwork
from sign_ext.iterate import InputIteration
from sign_ext.progress import Progress
from sign_ext.settings import LinearizeAt, Settings


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


class SignTransform(InputIteration):
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

    Warns:
        SlowPrecisionWarning: the first call finds that its device only emulates bfloat16.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from sign_ext import SignTransform
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 2))
        >>> sign = SignTransform(model, steps=2, snapshots=(1, 2))
        >>> sorted(sign.transform(torch.rand(3, 3, 2, 2) * 255))
        [1, 2]
    """

    _title = "SIGN"

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
        settings = Settings(
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
        self._set_up(model, settings, tune, strict)

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

    def transform(  # type: ignore[override]  # SIGN has no labels and no other start
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
        return self._transform(
            images,
            None,
            steps=steps,
            start=None,
            model_kwargs=model_kwargs,
            out=out,
            progress=progress,
        )

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

    def with_options(self, **changes: Any) -> SignTransform:
        """The same transform with some options changed.

        Raises:
            TypeError: `SignTransform` has no such option.
        """
        check_option_names(changes, SignTransform)
        tune = self.engines.fused.measure or self.plan
        kept = {**vars(self.settings), "tune": tune, "strict": self._strict}
        return SignTransform(self.model, **{**kept, **changes})

    def calibrate(
        self,
        images: Tensor,
        labels: Tensor | None = None,
        *,
        steps: int | None = None,
        step_sizes: Sequence[float] | Literal["grid"] | None = None,
        target_share: float = 0.02,
        pixel_range: float = 255.0,
        model_kwargs: Mapping[str, Any] | None = None,
        progress: Progress = False,
        say: Callable[[str], None] | None = None,
    ) -> Calibration:
        """Measure what step sizes do to images, and propose one; see `sign_ext.calibrate`.

        A proposal holds for one K: `steps`, or None for the transform's own.
        """

        def moved(step_size: float, steps: int, progress: Progress) -> Tensor:
            trial = self.with_options(steps=steps, snapshots=None, step_size=step_size)
            trial._warned = True  # the table says how far images move
            found = trial.transform(images, model_kwargs=model_kwargs, progress=progress)
            assert isinstance(found, Tensor)  # without snapshots
            return found

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
