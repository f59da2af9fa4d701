"""Find a step size for SIGN: transform a few images with each one and compare the change.

The size of the gradient depends on the network and on the images, so no step
size suits all. For each one, the table shows the change of the images in grey
levels, the share of pixels moved below 0, and the network's accuracy and
confidence on the result. The proposed step size changes the images by about
--target-share of the pixel range (rms); it does not use labels. It holds for
one K: give `transform` the same --steps.

The time is proportional to --images and --steps; about four step sizes are
tried. For a quick look take few images: --images 8.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from sign_ext.commands import console
from sign_ext.commands.network_data import NetworkDataOptions, network_data
from sign_ext.commands.networks import network_as_json, read_network
from sign_ext.commands.options import PositiveFloat, PositiveInt, option, sign_option
from sign_ext.commands.shared import SignOptions, on_error_option, resolve_device
from sign_ext.formatting import counted

EXAMPLES = (
    "sign-ext calibrate --checkpoint runs/classical/model.safetensors --data digits",
    "sign-ext calibrate --checkpoint runs/classical --steps 100 \\",
    "    --step-sizes 1 10 100 --json",
    "sign-ext calibrate --model timm:resnet18 --weights resnet18.pth \\",
    "    --data photos --image-size 64",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(NetworkDataOptions, SignOptions):
    """Options of `sign-ext calibrate`."""

    split: str = option(
        "validation",
        type=Literal["train", "validation", "test"],
        help="Which split to use; keep the test set for the end.",
    )
    images: int = option(
        32, type=PositiveInt, help="How many of its images to use; time is proportional to it."
    )
    steps: int = sign_option(
        "steps",
        type=PositiveInt,
        help="K, the number of steps that --step-size is to be used with (--steps of `transform`).",
    )
    step_sizes: tuple[float, ...] | None = option(
        None,
        type=PositiveFloat,
        nargs="+",
        metavar="STEP",
        help="Step sizes to try. Default: a third of the proposed one, and three times as much.",
    )
    target_share: float = option(
        0.02,
        type=PositiveFloat,
        help="Wanted rms change after K steps, as a share of the pixel range (0–255).",
    )
    on_error: str = on_error_option()


def run(options: Options) -> None:
    """Calibrate and print the table, or JSON."""
    from sign_ext import SignTransform
    from sign_ext.data.splits import stratified_choice
    from sign_ext.evaluation import doubt_of_guessing

    device = resolve_device(options.device)
    model, config = read_network(options, device)
    splits, _ = network_data(options, config)
    part = splits.part(options.split)
    count = min(options.images, len(part))
    if count < options.images:
        console.say(
            f"the {options.split} split has {counted(count, 'image')}, and --images is "
            f"{options.images:,}: all of them are used"
        )
    part = part.subset(stratified_choice(part.labels.numpy(), count, seed=options.seed).tolist())
    transform = SignTransform(model, **options.sign_settings(model))
    with console.progress("calibrating, images × steps") as report:
        calibration = transform.calibrate(
            part.float().to(device),
            part.labels.to(device),
            steps=options.steps,
            step_sizes=options.step_sizes,
            target_share=options.target_share,
            progress=report,
            say=console.say,
        )
    if options.json:
        found = {"network": network_as_json(config), "data": splits.summary.to_dict()}
        console.print_json({**found, **calibration.to_dict()})
    else:
        print(calibration)
    accuracy = calibration.rows[0].accuracy
    if accuracy is not None:
        doubt = doubt_of_guessing(accuracy, part.labels, config["model"]["num_classes"])
        if doubt:
            console.say(f"without SIGN: {doubt}")
