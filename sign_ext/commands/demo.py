"""Run the whole method once, and write a page of pictures and numbers about it.

Trains a network classically, finds a step size, transforms the training
images with K = 50 and 100, trains fresh networks with and without them, and
evaluates all on clean and corrupted test images. Writes OUT/index.html (one
file, opens anywhere), OUT/metrics.json, OUT/samples.png and the networks.

By default the images are generated drawings of ten things: nothing is
downloaded, and the demo takes under two minutes on one processor core. With
--data-root DIR, where DIR holds CIFAR-10, it runs on photographs, which takes
about 20 minutes on two processor cores; --data takes images of your own.
"""

from __future__ import annotations

import dataclasses

from sign_ext.commands import console
from sign_ext.commands.names import check_data_name, check_model_name
from sign_ext.commands.options import (
    CommonOptions,
    PositiveFloat,
    PositiveInt,
    command_line,
    option,
    sign_option,
)
from sign_ext.commands.shared import (
    DATA_HELP,
    check_folder,
    require_one_process,
    resolve_device,
)

EXAMPLES = (
    "sign-ext demo",
    "sign-ext demo --seeds 3 --out runs/three-seeds",
    "sign-ext demo --data-root DIR --out runs/cifar10",
    "sign-ext demo --data photos --image-size 64 --out runs/photos",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(CommonOptions):
    """Options of `sign-ext demo`; None means the default for the data set."""

    data: str | None = option(
        None,
        help="Default: drawings, or cifar10 with --data-root. " + DATA_HELP,
        metavar="NAME",
        check=check_data_name,
    )
    model: str = option(
        "basic_cnn",
        help="basic_cnn, mobilenet_v2, inception_resnet_v2 or nasnet_mobile.",
        metavar="NAME",
        check=check_model_name,
    )
    out: str = option("runs/demo", help="Folder for the page and the numbers.", metavar="DIR")
    train_size: int | None = option(
        None, type=PositiveInt, help="Training images. Default: drawings 240, cifar10 5000."
    )
    test_size: int | None = option(
        None, type=PositiveInt, help="Test images. Default: drawings 500, cifar10 2000."
    )
    image_size: int | None = option(
        None, type=PositiveInt, help="Height and width in pixels. Default: the data set's."
    )
    epochs: int | None = option(
        None,
        type=PositiveInt,
        help="Passes over the training set, of every method. Default: drawings 7, digits 10, "
        "else 20.",
    )
    batch_size: int | None = option(
        None,
        type=PositiveInt,
        help="Images per gradient step. Default: drawings 16, digits 32, else 128.",
    )
    snapshots: tuple[int, ...] = sign_option(
        "snapshots",
        default=(50, 100),
        type=PositiveInt,
        nargs="+",
        metavar="K",
        help="Step counts of SIGN; each gives a version of every training image.",
    )
    step_size: float | None = sign_option(
        "step_size",
        default=None,
        type=PositiveFloat,
        help="Factor of the gradient δ. Default: calibrated on validation images.",
    )
    draws: int | None = option(
        None,
        type=PositiveInt,
        help="Draws of each corruption. Default: drawings 2, digits 5, else 10.",
    )
    seeds: int = option(1, type=PositiveInt, help="Repetitions with other initial weights.")


def run(options: Options) -> None:
    """Run the demo and print its findings and the path of its page."""
    require_one_process("demo")
    device = resolve_device(options.device)
    out = check_folder(options.out)

    from sign_ext.experiments.demo.run import run_demo
    from sign_ext.experiments.demo.settings import for_data

    shared = {
        name: value
        for name, value in dataclasses.asdict(options).items()
        if name not in ("data", "out", "device", "json", "debug", "snapshots")
    }
    settings = for_data(
        options.data or ("drawings" if options.data_root is None else "cifar10"),
        **shared,
        snapshots=tuple(sorted(set(options.snapshots))),
        device=str(device),
    )
    metrics = run_demo(settings, out, command=command_line("demo", options), reporter=console)
    page, numbers = out / "index.html", out / "metrics.json"
    if options.json:
        console.print_json(
            {
                "page": str(page),
                "metrics": str(numbers),
                "comparison": metrics["comparison"],
                "seconds": sum(metrics["seconds"].values()),
            }
        )
    else:
        for sentence in metrics["comparison"]["sentences"]:
            print(sentence)
        print(page)
