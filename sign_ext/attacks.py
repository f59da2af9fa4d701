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
from sign_ext.iterate import InputIteration
from sign_ext.model_inputs import ModelInputs
from sign_ext.progress import Progress
from sign_ext.settings import NORMS, Objective, StepRule

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
        seed: of the random starts. The same seed gives the same starts on every device.
        generator: a CPU generator to draw the starts from, instead of the seed.
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
    epsilon = _positive("epsilon", epsilon)
    step_size = _positive("step_size", step_size)
    _check_epsilon(epsilon, norm, clamp, images)
    restarts = _count("restarts", restarts)
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
            f'objective={objective!r} is no loss of a label: pass "cross_entropy", "margin" or a '
            "function; iterate_inputs climbs any objective"
        )
    if labels is None:
        raise ValueError("labels are needed: (N,) integers, one for each image")
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator, got {type(generator).__name__}")
    if generator is not None and generator.device.type != "cpu":
        raise ValueError(
            f"generator is on {generator.device}; the starts are drawn on the CPU, the same on "
            "every device: pass torch.Generator()"
        )
    check_images(images)
    classes = check_labels(labels, images, StepRule("cross_entropy"))
    assert classes is not None
    generator = generator or torch.Generator().manual_seed(_count("seed", seed, least=0))
    attack = InputIteration(
        model,
        steps,
        objective=objective,
        update=_UPDATES[norm],
        step_size=-step_size if targeted else step_size,
        momentum=momentum,
        project=(norm, epsilon),
        clamp=clamp,
        batch_size=batch_size,
        backend=backend,
        precision=precision,
        layer=layer,
        tune=tune,
        strict=strict,
    )
    return _Attack(attack, images, classes, model_kwargs, targeted).run(
        generator if random_start else None, restarts, only_correct, progress
    )


class _Attack:
    """One call: which images are attacked, and what each keeps."""

    def __init__(
        self,
        iteration: InputIteration,
        images: Tensor,
        labels: Tensor,
        model_kwargs: Mapping[str, Any] | None,
        targeted: bool,
    ) -> None:
        self.iteration = iteration
        self.images, self.labels = images, labels
        self.model_kwargs = model_kwargs
        self.targeted = targeted

    def run(
        self,
        generator: torch.Generator | None,
        restarts: int,
        only_correct: bool,
        progress: Progress,
    ) -> Tensor:
        """The worst of some attacks on each image, or on those that are worth one."""
        images, rows = self.images, None
        if only_correct and len(images):
            # All labels are checked here, also those of images that are left as they are.
            self.iteration.check(images, self.labels, model_kwargs=self.model_kwargs)
            done, _ = self._judge(images, self.labels, self.model_kwargs)
            rows = (~done).nonzero().flatten()
        kwargs = self.model_kwargs
        chosen, labels = images, self.labels
        if rows is not None:
            chosen, labels = images[rows], self.labels[rows]
            if kwargs is not None:
                kwargs = ModelInputs.of(kwargs, len(images)).given(rows.tolist())
        best = self._worst(chosen, labels, kwargs, generator, restarts, progress)
        if rows is None:
            return best
        result = images.detach().to(best.dtype, copy=True)
        result[rows] = best
        return result

    def _worst(
        self,
        images: Tensor,
        labels: Tensor,
        kwargs: Mapping[str, Any] | None,
        generator: torch.Generator | None,
        restarts: int,
        progress: Progress,
    ) -> Tensor:
        best = judged = None
        for restart in range(restarts):
            start = None if generator is None else self._start(images, generator)
            found = self.iteration.transform(
                images,
                labels,
                start=start,
                model_kwargs=kwargs,
                progress=_of_restart(progress, restart, restarts),
            )
            assert isinstance(found, Tensor)
            if restarts == 1 or not len(images):
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
        return (reached, -loss) if self.targeted else (~reached, loss)

    def _start(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """A random point of each image's ball, within the clamp."""
        settings = self.iteration.settings
        assert settings.rule.project is not None
        norm, epsilon = settings.rule.project
        dtype = torch.float64 if images.dtype == torch.float64 else torch.float32
        shape = (len(images), *images.shape[1:])
        if norm == "linf":
            noise = torch.rand(shape, generator=generator, dtype=dtype).mul_(2).sub_(1)
        else:
            noise = torch.randn(shape, generator=generator, dtype=dtype)
            sizes = noise.flatten(1).norm(dim=1).clamp_(min=1e-12)
            share = torch.rand(len(images), generator=generator, dtype=dtype)
            noise *= (share / sizes).view(-1, *[1] * (images.dim() - 1))
        start = images.detach().to(dtype) + noise.to(images.device).mul_(epsilon)
        return start if settings.clamp is None else start.clamp_(*settings.clamp)


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


def _check_epsilon(epsilon: float, norm: Any, clamp: Any, images: Tensor) -> None:
    if norm not in NORMS:
        raise ValueError(f"norm must be one of {', '.join(NORMS)}; got {norm!r}")
    if clamp is None or not isinstance(clamp, tuple | list) or len(clamp) != 2:
        return  # the iteration refuses what is no pair
    low, high = clamp
    if not isinstance(low, Real) or not isinstance(high, Real):
        return
    width = float(high) - float(low)
    if not width > 0:
        return
    pixels = math.prod(images.shape[1:]) if isinstance(images, Tensor) else 1
    most = width if norm == "linf" else width * math.sqrt(max(pixels, 1))
    if epsilon > most:
        raise ValueError(
            f"epsilon={epsilon:g} is more than the images can change within clamp=({low:g}, "
            f"{high:g}), {most:g} in the {norm} norm: epsilon is in the images' units, 8 of 255 "
            "for instance"
        )


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
