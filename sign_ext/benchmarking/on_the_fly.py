"""What SIGN costs while training: a step of a network alone, and with its batch transformed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from sign_ext.augment import OnTheFlySign
from sign_ext.benchmarking.loops import precision_context
from sign_ext.benchmarking.measure import Turns
from sign_ext.benchmarking.table import first_line, format_seconds
from sign_ext.benchmarking.task import Task
from sign_ext.eval_state import unwrap


@dataclass(frozen=True)
class TrainingCost:
    """Medians of a training step: forward, backward and an update of SGD.

    Attributes:
        images: of a batch.
        steps: K of the batch that was transformed.
        plain: seconds of a training step alone.
        one_step: seconds of one whose batch takes K = 1 first.
        with_sign: seconds of one whose batch takes `steps` first.
        for_steps: another K, whose time follows from the two.

    Example:
        >>> print(TrainingCost(32, 10, 0.4, 1.2, 2.1, 100))
        on the fly: one training step on 32 images costs 400 ms, with SIGN K = 10 2.1 s, \
with K = 100 about 11.1 s
    """

    images: int
    steps: int
    plain: float
    one_step: float
    with_sign: float
    for_steps: int

    @property
    def with_more_steps(self) -> float:
        """Seconds with K = `for_steps`, if each step costs what those measured do."""
        each = (self.with_sign - self.one_step) / max(1, self.steps - 1)
        each = each if self.steps > 1 else self.with_sign - self.plain
        return self.with_sign + each * (self.for_steps - self.steps)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields and the derived values as plain data."""
        return {**asdict(self), "with_more_steps": self.with_more_steps, "sentence": str(self)}

    def __str__(self) -> str:
        """Return the cost as a sentence."""
        more = f", with K = {self.for_steps} about {format_seconds(self.with_more_steps)}"
        return (
            f"on the fly: one training step on {self.images} images costs "
            f"{format_seconds(self.plain)}, with SIGN K = {self.steps} "
            f"{format_seconds(self.with_sign)}{more if self.for_steps != self.steps else ''}"
        )


def training_cost(task: Task, for_steps: int, rounds: int = 3) -> TrainingCost | str:
    """Measure a training step with and without SIGN of the network in training.

    Each step changes the weights, so what SIGN does to notice that is in its time.

    Args:
        task: network, images, K and precision; a copy of the network is trained.
        for_steps: another K to say the time for.
        rounds: turns of each, after one that is not timed.

    Returns:
        The medians, or why they could not be measured.
    """
    try:
        model = copy.deepcopy(unwrap(task.model)).requires_grad_()
        step = _training_step(model, task)
        contenders = {
            "plain": lambda: step(task.images),
            **{f"{k}": _transformed(model, task, step, k) for k in {1, task.steps}},
        }
        turns = Turns(contenders, task.images.device)
        turns.round()
        for times in turns.times.values():
            times.clear()
        for _ in range(rounds):
            turns.round()
    except Exception as error:  # a network need not be one that can be trained like this
        return first_line(error)
    medians = turns.medians()
    return TrainingCost(
        len(task.images),
        task.steps,
        medians["plain"],
        medians["1"],
        medians[f"{task.steps}"],
        for_steps,
    )


def _training_step(model: nn.Module, task: Task) -> Callable[[Tensor], None]:
    """A training step of a network; the loss is the mean square of its outputs, of any form."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)

    def step(images: Tensor) -> None:
        model.train()
        optimizer.zero_grad(set_to_none=True)
        with precision_context(task.precision, images.device, tuned=task.tuned):
            outputs = tree_leaves(model(images))
            floating = [each for each in outputs if isinstance(each, Tensor) and each.requires_grad]
            torch.stack([each.float().square().mean() for each in floating]).sum().backward()
        optimizer.step()

    return step


def _transformed(
    model: nn.Module, task: Task, step: Callable[[Tensor], None], k: int
) -> Callable[[], None]:
    """A training step on a batch that takes K steps first."""
    sign = OnTheFlySign(
        model,
        (k,),
        step_size=task.step_size,
        layer=task.layer,
        batch_size=len(task.images),
        precision=task.precision,
    )
    return lambda: step(sign(task.images))
