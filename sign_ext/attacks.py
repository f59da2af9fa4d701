"""Adversarial examples: projected gradient steps that raise the loss of a label.

Madry et al., Towards deep learning models resistant to adversarial attacks, ICLR 2018.
Carlini & Wagner, Towards evaluating the robustness of neural networks, S&P 2017 (the margin).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from sign_ext.checks import check_images
from sign_ext.engine.fused.tuning_plan import TuningPlan
from sign_ext.engine.objective import check_labels, values_of
from sign_ext.eval_state import unwrap
from sign_ext.iterate import InputIteration
from sign_ext.model_inputs import ModelInputs
from sign_ext.noise import draw_each, indices_of, seed_from
from sign_ext.pixel_range import warn_once
from sign_ext.progress import Progress
from sign_ext.settings import NORMS, Objective, StepRule

LEAST_USUAL = 0.5  # grey levels; a smaller ε is one of images in 0–1
_UPDATES = {"linf": "sign", "l2": "l2"}  # the steepest step of each norm


def pgd(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    step_size: float,
    steps: int,
    norm: str = "linf",
    random_start: bool = True,
    restarts: int = 1,
    clamp: tuple[float, float] | None = (0, 255),
    targeted: bool = False,
    only_correct: bool = False,
    objective: Objective = "cross_entropy",
    momentum: float = 0.0,
    seed: int = 0,
    generator: torch.Generator | None = None,
    indices: Tensor | None = None,
    batch_size: int | None = None,
    backend: str = "auto",
    precision: str = "float32",
    layer: str | None = None,
    tune: bool | TuningPlan = False,
    strict: bool = False,
    model_kwargs: Mapping[str, Any] | None = None,
    progress: Progress = False,
) -> Tensor:
    """Adversarial examples by projected gradient descent (Madry et al. 2018, section 2.1).

        p_{k+1} = clamp(Π(p_k + step_size · u(∂f/∂p)))

    with Π the projection to the ball of radius ε around the image, and u the sign of the gradient
    for L∞, or the gradient divided by its L2 norm, for each image. f is the cross-entropy of the
    label, which is raised; or of a target label, which is lowered. Every image is attacked unless
    `only_correct`. All in the units of the images: ε = 8 of 255 is `epsilon=8`.

    Args:
        model: a trained network; left exactly as it is, and attacked in evaluation mode.
        images: (N, C, H, W), (N, C, D, H, W) or (N, C, T) floating, pixel units; not modified.
        labels: (N,) integers: the true classes, or with `targeted` those to reach.
        epsilon: radius of the ball, in pixel units, above 0.
        step_size: of each step, in pixel units, above 0.
        steps: K.
        norm: "linf" or "l2".
        random_start: begin at a random point of the ball, instead of the image: uniform in the L∞
            ball, or in L2 in a uniform direction at a uniform share of the radius.
        restarts: how often to attack each image. Of its results, each image keeps the worst for
            the network: one that is misclassified (or reaches its target) before one that is not,
            then the one of the larger f (with `targeted` the smaller). Without a random start all
            would be equal, so that more than 1 is refused.
        clamp: (lowest, highest) pixel, either None for no bound; or None.
        targeted: lower f of the labels instead of raising it.
        only_correct: leave images as they are on which the attack has nothing to do: those that
            the network misclassifies already, or with `targeted` those that it takes for their
            targets.
        objective: f: "cross_entropy", "margin" (max_{i≠y} z_i − z_y, Carlini & Wagner's f_6
            without its bound) or a function of (output, labels), (N, ...) and (N,), to (N,).
        momentum: μ of v ← μv + ∂f/∂p, the step then being along v.
        seed: of the random starts, 0 or above. An image's start depends on the seed, the restart
            and the image's index alone: not on the device, the batch, or the call's other images.
        generator: a CPU generator to draw the seed from, once a call, instead of `seed`.
        indices: int64 (N,), 0 or above, positions of the images in their data set; None for 0 to
            N − 1. A data set that is attacked in parts has the starts of the whole one with them.
        batch_size: images at a time.
        backend: "auto", "fused", "graphed" or "autograd".
        precision: "float32", "tf32" or "bfloat16".
        layer: the module whose output are the logits; None: the whole network.
        tune: as for `iterative_sign`.
        strict: as for `iterative_sign`.
        model_kwargs: what else the network's forward pass takes, by name.
        progress: True, or a function of (image-steps done, total).

    Returns:
        Adversarial images, shaped as images, float32 (float64 for a float64 network): within ε of
        the images up to their last bits, and within the clamp.

    Warns:
        PixelRangeWarning: epsilon is below 0.5, as for images of 0–1, and the images go beyond 1.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: an argument out of range, or labels that do not fit the network.
        SourceLayerError, BackendError, DivergenceError: as `iterate_inputs`.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from sign_ext import pgd
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 2))
        >>> images, labels = torch.rand(3, 3, 2, 2) * 255, torch.tensor([0, 1, 1])
        >>> adversarial = pgd(model, images, labels, epsilon=8, step_size=2, steps=10)
        >>> bool((adversarial - images).abs().max() <= 8.001)
        True
    """
    attack = Attack(
        model,
        epsilon=epsilon,
        step_size=step_size,
        steps=steps,
        norm=norm,
        random_start=random_start,
        restarts=restarts,
        clamp=clamp,
        targeted=targeted,
        only_correct=only_correct,
        objective=objective,
        seed=seed_from(seed, generator),
        momentum=momentum,
        batch_size=batch_size,
        backend=backend,
        precision=precision,
        layer=layer,
        tune=tune,
        strict=strict,
    )
    return attack.run(images, labels, indices, model_kwargs=model_kwargs, progress=progress)


class Attack:
    """`pgd` of one network, reusable: from its starts, of which each image keeps the worst result.

    The random starts of an image depend on the seed, the restart and the image's position in the
    data set alone.

    Args:
        model: as for `pgd`.
        epsilon: as for `pgd`.
        step_size: as for `pgd`.
        steps: as for `pgd`.
        norm: as for `pgd`.
        random_start: as for `pgd`.
        restarts: as for `pgd`.
        clamp: as for `pgd`.
        targeted: as for `pgd`.
        only_correct: as for `pgd`.
        objective: as for `pgd`.
        seed: as for `pgd`.
        **options: of `InputIteration`, which takes the steps.

    Attributes:
        iteration: the steps from one start.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: an argument out of range.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
        >>> attack = Attack(model, epsilon=8, step_size=2, steps=10)
        >>> attack.run(torch.rand(3, 3, 2, 2) * 255, torch.tensor([0, 1, 1])).shape
        torch.Size([3, 3, 2, 2])
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        epsilon: float,
        step_size: float,
        steps: int,
        norm: str = "linf",
        random_start: bool = True,
        restarts: int = 1,
        clamp: tuple[float, float] | None = (0, 255),
        targeted: bool = False,
        only_correct: bool = False,
        objective: Objective = "cross_entropy",
        seed: int = 0,
        **options: Any,
    ) -> None:
        """Check the options; nothing is computed yet."""
        epsilon = _positive("epsilon", epsilon)
        step_size = _positive("step_size", step_size)
        if norm not in NORMS:
            raise ValueError(f"norm must be one of {', '.join(NORMS)}; got {norm!r}")
        self._restarts = _count("restarts", restarts)
        for name, flag in (
            ("random_start", random_start),
            ("targeted", targeted),
            ("only_correct", only_correct),
        ):
            if not isinstance(flag, bool):
                raise TypeError(f"{name} must be True or False, got {flag!r}")
        if restarts > 1 and not random_start:
            raise ValueError(
                f"restarts={restarts} without a random start would repeat the same attack: pass "
                "random_start=True, or restarts=1"
            )
        if objective in ("features", "logit"):
            raise ValueError(
                f'objective={objective!r} is no loss of a label: pass "cross_entropy", "margin" or '
                "a function; iterate_inputs climbs any objective"
            )
        self._targeted, self._only_correct = targeted, only_correct
        self._seed = seed_from(seed, None) if random_start else None
        self._norm, self._epsilon = norm, epsilon
        self.iteration = InputIteration(
            model,
            steps,
            objective=objective,
            update=_UPDATES[norm],
            step_size=-step_size if targeted else step_size,
            project=(norm, epsilon),
            clamp=clamp,
            **options,
        )

    def run(
        self,
        images: Tensor,
        labels: Tensor,
        indices: Tensor | None = None,
        *,
        model_kwargs: Mapping[str, Any] | None = None,
        progress: Progress = False,
    ) -> Tensor:
        """The worst of some attacks on each image, or on those that are worth one.

        Args:
            images: as for `pgd`.
            labels: as for `pgd`.
            indices: as for `pgd`.
            model_kwargs: as for `pgd`.
            progress: as for `pgd`.

        Returns:
            As `pgd`.

        Raises:
            TypeError, ValueError, SourceLayerError, BackendError, DivergenceError: as `pgd`.
        """
        if labels is None:
            raise ValueError("labels are needed: (N,) integers, one for each image")
        check_images(images)
        self._check_epsilon(images)
        places = indices_of(indices, images)
        classes = check_labels(labels, images, StepRule("cross_entropy"))
        assert classes is not None
        if not self._only_correct or not len(images):
            return self._worst(images, classes, places, model_kwargs, progress)
        # All labels are checked here, also those of images that are left as they are.
        self.iteration.check(images, classes, model_kwargs=model_kwargs)
        done, _ = self._judge(images, classes, model_kwargs)
        rows = (~done).nonzero().flatten()
        if model_kwargs is not None:
            model_kwargs = ModelInputs.of(model_kwargs, len(images)).given(rows.tolist())
        places = [places[row] for row in rows.tolist()]
        best = self._worst(images[rows], classes[rows], places, model_kwargs, progress)
        result = images.detach().to(best.dtype, copy=True)
        result[rows] = best
        return result

    def _worst(
        self,
        images: Tensor,
        labels: Tensor,
        places: list[int],
        kwargs: Mapping[str, Any] | None,
        progress: Progress,
    ) -> Tensor:
        best = judged = None
        for restart in range(self._restarts):
            found = self.iteration.transform(
                images,
                labels,
                start=self._start(images, places, restart),
                model_kwargs=kwargs,
                progress=_of_restart(progress, restart, self._restarts),
            )
            assert isinstance(found, Tensor)
            if self._restarts == 1 or not len(images):
                return found
            fooled, loss = self._judge(found, labels, kwargs)
            if best is None or judged is None:
                best, judged = found, (fooled, loss)
                continue
            worse = (fooled & ~judged[0]) | ((fooled == judged[0]) & (loss > judged[1]))
            best[worse] = found[worse]
            judged = (fooled | judged[0], torch.where(worse, loss, judged[1]))
        assert best is not None
        return best

    def _judge(
        self, images: Tensor, labels: Tensor, kwargs: Mapping[str, Any] | None
    ) -> tuple[Tensor, Tensor]:
        """Whether the attack has succeeded on each image, and how large its loss is."""
        output = self.iteration.outputs(images, model_kwargs=kwargs)
        objective = self.iteration.settings.rule.objective
        reached = _classes(output) == labels
        loss = values_of(objective, output, labels).detach()
        return (reached, -loss) if self._targeted else (~reached, loss)

    def _start(self, images: Tensor, places: list[int], restart: int) -> Tensor | None:
        """A random point of each image's ball within the clamp; None for the images themselves."""
        if self._seed is None:
            return None
        draw = _in_cube if self._norm == "linf" else _in_ball
        numbers = [(restart, place) for place in places]
        noise = draw_each(images.shape[1:], self._seed, numbers, draw)
        dtype = torch.float64 if images.dtype == torch.float64 else torch.float32
        start = images.detach().to(dtype) + noise.to(images.device, dtype).mul_(self._epsilon)
        clamp = self.iteration.settings.clamp
        return start if clamp is None else start.clamp_(*clamp)

    def _check_epsilon(self, images: Tensor) -> None:
        if self._epsilon < LEAST_USUAL and len(images):
            lowest, highest = (float(each) for each in images.detach().aminmax())
            if lowest >= 0 and highest > 1:  # standardised images go below 0
                warn_once(
                    unwrap(self.iteration.model),
                    "epsilon",
                    f"epsilon={self._epsilon:.3g} is less than one grey level, and these images "
                    f"go up to {highest:.3g}: epsilon and step_size are in the images' units, so "
                    "what papers call 8/255, or 0.031, is epsilon=8 (--epsilon 8)",
                )
        clamp = self.iteration.settings.clamp
        if clamp is None or clamp[0] is None or clamp[1] is None:
            return
        width = float(clamp[1]) - float(clamp[0])
        pixels = max(math.prod(images.shape[1:]), 1)
        most = width if self._norm == "linf" else width * math.sqrt(pixels)
        if self._epsilon > most:
            raise ValueError(
                f"epsilon={self._epsilon:g} is more than the images can change within clamp="
                f"({clamp[0]:g}, {clamp[1]:g}), {most:g} in the {self._norm} norm: epsilon is in "
                "the images' units, 8 of 255 for instance"
            )


def _in_cube(noise: Tensor, generator: torch.Generator) -> None:
    """Uniform in the L∞ ball of radius 1."""
    noise.uniform_(-1, 1, generator=generator)


def _in_ball(noise: Tensor, generator: torch.Generator) -> None:
    """In L2: in a uniform direction, at a uniform share of the radius 1."""
    noise.normal_(generator=generator)
    noise *= torch.rand((), generator=generator) / noise.norm().clamp_(min=1e-12)


def _classes(output: Tensor) -> Tensor:
    if output.dim() != 2:
        raise ValueError(
            f"the network's output is {tuple(output.shape)}, and what it takes an image for is "
            "known of logits (N, classes) alone: pass layer=NAME, or restarts=1"
        )
    return output.argmax(1)


def _of_restart(progress: Progress, restart: int, restarts: int) -> Progress:
    """Progress of one of several restarts, as part of all of them."""
    if not callable(progress) or restarts == 1:
        return progress
    report: Callable[[int, int], None] = progress
    return lambda done, total: report(restart * total + done, restarts * total)


def _positive(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number in pixel units, got {value!r}")
    found = float(value)
    if not (math.isfinite(found) and found > 0):
        raise ValueError(f"{name} must be above 0 and finite, in pixel units; got {found:g}")
    return found


def _count(name: str, value: Any, least: int = 1) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    return value
