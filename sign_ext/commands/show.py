"""Look at what SIGN does to your images: before, after, δ, and the network's answers.

Takes a few images of each class, runs the steps, and writes one page (.html)
or one picture (.png, .svg, .pdf): every image before and after K steps, the
change δ in colour and as a heat map over the image, histograms, the change in
grey levels, and what the network answers before and after. Nothing but OUT is
written; `sign-ext transform` makes the versions to train on.

The step size of --step-size auto is what `sign-ext calibrate` would propose for
these few images and the largest K. Measuring it takes most of the time;
`sign-ext transform` measures on 64 training images, and may take another one.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sign_ext.commands import console
from sign_ext.commands.console import UsageError
from sign_ext.commands.network_data import NetworkDataOptions, network_source
from sign_ext.commands.networks import called, network_as_json, read_network
from sign_ext.commands.options import (
    Number,
    PositiveFloat,
    PositiveInt,
    command_line,
    option,
)
from sign_ext.commands.shared import (
    SignOptions,
    on_error_option,
    require_one_process,
    resolve_device,
    say_found,
)
from sign_ext.formatting import counted, did_you_mean

if TYPE_CHECKING:
    from torch import Tensor

    from sign_ext import SignTransform
    from sign_ext.data import ImageSource
    from sign_ext.report.show_figure import Look
    from sign_ext.report.shown import Shown

EXAMPLES = (
    "sign-ext show --checkpoint runs/classical --out sign.html",
    "sign-ext show --model timm:resnet18 --weights resnet18.pth --data photos \\",
    "    --image-size 64 --images-per-class 2 --out sign.html",
    "sign-ext show --checkpoint runs/classical --classes cat dog --steps 10 \\",
    "    --step-size 30 --methods heat_map masked_image --out cats.png",
)

AUTO = "auto"
SUFFIXES = (".html", ".png", ".svg", ".pdf")
DEFAULT_CLASSES = 10  # of a data set with more, so that a page stays one
MOST_IMAGES = 64
TRIES = 50  # unreadable images of a class before another class is tried, with --on-error skip

Share = Number(least=0)


def _check_out(name: str) -> None:
    if not name.lower().endswith(SUFFIXES):
        raise UsageError(
            f"--out is {name!r}; accepted: a file name that ends in {', '.join(SUFFIXES)}"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(NetworkDataOptions, SignOptions):
    """Options of `sign-ext show`."""

    out: str = option(
        help="The page (.html), or a picture (.png, .svg, .pdf).", metavar="FILE", check=_check_out
    )
    steps: tuple[int, ...] = option(
        (50, 100),
        type=PositiveInt,
        nargs="+",
        metavar="K",
        help="Numbers of steps after which the images are shown, all of one trajectory.",
    )
    step_size: float | str = option(
        AUTO,
        type=PositiveFloat | Literal["auto"],
        metavar="STEP|auto",
        help="Factor of the gradient δ; auto proposes one for the images that are shown.",
    )
    split: str = option(
        "train",
        type=Literal["train", "validation", "test", "all"],
        help="Which split to take images of; all is the three in order.",
    )
    images_per_class: int = option(1, type=PositiveInt, help="Images of each class.")
    classes: tuple[str, ...] | None = option(
        None,
        nargs="+",
        metavar="CLASS",
        help=f"Classes to take images of. Default: the first {DEFAULT_CLASSES}.",
    )
    methods: tuple[str, ...] = option(
        ("overlay",),
        type=Literal[
            "overlay", "heat_map", "blended_heat_map", "masked_image", "alpha_scaling", "original"
        ],
        nargs="+",
        metavar="METHOD",
        help="How δ is shown on the image, besides in colour: overlay (a heat map mixed with the "
        "image), heat_map (alone), blended_heat_map (over the image in grey), masked_image (dark "
        "where δ is small), alpha_scaling (transparent where δ is small), original.",
    )
    values: str = option(
        "absolute",
        type=Literal["absolute", "all", "positive", "negative"],
        help="Which part of δ these show: its size, its size with its sign, or where pixels get "
        "brighter or darker.",
    )
    outlier_percentile: float = option(
        2.0,
        type=Share,
        metavar="PERCENT",
        help="The largest values, with this percentage of the sum of |δ|, are shown as equally "
        "large.",
    )
    opacity: float = option(
        0.5, type=Share, help="Of a heat map over an image; 1 at most, which hides the image."
    )
    colormap: str | None = option(
        None,
        metavar="NAME",
        help="Colours of heat maps, a name of matplotlib's such as viridis or jet. Default: "
        "inferno for sizes, RdBu_r for signs.",
    )
    tensorboard: str | None = option(
        None, metavar="DIR", help="Also write pictures, histograms and numbers for TensorBoard."
    )
    on_error: str = on_error_option("take another one of its class")

    def check(self) -> None:
        """Check what `delta_picture` would refuse."""
        super().check()
        if self.values == "all":
            for method in self.methods:
                if method in ("masked_image", "alpha_scaling"):
                    raise UsageError(
                        f"--methods {method} shows how large δ is, and --values all has signs: "
                        "give --values absolute, positive or negative"
                    )
        if self.outlier_percentile > 100:
            raise UsageError(f"--outlier-percentile is {self.outlier_percentile:g}; 100 at most")
        if self.opacity > 1:
            raise UsageError(f"--opacity is {self.opacity:g}; accepted: 0 to 1")


def run(options: Options) -> None:
    """Run the steps and write the page or picture."""
    from sign_ext import SignTransform
    from sign_ext.report.show_figure import Look
    from sign_ext.report.shown import Shown, answers_of, to_grey_levels
    from sign_ext.training.checkpoints import class_names_of

    require_one_process("show")
    look = Look(
        options.methods,
        options.values,
        options.outlier_percentile,
        options.opacity,
        options.colormap,
    )
    try:
        look.check()
    except ValueError as error:
        raise UsageError(f"--colormap: {error}") from error
    out = _writable(Path(options.out))
    device = resolve_device(options.device)
    model, config = read_network(options, device)
    source = network_source(options, config, options.split)
    say_found(source.summary())
    classes = _classes(options, source)
    images, labels, names = _images(options, source, classes)
    steps = tuple(sorted(set(options.steps)))
    sign = SignTransform(
        model, steps[-1], snapshots=steps, step_size=1.0, **options.sign_settings(model)
    )
    sign = _with_step_size(options, sign, images.to(device))
    moved = _transformed(sign, images.to(device))
    known = class_names_of(config)
    class_names = source.class_names if known is None or options.same_classes else known
    shown = Shown(
        to_grey_levels(images, 255.0),
        {k: to_grey_levels(each, 255.0) for k, each in moved.items()},
        labels,
        names,
        answers_of(model, {0: images, **moved}, class_names),
        float(sign.settings.step_size),
    )
    facts = _facts(options, sign, config, source, images.to(device))
    _write(options, out, shown, look, facts)
    if options.tensorboard is not None:
        _write_tensorboard(options.tensorboard, shown, look)
    if options.json:
        console.print_json(
            {
                "out": str(out),
                "network": network_as_json(config),
                "step_size": shown.step_size,
                "change": [dataclasses.asdict(each) for each in shown.changes()],
                "images": _as_json(shown),
            }
        )
        return
    for sentence in shown.findings():
        print(sentence)
    print(out)


def _writable(out: Path) -> Path:
    """Make the folder of a file, and check that it can be written before any work is done."""
    if out.is_dir():
        raise UsageError(f"--out {out} is a folder; give a file name")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        probe = out.with_name(f".{out.name}.sign-ext")
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OSError(f"--out {out} cannot be written ({error.strerror})") from error
    return out


def _classes(options: Options, source: ImageSource) -> list[int]:
    """Return the labels of --classes, in their order, or those of the first classes."""
    known = source.class_names
    if options.classes is None:
        present = sorted(set(source.labels.tolist()))
        if len(present) > DEFAULT_CLASSES:
            console.say(
                f"{source.name} has {len(present)} classes: the first {DEFAULT_CLASSES} are shown, "
                "--classes names others"
            )
        chosen = present[:DEFAULT_CLASSES]
    else:
        for name in options.classes:
            if name not in known:
                hint = did_you_mean(name, known) or ";"
                some = ", ".join(known[:20]) + (" …" if len(known) > 20 else "")
                raise UsageError(f"--classes has {name!r}{hint} accepted: {some}")
        chosen = [known.index(name) for name in dict.fromkeys(options.classes)]
    wanted = len(chosen) * options.images_per_class
    if wanted > MOST_IMAGES:
        raise UsageError(
            f"{len(chosen)} classes with --images-per-class {options.images_per_class} are "
            f"{wanted} images; accepted: at most {MOST_IMAGES}. Name fewer --classes"
        )
    return chosen


def _images(
    options: Options, source: ImageSource, classes: list[int]
) -> tuple[Tensor, tuple[str, ...], tuple[str, ...]]:
    """Read images of each class, chosen at random by --seed: float32 (n, 3, H, W), their names."""
    import numpy as np
    import torch

    draw = np.random.default_rng(options.seed)
    pixels, labels, names = [], [], []
    for label in classes:
        places = np.flatnonzero(source.labels == label)
        taken = 0
        for place in draw.permutation(places).tolist()[:TRIES]:
            if taken == options.images_per_class:
                break
            found = _read(options, source, place)
            if found is None:
                continue
            pixels.append(found)
            labels.append(source.class_names[label])
            names.append(source.keys(place, place + 1)[0])
            taken += 1
        if taken < options.images_per_class:
            console.say(
                f"{source.name} has {counted(taken, 'image')} of class "
                f"{source.class_names[label]!r}, and --images-per-class is "
                f"{options.images_per_class}"
            )
    if not pixels:
        raise ValueError(f"{source.name} has no image of these classes: give another --split")
    return torch.cat(pixels).float(), tuple(labels), tuple(names)


def _read(options: Options, source: ImageSource, place: int) -> Tensor | None:
    """Read an image; None if it cannot be read and --on-error is skip."""
    if options.on_error == "fail":
        return source.read(place, place + 1)
    pixels, _, problems = source.read_readable(place, place + 1)
    for problem in problems:
        console.say(f"skipped: {' '.join(problem.why.split())}")
    return None if problems else pixels


def _with_step_size(options: Options, sign: SignTransform, images: Tensor) -> SignTransform:
    """Give the transform the step size of --step-size."""
    if options.step_size != AUTO:
        return sign.with_options(step_size=float(options.step_size))
    with console.progress("calibrating, images × steps") as report:
        table = sign.calibrate(
            images, steps=sign.settings.steps, step_sizes=(), progress=report, say=console.say
        )
    console.say(
        f"step size {table.proposed:g}, proposed for {counted(len(images), 'shown image')}: "
        f"--step-size {table.proposed:g} shows the same again without measuring"
    )
    return sign.with_options(step_size=table.proposed)


def _transformed(sign: SignTransform, images: Tensor) -> dict[int, Tensor]:
    with console.progress("transforming, images × steps") as report:
        moved = sign.transform(images, progress=report)
    if not isinstance(moved, dict):
        raise TypeError("a transform with snapshots returns a dict")
    return moved


def _facts(
    options: Options,
    sign: SignTransform,
    config: dict[str, Any],
    source: ImageSource,
    images: Tensor,
) -> dict[str, str]:
    """How the page was made, name by name."""
    from sign_ext.environment import versions

    explanation = sign.explain(images)
    shape = "×".join(map(str, source.image_shape))
    auto = " (auto)" if options.step_size == AUTO else ""
    facts = {
        "network": f"{called(options)}, {config['model']['num_classes']} classes",
        "Φ": f"{explanation.source_layer}",
        "images": f"{source.name}, {shape}, drawn with seed {options.seed}",
        "step size": f"{sign.settings.step_size:g}{auto}",
        "momentum": f"{sign.settings.momentum:g}",
        "backend": f"{explanation.backend}",
        "versions": ", ".join(f"{name} {each}" for name, each in versions().items()),
    }
    if source.note:
        facts["data"] = source.note
    return facts


def _write(options: Options, out: Path, shown: Shown, look: Look, facts: dict[str, str]) -> None:
    """Write OUT, whole or not at all."""
    from sign_ext.files import write_whole
    from sign_ext.report.show_figure import figure_file, show_figure
    from sign_ext.report.show_page import render_show

    if out.suffix.lower() != ".html":
        write_whole(out, figure_file(show_figure(shown, look), out))
        return
    steps = " and ".join(str(k) for k in sorted(shown.snapshots))
    page = render_show(
        shown,
        look,
        title=f"What SIGN does to {facts['images'].partition(',')[0]}",
        about=f"{counted(len(shown), 'image')} before and after {steps} steps with the gradient of "
        f"{facts['network']}.",
        facts=facts,
        command=command_line("show", options),
    )
    write_whole(out, page)


def _write_tensorboard(folder: str, shown: Shown, look: Look) -> None:
    """Write the pictures, and by K the histograms and numbers, as TensorBoard's events."""
    from torch.utils.tensorboard import SummaryWriter

    from sign_ext.report.show_page import label_and_name

    with SummaryWriter(folder) as writer:
        for place in range(len(shown)):
            label, name = label_and_name(shown, place)
            for title, pixels in look.pictures(shown, place).items():
                tag = f"{label} {name}".strip() + f"/{title}"
                writer.add_image(tag, pixels[..., :3], dataformats="HWC")
        versions = {0: shown.originals, **shown.snapshots}
        for k, images in sorted(versions.items()):
            writer.add_histogram("grey levels", images, k)
            if k:
                writer.add_histogram("change in grey levels", images - shown.originals, k)
        for change in shown.changes():
            for key, value in dataclasses.asdict(change).items():
                if key != "steps":
                    writer.add_scalar(f"change/{key}", value, change.steps)
        for k, answers in sorted(shown.answers.items()):
            mean = sum(each.probability for each in answers) / len(answers)
            writer.add_scalar("answers/mean probability", mean, k)
            if k:
                writer.add_scalar("answers/turned", len(shown.turned(k)), k)
    console.say(f"for TensorBoard: tensorboard --logdir {folder}")


def _as_json(shown: Shown) -> list[dict[str, Any]]:
    return [
        {
            "name": shown.names[place],
            "class": shown.labels[place],
            "answers": {
                str(k): dataclasses.asdict(answers[place]) for k, answers in shown.answers.items()
            },
        }
        for place in range(len(shown))
    ]
