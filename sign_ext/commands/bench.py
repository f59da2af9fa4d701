"""Time SIGN on your own network and machine against plain PyTorch, and predict the time for a set.

Every contender gets the same network, random images and steps, and must first
agree with a float64 reference; one that does not is listed with its error.
Then they take turns, and their medians are compared. Whole calls are timed:
images in, p*_K out. One line says what SIGN costs on the fly, as a step of
training on a batch that it transforms first. The last line says how long SIGN
takes on --set-size images at --total-steps, without reading and writing them.
A warning says if --images or --steps are too small for that.

Times do not depend on the weights, so --model needs no --weights, and a network
of your own (MODULE:FUNCTION or FILE.py:FUNCTION) no --normalize: without a
recorded normalisation it has none. Keep the machine idle otherwise.
"""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sign_ext.commands import console
from sign_ext.commands.console import UsageError
from sign_ext.commands.names import parse_name
from sign_ext.commands.networks import NetworkOptions, network_as_json, read_network
from sign_ext.commands.options import (
    PositiveFloat,
    PositiveInt,
    command_line,
    device_option,
    option,
    seed_option,
    sign_option,
)
from sign_ext.commands.shared import check_folder, layer_in, resolve_device
from sign_ext.formatting import counted
from sign_ext.settings import BACKENDS

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from sign_ext.benchmarking import Task

EXAMPLES = (
    "sign-ext bench --model basic_cnn",
    "sign-ext bench --model torchvision:mobilenet_v2 --set-size 100000",
    "sign-ext bench --model mynetworks:build --image-shape 3 64 64 \\",
    "    --pixel-range 1 --compile",
    "sign-ext bench --checkpoint runs/classical --precision bfloat16 \\",
    "    --out bench.json",
)

_BACKENDS = tuple(name for name in BACKENDS if name != "auto")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(NetworkOptions):
    """Options of `sign-ext bench`."""

    image_size: int | None = option(
        None,
        type=PositiveInt,
        help="Height and width in pixels, of 3 channels. Default: what is recorded for the "
        "network.",
    )
    image_shape: tuple[int, ...] | None = option(
        None,
        type=PositiveInt,
        nargs=3,
        metavar=("C", "H", "W"),
        help="Instead of --image-size, the whole shape of an image.",
    )
    pixel_range: float = option(
        255.0,
        type=PositiveFloat,
        help="Range of the network's images: 255 for pixel units, 1 for 0 to 1.",
    )
    layer: str | None = sign_option("layer", metavar="NAME")
    images: int | None = option(
        None,
        type=PositiveInt,
        help="Images per call, all in one batch. Default: 128 on a CPU, on a GPU "
        "what fills it (4,224 of 32×32 on an H200); fewer if they are large.",
    )
    steps: int = sign_option("steps", default=10, type=PositiveInt, help="K of a timed call.")
    rounds: int = option(5, type=PositiveInt, help="Turns of each contender.")
    precision: str = sign_option("precision", help="Arithmetic of every contender.")
    backends: tuple[str, ...] | None = option(
        None,
        type=Literal[_BACKENDS],
        nargs="+",
        metavar="NAME",
        help=f"The backends of sign_ext to time: {', '.join(_BACKENDS)}. Default: all.",
    )
    compile: bool = option(
        False, type=bool, help="Time torch.compile as well (compiling takes a minute or more)."
    )
    seconds: float = option(
        300.0,
        type=PositiveFloat,
        help="Build no further contender and begin no further round after this long.",
    )
    set_size: int = option(
        50_000, type=PositiveInt, help="Images of the set whose time is predicted.", metavar="N"
    )
    total_steps: int = option(100, type=PositiveInt, help="K for that set.", metavar="K")
    out: str | None = option(None, help="Also write the JSON to this file.", metavar="FILE")
    device: str = device_option()
    seed: int = seed_option("the images, and of the weights of a network by name")

    def check(self) -> None:
        """Check that the network and the images are given once."""
        super().check()
        _check(self)


def run(options: Options) -> None:
    """Run the race, and print the table and the cost, or JSON."""
    from sign_ext.benchmarking import explain_auto, list_contenders, race
    from sign_ext.benchmarking.table import format_shape

    if options.out is not None:
        check_folder(str(Path(options.out).parent))
    device = resolve_device(options.device)
    if options.precision == "tf32" and device.type == "cpu":
        raise UsageError("--precision tf32 is for GPUs; on a CPU give float32 or bfloat16")
    model, config, shape = _network(options, device)
    task = _task(options, model, shape, device)
    contenders, absent = list_contenders(
        task, options.backends or _BACKENDS, compile=options.compile
    )
    console.say(
        f"{counted(len(task.images), 'random image')} of {format_shape(shape)}, K = {task.steps}, "
        f"{task.precision}, on {device}; Φ is {task.source}"
    )
    auto = explain_auto(task)
    with console.progress("measuring") as report:
        outcome = race(
            task,
            contenders,
            rounds=options.rounds,
            seconds=options.seconds,
            absent=absent,
            progress=report,
        )
    result = _result(options, config, task, outcome, auto)
    result["on_the_fly"] = _on_the_fly(options, task)
    result["too_small"] = _too_small(options, task, result["cost"])
    for each in result["too_small"]:
        console.say(f"warning: {each['sentence']}")
    if options.out is not None:
        _write(options.out, result)
    if options.json:
        console.print_json(result)
    else:
        _print(result)


def _check(options: Options) -> None:
    """Check the options before any work is done."""
    if options.image_size is not None and options.image_shape is not None:
        raise UsageError("--image-size and --image-shape both set the images' shape: give one")
    sized = options.image_size is not None or options.image_shape is not None
    if options.checkpoint is None and parse_name(str(options.model)).is_code and not sized:
        raise UsageError(
            f"--model {options.model} does not say how large its images are: give --image-size or "
            "--image-shape"
        )
    if options.out is not None and Path(options.out).is_dir():
        raise UsageError(f"--out {options.out} is a folder: give a file")


def _network(
    options: Options, device: torch.device
) -> tuple[nn.Module, dict[str, Any], tuple[int, ...]]:
    """Return the network on its device, its configuration, and the shape of its images."""
    model, config = read_network(options, device, trained=False, image_shape=options.image_shape)
    shape = tuple(config["model"]["image_shape"])
    if options.image_size is not None:
        shape = (shape[0], options.image_size, options.image_size)
    return model, config, options.image_shape or shape


def _task(options: Options, model: nn.Module, shape: tuple[int, ...], device: torch.device) -> Task:
    """Return the work of the race; the network is tried on one image first."""
    import torch

    from sign_ext.benchmarking import Task
    from sign_ext.benchmarking.table import first_line, format_shape
    from sign_ext.benchmarking.task import (
        MOVE,
        images_for,
        random_images,
        step_size_for,
        vary_norms,
    )

    layer = layer_in(model, options.layer)
    count = options.images or images_for(shape, device)
    images = random_images(count, shape, options.pixel_range, device, options.seed)
    try:
        with torch.no_grad():
            model(images[:1])
    except Exception as error:
        raise RuntimeError(
            f"the network does not take images of {format_shape(shape)} ({first_line(error)}): "
            "give their size with --image-size or --image-shape"
        ) from error

    def step_size() -> float:
        return step_size_for(model, images, MOVE * options.pixel_range, layer=layer)

    constant = not _sum_varies(model, images[:2], step_size(), layer)
    if constant and (varied := vary_norms(model, options.seed)):
        console.say(
            "the sum over Φ is constant with these weights, as after a new LayerNorm; the race "
            f"varies the weights of {counted(varied, 'normalisation layer')}, on which time does "
            "not depend"
        )
    return Task(
        model=model,
        images=images,
        steps=options.steps,
        step_size=step_size(),
        precision=options.precision,
        layer=layer,
    )


def _sum_varies(model: nn.Module, images: Tensor, step_size: float, layer: str | None) -> bool:
    """Whether the sum over Φ depends on the images, so that δ is more than rounding."""
    from sign_ext import NegligibleDeltaWarning, SignTransform

    sign = SignTransform(model, 1, step_size=step_size, layer=layer, backend="autograd")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sign.transform(images)
    others = [each for each in caught if not issubclass(each.category, NegligibleDeltaWarning)]
    for each in others:
        warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
    return len(others) == len(caught)


def _result(
    options: Options, config: dict[str, Any], task: Task, outcome: Any, auto: Any
) -> dict[str, Any]:
    """Return all results, and what they depend on, as plain data."""
    from datetime import UTC, datetime

    from sign_ext import environment
    from sign_ext.benchmarking import costs
    from sign_ext.environment import commit, versions

    both = costs(outcome, task, auto.backend, options.set_size, options.total_steps)
    cost, fastest = both or (None, None)
    return {
        "network": {
            **network_as_json(config),
            "name": options.model or options.checkpoint,
            "class": type(task.model).__name__,
            "parameters": sum(each.numel() for each in task.model.parameters()),
            "source_layer": str(task.source),
        },
        "race": {
            "device": str(task.images.device),
            "images": len(task.images),
            "image_shape": list(task.images.shape[1:]),
            "pixel_range": options.pixel_range,
            "steps": task.steps,
            "step_size": task.step_size,
            "precision": task.precision,
            "rounds_wanted": options.rounds,
            "seconds": options.seconds,
            **outcome.to_dict(),
        },
        "auto": auto.to_dict(),
        "cost": cost and cost.to_dict(),
        "cost_with_the_fastest": fastest and fastest.to_dict(),
        "machine": environment.machine_details(task.images.device),
        "versions": versions(),
        "commit": commit() or None,
        "command": command_line("bench", options),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _on_the_fly(options: Options, task: Task) -> dict[str, Any]:
    """Return what SIGN costs while training, or the reason why that is not known."""
    from sign_ext.benchmarking.on_the_fly import training_cost

    found = training_cost(task, options.total_steps, min(options.rounds, 3))
    return {"reason": found} if isinstance(found, str) else found.to_dict()


def _too_small(options: Options, task: Task, cost: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Return which of --images and --steps are too small for the forecast."""
    from sign_ext.benchmarking.fixed_share import fixed_shares
    from sign_ext.benchmarking.task import images_for

    if cost is None:
        return []
    images = min(options.set_size, images_for(task.images.shape[1:], task.images.device))
    found = fixed_shares(task, cost["backend"], steps=options.total_steps, images=images)
    return [each.to_dict() for each in found]


def _write(path: str, result: dict[str, Any]) -> None:
    from sign_ext.files import json_text, write_whole
    from sign_ext.formatting import finite

    text = json_text(finite(result), indent=2, allow_nan=False)
    write_whole(Path(path), text + "\n")
    console.say(f"written: {path}")


def _print(result: dict[str, Any]) -> None:
    from rich.table import Table

    from sign_ext.benchmarking.table import caption, describe_auto, describe_cost, table_row

    race = result["race"]
    table = Table(
        title=f"{result['network']['name']}, {race['precision']}, on {race['device']}",
        caption=caption(race),
        caption_justify="left",
    )
    table.add_column("contender")
    for column in ("median", "speed", "images·steps/s", "memory an image", "error"):
        table.add_column(column, justify="right")
    for row in race["rows"]:
        table.add_row(*table_row(row))
    console.print_rich(table)
    for each in race["absent"]:
        print(f"not timed: {each['name']} ({each['reason']})")
    print(describe_auto(result["auto"]))
    training = result["on_the_fly"]
    print(training.get("sentence") or f"on the fly: not measured ({training['reason']})")
    print(describe_cost(result["cost"], result["cost_with_the_fastest"]))
