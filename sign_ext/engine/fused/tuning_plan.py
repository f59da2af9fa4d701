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

MICRO_BATCH_BYTES = 18 << 20  # of activations alive at once: what stays in a CPU's last-level cache
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


def choices_by_rule(bytes_an_image: int, images: int, device: torch.device) -> StepChoices:
    """The fixed rule: on a CPU as many images at once as stay in cache, in equal parts.

    It fuses no blocks: they have not been measured on a GPU yet.

    Args:
        bytes_an_image: the memory plan's peak.
        images: in the batch.
        device: where they are.
    """
    if device.type != "cpu":
        return StepChoices(images)
    most = max(1, MICRO_BATCH_BYTES // max(bytes_an_image, 1))
    parts = -(-images // most)
    return StepChoices(-(-images // max(parts, 1)))


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
