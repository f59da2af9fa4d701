"""The choices of a compiled step: by a fixed rule, or measured, saved and passed back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sign_ext.files import read_json, write_whole
from sign_ext.formatting import counted

# What the fixed rule knows of CPUs. `docs/engine.md` ("Executing K steps") says how they were found;
# the rule's choice changes little where they are off by half.
MICRO_BATCH_BYTES = 18 << 20  # of activations alive at once: what stays in a CPU's last-level cache
CALL_SECONDS = 25e-6  # of an instruction, whatever the images: Python, the dispatcher, the library
WEIGHT_BYTES_A_SECOND = 10e9  # read once a micro-batch and step, from beyond the cache
MISSED_BYTES_A_SECOND = 16e9  # of activations that do not stay in the cache
FORMAT = 1


@dataclass(frozen=True)
class StepChoices:
    """What the step of one batch shape runs with.

    Attributes:
        micro_batch: images taken through a step at once.
        by_library: places in the program of the stride-1 convolutions that are left to the library:
            neither Winograd's algorithm nor, for the input-backward, a convolution with the
            flipped, transposed weight.
        blocks: the inverted residuals that run as one operation, each by the place of its last
            convolution. All places are those of the program before blocks are fused.
    """

    micro_batch: int
    by_library: tuple[int, ...] = ()
    blocks: tuple[int, ...] = ()


@dataclass(frozen=True)
class StepCosts:
    """What the fixed rule weighs.

    Attributes:
        peak: bytes of an image that are alive at once.
        instructions: bytes of an image that each instruction of a step reads and writes.
        weights: bytes of the weights, for both directions.
    """

    peak: int
    instructions: tuple[int, ...] = ()
    weights: int = 0

    def seconds_an_image(self, micro_batch: int) -> float:
        """What depends on the micro-batch: calls and weights, which it shares, and cache misses.

        An instruction finds in the cache what the one before it wrote, as long as its own tensors
        fit; what is kept for the backward pass comes back from memory where not all of it fits.

        Args:
            micro_batch: images taken through a step at once.
        """
        calls = len(self.instructions) * CALL_SECONDS
        shared = calls + self.weights / WEIGHT_BYTES_A_SECOND
        cache = MICRO_BATCH_BYTES / micro_batch  # an image's share
        missed = sum(size - cache for size in self.instructions if size > cache)
        missed += 2 * max(0.0, self.peak - cache)  # written, and read again
        return shared / micro_batch + missed / MISSED_BYTES_A_SECOND


def choices_by_rule(costs: StepCosts, images: int, device: torch.device) -> StepChoices:
    """The fixed rule: on a CPU the equal parts of the batch with the least estimated cost.

    Small parts stay in the cache, large ones share what a call costs and the weights' way from
    memory. It fuses no blocks: they have not been measured on a GPU yet.

    Args:
        costs: of the step.
        images: in the batch.
        device: where they are.
    """
    if device.type != "cpu":
        return StepChoices(images)
    # No part is smaller than the cache asks for: sharing less between as much gains nothing.
    most = max(1, -(-images * costs.peak // MICRO_BATCH_BYTES))
    parts = range(1, max(1, min(images, most)) + 1)
    sizes = sorted({-(-images // n) for n in parts}, reverse=True)
    return StepChoices(min(sizes, key=costs.seconds_an_image, default=images))


def tuning_key(images: Tensor, precision: str) -> str:
    """What choices are measured for, batch shape and precision: a key of `TuningPlan.choices`.

    Args:
        images: (N, C, H, W).
        precision: "float32", "tf32" or "bfloat16".
    """
    return "×".join(map(str, images.shape)) + f" {precision}"


def machine_of(device: torch.device) -> str:
    """The device and the torch version that choices were measured with.

    Args:
        device: where they were measured.
    """
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    threads = "" if device.type == "cuda" else f", {torch.get_num_threads()} threads"
    return f"{name}{threads}, torch {torch.__version__}"


@dataclass
class TuningPlan:
    """Measured choices by batch shape: print it, save it, pass it as `tune=`.

    Example:
        >>> plan = TuningPlan("cpu, 2 threads, torch 2.15.0")
        >>> plan.choices["8×3×32×32 float32"] = StepChoices(micro_batch=4)
        >>> print(plan)
        measured on cpu, 2 threads, torch 2.15.0
        8×3×32×32 float32: 4 images at a time
    """

    machine: str = ""
    choices: dict[str, StepChoices] = field(default_factory=dict)

    def __str__(self) -> str:
        """One line a batch shape."""
        lines = [f"measured on {self.machine}"]
        for key, chosen in self.choices.items():
            line = f"{key}: {counted(chosen.micro_batch, 'image')} at a time"
            parts = (("left to the library", chosen.by_library), ("fused blocks", chosen.blocks))
            for label, places in parts:
                if places:
                    line += f"; {label}: " + ", ".join(f"%{place + 1}" for place in places)
            lines.append(line)
        return "\n".join(lines)

    def save(self, path: str | Path) -> None:
        """Write it as JSON; the file appears whole or not at all.

        Args:
            path: the file.
        """
        content = json.dumps(self.to_dict(), indent=1, ensure_ascii=False)
        write_whole(Path(path), content + "\n")

    @classmethod
    def load(cls, path: str | Path) -> TuningPlan:
        """Read what `save` wrote.

        Args:
            path: the file.

        Raises:
            ValueError: the file is not a tuning plan.
        """
        try:
            return cls.from_dict(read_json(Path(path)))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is not a tuning plan of sign_ext: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """The tuning plan as plain data, which `from_dict` reads."""
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> TuningPlan:
        """Read what `to_dict` returned, directly or through JSON.

        Args:
            content: plain data.

        Raises:
            KeyError, TypeError: it is not a tuning plan.
        """
        if content["format"] != FORMAT:
            raise TypeError(f"its format is {content['format']}, this version reads {FORMAT}")
        choices = {
            str(key): StepChoices(
                int(value["micro_batch"]),
                tuple(map(int, value["by_library"])),
                tuple(map(int, value.get("blocks", ()))),
            )
            for key, value in content["choices"].items()
        }
        return cls(str(content["machine"]), choices)
