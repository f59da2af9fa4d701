"""Training up to the next validation, and validation, with all data on the device.

What is called an epoch here is one pass over the training set, unless the settings ask for
`checkpoints`: then it is the part of the run up to the next of them, and passes continue across.

Random numbers are a function of (seed, epoch, purpose, rank). Nothing random is carried from one
epoch to the next, so a resumed run needs no saved generator state to draw what an uninterrupted
run draws.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from sign_ext.augment import Augment
from sign_ext.data import ImageSet
from sign_ext.errors import SignError
from sign_ext.training.objective import CrossEntropy, Objective, as_dtype
from sign_ext.training.processes import ONE_PROCESS, Processes
from sign_ext.training.settings import TrainSettings, steps_per_epoch

# Reading a loss waits for the device, so on CUDA losses are checked only this often.
STEPS_BETWEEN_CHECKS = 50
VALIDATION_BATCH = 512

Purpose = Literal["order", "augment", "model"]
_STREAMS: dict[str, int] = {"order": 0, "augment": 1, "model": 2}


class TrainingDivergedError(SignError):
    """The loss is not finite.

    Attributes:
        epoch: counted from 1.
        step: the gradient step, counted from 1 over the whole run.
        raised_everywhere: True, because all processes of a run see the same loss.
    """

    raised_everywhere = True

    def __init__(self, loss: str, epoch: int, step: int) -> None:
        """Build the message: where it happened and what to change.

        Args:
            loss: "The training loss" or "The validation loss".
            epoch: counted from 1.
            step: counted from 1 over the whole run.
        """
        super().__init__(
            f"{loss} is NaN or Inf in epoch {epoch} at gradient step {step}. Lower learning_rate "
            "(a tenth is a good first try), or use precision='float32' if it was 'bfloat16'; if "
            "it happens at step 1, look at the images and the model's first layers."
        )
        self.epoch = epoch
        self.step = step


@dataclass(frozen=True)
class DeviceSet:
    """A data set on the training device; uint8 images are converted to float32 batch by batch.

    Attributes:
        images: uint8 or float32 (N, C, H, W), 0–255.
        labels: int64 (N,).
        memory_format: of the float32 batches.
    """

    images: Tensor
    labels: Tensor
    memory_format: torch.memory_format

    @classmethod
    def place(
        cls,
        source: ImageSet,
        device: torch.device,
        memory_format: torch.memory_format,
        rows: slice = slice(None),
    ) -> DeviceSet:
        """Copy a set, or some of its rows, to the device."""
        return cls(source.images[rows].to(device), source.labels[rows].to(device), memory_format)

    def __len__(self) -> int:
        """Count the images."""
        return len(self.labels)

    def batch(self, index: Tensor | slice) -> tuple[Tensor, Tensor]:
        """Return a batch, float32 images and labels; a copy, so a model may work in place."""
        return self.images[index].to(torch.float32, copy=True), self.labels[index]


@dataclass(frozen=True)
class Trainer:
    """Trains a model, epoch by epoch.

    Attributes:
        model: in its training layout, on the data's device.
        optimizer: over the model's trainable parameters.
        settings: of the run.
        augment: called on each batch.
        data: the training set.
        total_steps: of the whole run; the learning rate depends on it.
        objective: what is minimised.
        forward: the forward pass in training, possibly compiled; None is the model itself.
        processes: that share each batch.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    settings: TrainSettings
    augment: Augment
    data: DeviceSet
    total_steps: int
    objective: Objective = field(default_factory=CrossEntropy)
    forward: Callable[[Tensor], Any] | None = None
    processes: Processes = ONE_PROCESS

    def run_epoch(
        self, epoch: int, steps_done: int, report: Callable[[int], None]
    ) -> tuple[float, float, int]:
        """Train for one epoch (see above), or up to the run's last step.

        Args:
            epoch: counted from 1; with the seed of the settings it determines every random number.
            steps_done: gradient steps taken before this epoch.
            report: called after each step with the steps done.

        Returns:
            Mean loss and accuracy over the epoch's batches in all processes, and the steps done so
            far.

        Raises:
            TrainingDivergedError: a loss is not finite.
        """
        device, settings = self.data.labels.device, self.settings
        draws = _generator(settings.seed, epoch, "augment")
        rank = self.processes.rank
        _seed_model(device, derived_seed(settings.seed, epoch, "model", rank))
        count = settings.steps_at(epoch, len(self.data)) - steps_done
        batches = self._batches(steps_done, count)
        losses = torch.empty(count, device=device)
        correct = torch.zeros((), dtype=torch.float64, device=device)
        checked = 0
        self.model.train()
        for i, index in enumerate(batches):
            self._set_rate(steps_done + i)
            images, labels = self.data.batch(index)
            # On the whole batch in every process, so that what is drawn does not depend on their
            # number.
            images, targets = self.augment(images, labels, draws)
            losses[i], hits = self._step(images, targets, len(images) // len(labels))
            correct += hits
            if device.type == "cpu" or (i + 1) % STEPS_BETWEEN_CHECKS == 0 or i + 1 == count:
                losses[checked : i + 1] = self.processes.total(losses[checked : i + 1])
                checked = i + 1
                self._check(losses[:checked], epoch, steps_done)
            report(steps_done + i + 1)
        sizes = torch.tensor([len(index) for index in batches], dtype=torch.float64)
        seen = float(sizes.sum())
        loss = float(losses.cpu().to(torch.float64) @ sizes) / seen
        return loss, float(self.processes.total(correct)) / seen, steps_done + count

    def _batches(self, steps_done: int, count: int) -> list[Tensor]:
        """Return the batches of the next `count` steps; each pass has its own order."""
        settings, device = self.settings, self.data.labels.device
        images = len(self.data)
        passes, skipped = divmod(steps_done, steps_per_epoch(images, settings.batch_size))
        found: list[Tensor] = []
        while len(found) < skipped + count:
            passes += 1
            draws = _generator(settings.seed, passes, "order")
            order = torch.randperm(images, generator=draws).to(device)
            found += batch_indices(order, settings.batch_size)
        return found[skipped : skipped + count]

    def _step(self, images: Tensor, targets: Tensor, versions: int) -> tuple[Tensor, Tensor]:
        """Take one gradient step on a batch, which may consist of several versions of it.

        Returns:
            This process's part of the batch's loss before the step, the sum over versions, and of
            the number of hits, the mean over versions.
        """
        share = self.processes.share(len(images))
        images, targets = images[share.rows], targets[share.rows]
        images = images.contiguous(memory_format=self.data.memory_format)
        self.optimizer.zero_grad(set_to_none=True)
        # Not `or`: a module may define __len__ or __bool__.
        forward = self.model if self.forward is None else self.forward
        bfloat16 = self.settings.precision == "bfloat16"
        with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=bfloat16):
            outputs = forward(images)
        outputs = as_dtype(outputs, torch.float32)
        logits = self.objective.logits(outputs)
        loss = self.objective.loss(outputs, targets) * (versions * share.fraction)
        # DistributedDataParallel averages the gradients over the processes; we need their sum.
        (loss * self.processes.count).backward()
        self.optimizer.step()
        classes = targets if targets.ndim == 1 else targets.argmax(dim=1)
        hits = (logits.detach().argmax(dim=1) == classes).sum()
        return loss.detach(), hits.to(torch.float64) / (share.copies * versions)

    def _set_rate(self, step: int) -> None:
        rate = self.settings.rate_at(step, self.total_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    @staticmethod
    def _check(losses: Tensor, epoch: int, steps_done: int) -> None:
        if not bool(torch.isfinite(losses).all()):
            first = int((~torch.isfinite(losses)).nonzero()[0, 0])
            raise TrainingDivergedError("The training loss", epoch, steps_done + first + 1)


def batch_indices(order: Tensor, batch_size: int) -> list[Tensor]:
    """Cut a permutation of the images into the batches that steps_per_epoch counts.

    Args:
        order: int64 (N,), a permutation.
        batch_size: of every batch but the last, which holds 2 to batch_size + 1 images.

    Returns:
        One int64 tensor per batch; concatenated they are `order`.
    """
    count = steps_per_epoch(len(order), batch_size)
    starts = [i * batch_size for i in range(count)]
    return [order[a:b] for a, b in zip(starts, [*starts[1:], len(order)], strict=True)]


def validate(
    model: nn.Module, data: DeviceSet, objective: Objective, processes: Processes = ONE_PROCESS
) -> tuple[float, float]:
    """Evaluate a model in eval mode and float32, whatever precision it is trained in.

    Args:
        model: left in eval mode.
        data: the validation set, or this process's part of it, which may be empty.
        objective: of the run.
        processes: each of which evaluates a part.

    Returns:
        Mean loss, from outputs converted to float64, and accuracy, over all parts.
    """
    model.eval()
    device = data.labels.device
    loss = torch.zeros((), dtype=torch.float64, device=device)
    correct = torch.zeros((), dtype=torch.float64, device=device)
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        for start in range(0, len(data), VALIDATION_BATCH):
            images, labels = data.batch(slice(start, start + VALIDATION_BATCH))
            outputs = model(images.contiguous(memory_format=data.memory_format))
            outputs = as_dtype(outputs, torch.float64)
            loss += objective.loss(outputs, labels) * len(labels)
            correct += (objective.logits(outputs).argmax(dim=1) == labels).sum()
    sums = torch.stack((loss, correct, loss.new_tensor(len(data))))
    all_loss, all_correct, images = processes.total(sums).tolist()
    return all_loss / images, all_correct / images


def validation_auc(model: nn.Module, data: DeviceSet, objective: Objective) -> float:
    """Compute the area under the ROC curve, in a pass of its own, because few runs ask for it.

    It is Mann and Whitney's statistic, from midranks: the share of pairs in which the image of
    class 1 has the higher difference of logits, ties counting one half.

    Args:
        model: left in eval mode.
        data: the whole validation set, of classes 0 and 1.
        objective: of the run.
    """
    model.eval()
    differences = []
    with torch.no_grad(), torch.autocast(data.labels.device.type, enabled=False):
        for start in range(0, len(data), VALIDATION_BATCH):
            images, _ = data.batch(slice(start, start + VALIDATION_BATCH))
            outputs = model(images.contiguous(memory_format=data.memory_format))
            logits = objective.logits(as_dtype(outputs, torch.float64))
            differences.append(logits[:, 1] - logits[:, 0])
    _, where, counts = torch.cat(differences).unique(return_inverse=True, return_counts=True)
    midranks = counts.cumsum(0) - (counts - 1) / 2
    positive = data.labels == 1
    m, n = int(positive.sum()), int((~positive).sum())
    return float((midranks[where][positive].sum() - m * (m + 1) / 2) / (m * n))


def derived_seed(seed: int, epoch: int, purpose: Purpose, rank: int = 0) -> int:
    """Return the seed of an epoch's batch order, its augmentation, or dropout inside the model.

    With several processes each has its own `rank` and thus its own dropout. Order and augmentation
    use rank 0 in all of them. Rank 0 draws what a single process draws.
    """
    # Rank 0 is left out, so that seeds are those of runs from before there were ranks.
    sequence = np.random.SeedSequence([seed, epoch, _STREAMS[purpose], *([rank] if rank else [])])
    return int(sequence.generate_state(1, np.uint32)[0])


def _generator(seed: int, epoch: int, purpose: Purpose) -> torch.Generator:
    """Return a CPU generator for an epoch, so that every device gets the same draws."""
    return torch.Generator().manual_seed(derived_seed(seed, epoch, purpose))


def _seed_model(device: torch.device, seed: int) -> None:
    """Seed the global generators that dropout draws from, on the CPU and on `device` only."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index].manual_seed(seed)


@contextmanager
def forked_rng(device: torch.device) -> Iterator[None]:
    """Restore PyTorch's global generators of the CPU and of `device` when the block ends."""
    with torch.random.fork_rng(devices=[device.index] if device.type == "cuda" else []):
        yield
