"""A classifier's row in the paper's tables: accuracy by class (Table 1), corrupted (Table 5)."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sign_ext.data.classes import unique_names, with_classes_of
from sign_ext.data.image_set import ImageSet
from sign_ext.evaluation.accuracy import class_accuracy, predict
from sign_ext.evaluation.answers import Answers
from sign_ext.evaluation.corruption import gaussian_noise, pixels_off
from sign_ext.evaluation.doubts import warn_of_units
from sign_ext.formatting import finite

# Random numbers are drawn for this many images at a time, so that the corruptions do not depend on
# the batch size.
BLOCK = 64
MOST_DRAWS = 255  # that a byte counts

Corruption = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class Evaluation:
    """Accuracies (0–1) of one model on one test set.

    Args:
        accuracy: on the clean images.
        per_class: class name → accuracy; NaN for a class without test images. A name that occurs
            twice gets a number: "dog", "dog (2)".
        pixels_off_mean: mean accuracy over the draws with pixels turned off, by default 50 per
            image.
        pixels_off_std: sample standard deviation over the draws; NaN for a single draw.
        noise_mean: mean accuracy over the draws of Gaussian noise, by default with
            σ = 10 grey levels.
        noise_std: sample standard deviation for the noise.
        draws: number of draws of each corruption.
        images: number of test images.
        answers: to each test image: "correct", "probability", "pixels_off" and "noise".
    """

    accuracy: float
    per_class: dict[str, float]
    pixels_off_mean: float
    pixels_off_std: float
    noise_mean: float
    noise_std: float
    draws: int
    images: int
    answers: Answers = field(repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers as values for JSON; NaN becomes None."""
        numbers = {name: value for name, value in vars(self).items() if name != "answers"}
        fields: dict[str, Any] = finite(numbers)
        return fields


def evaluate(
    model: nn.Module,
    test: ImageSet,
    *,
    draws: int = 10,
    num_off: int = 50,
    sigma: float = 10.0,
    seed: int = 0,
    batch_size: int = 512,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Measure a model on clean and corrupted test images.

    The paper's Table 5 gives means with tiny deviations and no procedure; here each corruption is
    drawn ``draws`` times with its own seed. The corrupted images depend on the seed, not on batch
    size or device. A PixelRangeWarning tells of images in other units than the network's.

    Args:
        model: float images (n, 3, H, W) in 0–255 → logits (n, classes); its training flags are
            restored. With an attribute ``class_names``, as `load_checkpoint` and `train` set it,
            the images' classes are matched with the model's by name.
        test: the test images.
        draws: number of draws of each corruption, 1 or more.
        num_off: positions turned off in each image, 0 … H·W (Table 5: 50 of 1,024).
        sigma: standard deviation of the noise in grey levels, 0 or more (Table 5: 10).
        seed: of the corruptions, 0 or more.
        batch_size: images at once, which bounds memory.
        progress: called with (images done, total) after every batch.

    Returns:
        Accuracies over all images and by class, mean and sample standard deviation over the draws,
        and the answers that they count.

    Raises:
        ValueError: an empty test set, classes that the model lacks, a number out of range, or NaN
            or infinite logits.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
        >>> pixels = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
        >>> test = ImageSet(pixels, torch.tensor([0, 1, 0, 1]), ("cat", "dog"), "pets/test")
        >>> evaluate(model, test, draws=2).accuracy
        0.5
    """
    if len(test) == 0:
        raise ValueError(f"test={test.name!r} is empty; give at least one image.")
    test = with_classes_of(model, test)
    if draws < 1:
        raise ValueError(f"draws={draws}; accepted: 1 or more.")
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}; accepted: 1 or more.")
    if seed < 0:
        raise ValueError(f"seed={seed}; accepted: 0 or more.")
    corruptions: dict[str, Corruption] = {
        "pixels_off": lambda images, generator: pixels_off(images, num_off, generator=generator),
        "noise": lambda images, generator: gaussian_noise(images, sigma, generator=generator),
    }
    for corrupt in corruptions.values():  # raises on options out of range before any work
        corrupt(test.images[:1], torch.Generator())
    warn_of_units(model, test.images)
    runs = 1 + draws * len(corruptions)
    done = 0

    def advance(images: int) -> None:
        nonlocal done
        done += images
        if progress is not None:
            progress(done, runs * len(test))

    def logits_of(corrupt: Corruption | None, stream: tuple[int, ...]) -> Tensor:
        return corrupted_logits(model, test.images, corrupt, (seed, *stream), batch_size, advance)

    clean = logits_of(None, ())
    overall, per_class = class_accuracy(clean, test.labels, len(test.class_names))
    answers = answers_of(clean.double().softmax(1), test.labels)
    corrupted: dict[str, list[float]] = {}
    for kind, (name, corrupt) in enumerate(corruptions.items()):
        corrupted[name], right = [], torch.zeros(len(test), dtype=torch.int64)
        for draw in range(draws):
            logits = logits_of(corrupt, (kind, draw))
            accuracy, _ = class_accuracy(logits, test.labels, len(test.class_names))
            corrupted[name].append(accuracy)
            right += logits.argmax(1) == test.labels
        answers[name] = right.numpy().astype(np.uint16 if draws > MOST_DRAWS else np.uint8)
    return Evaluation(
        accuracy=overall,
        per_class=dict(zip(unique_names(test.class_names), per_class, strict=True)),
        pixels_off_mean=statistics.fmean(corrupted["pixels_off"]),
        pixels_off_std=_deviation(corrupted["pixels_off"]),
        noise_mean=statistics.fmean(corrupted["noise"]),
        noise_std=_deviation(corrupted["noise"]),
        draws=draws,
        images=len(test),
        answers=Answers(answers, draws),
    )


def answers_of(probabilities: Tensor, labels: Tensor) -> dict[str, np.ndarray]:
    """Return "correct" and "probability" of `Answers`.

    Args:
        probabilities: float (N, C), on the CPU.
        labels: int64 (N,).
    """
    of_label = probabilities.gather(1, labels[:, None])[:, 0]
    return {
        "correct": (probabilities.argmax(1) == labels).numpy(),
        "probability": of_label.float().numpy(),
    }


def corrupted_logits(
    model: nn.Module,
    images: Tensor,
    corrupt: Corruption | None,
    stream: tuple[int, ...],
    batch_size: int,
    advance: Callable[[int], None],
) -> Tensor:
    """Predict images, corrupting a few blocks at a time to avoid a float copy of all.

    Args:
        model: float images (n, 3, H, W) in 0–255 → logits (n, classes).
        images: (N, 3, H, W), in pixel units.
        corrupt: (images, generator) → the corrupted images, or None for images as they are.
        stream: numbers that name the random numbers; others give independent ones.
        batch_size: images at once; the corrupted images do not depend on it.
        advance: called with the number of images done.

    Returns:
        float32 logits (N, classes), on the CPU.
    """
    generator = torch.Generator().manual_seed(_stream_seed(*stream))
    logits = []
    for part in images.split(BLOCK * max(1, batch_size // BLOCK)):
        inputs = part
        if corrupt is not None:
            inputs = torch.cat([corrupt(block, generator) for block in part.split(BLOCK)])
        logits.append(predict(model, inputs, batch_size=batch_size))
        advance(len(part))
    return torch.cat(logits)


def _stream_seed(*numbers: int) -> int:
    """Hash numbers to one seed; different numbers give independent streams."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


def _deviation(values: list[float]) -> float:
    """Return the sample standard deviation; NaN for a single value."""
    return statistics.stdev(values) if len(values) > 1 else math.nan
