"""Make adversarial images by projected gradient descent (PGD), and measure robust accuracy.

Each step moves the images along the sign of the gradient of the cross-entropy,
and back into the ball of radius ε around the originals and into 0–255. ε and the
step size are in grey levels: --epsilon 8 is what papers call 8/255. Images begin
at a random point of the ball, which depends on --seed and on the image's position
in the data set only.

An image counts as robust if the network answers correctly as it is and after the
attack. ± is the binomial standard error, or where all or none are right Wilson's
95% interval.

With --out the adversarial images are written to a store, as by `sign-ext transform`,
for `sign_ext.store.load_transformed` or `sign-ext train --sign`. To resume a run
that was stopped, run the same command again. Without --out nothing is kept.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal

from sign_ext.commands import console
from sign_ext.commands.console import UsageError
from sign_ext.commands.network_data import NetworkDataOptions, network_source
from sign_ext.commands.networks import ignore, network_as_json, read_network
from sign_ext.commands.options import PositiveFloat, PositiveInt, option, sign_option
from sign_ext.commands.out_folder import check_not_in_data
from sign_ext.commands.shared import (
    check_epsilon,
    on_error_option,
    own_device,
    reporting_steps,
    require_one_process,
    resolve_device,
    say_converted,
    say_found,
)
from sign_ext.commands.transform import origin_of, recorded_data
from sign_ext.formatting import counted, did_you_mean

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from sign_ext.data import ImageSource
    from sign_ext.evaluation import Robustness
    from sign_ext.store import AttackIteration
    from sign_ext.store.coordination import Ranks

EXAMPLES = (
    "sign-ext attack --checkpoint runs/classical --epsilon 8",
    "sign-ext attack --model timm:resnet18 --weights resnet18.pth \\",
    "    --data photos --image-size 64 --epsilon 8 --steps 40 --restarts 5",
    "sign-ext attack --checkpoint runs/phi --data photos --split train \\",
    "    --epsilon 4 --out runs/adversarial",
)
BACKENDS = ("auto", "autograd", "graphed", "fused")  # the on-chip kernel runs SIGN's own step only
_WITH_OUT = ("shard_size", "dtype", "memory", "overwrite")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(NetworkDataOptions):
    """Options of `sign-ext attack`."""

    epsilon: float = option(
        type=PositiveFloat,
        help="Radius of the ball around each image, in grey levels.",
        metavar="EPS",
    )
    steps: int = option(10, type=PositiveInt, help="K, the number of steps.")
    step_size: float | None = option(
        None, type=PositiveFloat, help="Length of a step, in grey levels. Default: 2.5·ε/K."
    )
    norm: str = option(
        "linf",
        type=Literal["linf", "l2"],
        help="Of the ball: the largest change of a value, or the root of the sum of squares.",
    )
    restarts: int = option(
        1, type=PositiveInt, help="Attacks from different starts, of which the worst is kept."
    )
    objective: str = option(
        "cross_entropy",
        type=Literal["cross_entropy", "margin"],
        help="What the steps raise: the cross-entropy, or the largest wrong logit less the right.",
    )
    start: str = option(
        "random",
        type=Literal["random", "image"],
        help="Begin at a random point of the ball, or at the image itself.",
    )
    target: str | None = option(
        None,
        help="Instead of away from its class, move every image towards this class.",
        metavar="CLASS",
    )
    only_correct: bool = option(
        False, type=bool, help="Leave images that are misclassified from the start as they are."
    )
    split: str = option(
        "test",
        type=Literal["train", "validation", "test", "all"],
        help="Which split to attack; all is the three in order.",
    )
    train_size: int | None = option(
        None, type=PositiveInt, help="As in `sign-ext train`: a subset of the training images."
    )
    test_size: int | None = option(
        None, type=PositiveInt, help="Use a stratified subset of this many test images."
    )
    batch_size: int | None = sign_option("batch_size", type=PositiveInt)
    backend: str = sign_option("backend", type=Literal[BACKENDS])
    precision: str = sign_option("precision")
    on_error: str = on_error_option()
    out: str | None = option(
        None, help="Write the adversarial images to this store.", metavar="STORE"
    )
    shard_size: int | None = option(
        None,
        type=PositiveInt,
        help="Images per shard of --out. Default: as many as fill 64 MiB.",
    )
    dtype: str = option(
        "float32",
        type=Literal["float32", "float16", "bfloat16"],
        help="Dtype of the images in --out. The 16-bit ones round, in 128–255 by up to 1/16 "
        "(float16) or 1/2 (bfloat16), also out of the ball; accuracy is measured on them.",
    )
    memory: str | None = option(
        None,
        help="Memory limit of each process with --out, e.g. 4GB. Default: 4 GiB more than "
        "before the first image.",
        metavar="SIZE",
    )
    overwrite: bool = option(
        False, type=bool, help="Start over if OUT was made with other settings."
    )

    def check(self) -> None:
        """Check the network, ε, and which options go together."""
        super().check()
        check_epsilon("--epsilon", self.epsilon, self.norm)
        if self.target is not None and self.only_correct:
            raise UsageError(
                "--only-correct does not go with --target, which moves every image towards a class"
            )
        if self.start == "image" and self.restarts > 1:
            raise UsageError(
                f"--restarts {self.restarts} begin at the same point with --start image: leave "
                "one of them out"
            )
        if self.out is None:
            for field in dataclasses.fields(Options):
                if field.name in _WITH_OUT and getattr(self, field.name) != field.default:
                    raise UsageError(f"--{field.name.replace('_', '-')} goes with --out")
        _memory(self)


def run(options: Options) -> None:
    """Attack the images, count those that are robust, and print a table or JSON."""
    from sign_ext.store.coordination import Ranks

    if options.out is None:
        require_one_process("attack without --out")
    ranks = Ranks.from_environment()
    device = resolve_device(own_device(options.device))
    say = console.say if ranks.first else ignore
    model, config = read_network(options, device, say=say)
    if config["model"].get("aleatoric"):
        raise UsageError(
            "the network is aleatoric: its outputs are a mean and a deviation for each class, and "
            "attacks are for networks whose outputs are logits"
        )
    if options.out is not None:
        check_not_in_data(options.out, options.data or recorded_data(config))
    sizes = {"train_size": options.train_size, "test_size": options.test_size}
    source = network_source(options, config, options.split, say=say, **sizes)
    if ranks.first:
        say_found(source.summary())
    attack = _attack(options, config, model, source)
    if options.out is not None:
        _store(options, config, attack, source, ranks)
    if not ranks.first:
        return
    found = _measure(options, attack, model, source, device)
    say_converted(source.summary())
    _print(options, config, attack, found, source)


def _attack(
    options: Options, config: dict[str, Any], model: nn.Module, source: ImageSource
) -> AttackIteration:
    from sign_ext.store import AttackIteration

    labels = _network_labels(options, config, source)
    return AttackIteration(
        model,
        epsilon=options.epsilon,
        step_size=options.step_size,
        steps=options.steps,
        norm=options.norm,
        random_start=options.start == "random",
        restarts=options.restarts,
        objective=options.objective,
        target=_target(options, config, source),
        only_correct=options.only_correct,
        seed=options.seed,
        network_labels=labels,
        batch_size=options.batch_size,
        backend=options.backend,
        precision=options.precision,
    )


def _network_labels(
    options: Options, config: dict[str, Any], source: ImageSource
) -> tuple[int, ...] | None:
    """Return the network's label of each class of the data; None where they are the same.

    `network_source` has checked that the classes fit.
    """
    from sign_ext.data.classes import match_classes
    from sign_ext.training.checkpoints import class_names_of

    known = class_names_of(config)
    if known is None or options.same_classes or source.targets is not None:
        return None
    labels = match_classes(source.class_names, known, (source.name, "the network"))
    return None if labels is None else tuple(labels.tolist())


def _target(options: Options, config: dict[str, Any], source: ImageSource) -> int | None:
    """Return the network's output that --target names.

    Raises:
        UsageError: it names no class.
    """
    from sign_ext.training.checkpoints import class_names_of

    if options.target is None:
        return None
    names = class_names_of(config) or source.class_names
    if names.count(options.target) == 1:
        return names.index(options.target)
    if options.target in names:
        raise UsageError(f"--target {options.target!r} names several classes")
    hint = did_you_mean(options.target, names) or ";"
    more = " …" * (len(names) > 10)
    raise UsageError(
        f"--target {options.target!r} is not a class{hint} accepted: {', '.join(names[:10])}{more}"
    )


def _store(
    options: Options,
    config: dict[str, Any],
    attack: AttackIteration,
    source: ImageSource,
    ranks: Ranks,
) -> None:
    from sign_ext.store import transform_to_store

    assert options.out is not None
    about: dict[str, Any] = {
        **origin_of(options, config),
        "split": {
            "name": options.split,
            "train_size": options.train_size,
            "test_size": options.test_size,
            "seed": options.seed,
        },
    }
    with console.progress("attacking, images × steps") as report:
        done = transform_to_store(
            attack,
            source,
            options.out,
            shard_size=options.shard_size,
            dtype=options.dtype,
            on_error="skip" if options.on_error == "skip" else "fail",
            memory=_memory(options),
            overwrite=options.overwrite,
            about=about,
            ranks=ranks,
            progress=report if ranks.first else False,
            say=console.say if ranks.first else None,
        )
    if ranks.first:
        kept = f", {done.kept:,} existed" if done.kept else ""
        console.say(f"{options.out}: made {counted(done.made, 'shard')}{kept}")


def _measure(
    options: Options,
    attack: AttackIteration,
    model: nn.Module,
    source: ImageSource,
    device: torch.device,
) -> Robustness:
    """Classify the images as they are and after the attack, a chunk at a time."""
    from sign_ext.evaluation import RobustnessCount

    count = RobustnessCount(model, target=attack.target)
    doing = "evaluating, images" if options.out is not None else "attacking, images × steps"
    with console.progress(doing) as report:
        for images, attacked, positions in _chunks(options, attack, source, device, report):
            labels = attack.labels_of(source.targets_of(positions))
            count.add(images, attacked, labels)
            if options.out is not None:
                report(int(positions[-1]) + 1, len(source))
    return count.result()


def _chunks(
    options: Options,
    attack: AttackIteration,
    source: ImageSource,
    device: torch.device,
    report: Callable[[int, int], None],
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield images, their adversarial versions and their positions in the data set."""
    from sign_ext.store import load_transformed
    from sign_ext.store.prefetch import listing_unreadable, pieces, read_piece

    stored = load_transformed(options.out) if options.out is not None else None
    rows = {int(each): row for row, each in enumerate(stored.indices)} if stored else {}
    size = options.batch_size or 512
    on_error: Literal["fail", "skip"] = "skip" if options.on_error == "skip" else "fail"
    with listing_unreadable(source, console.say):
        for piece in pieces([0], len(source), len(source), size):
            chunk = read_piece(source, piece, on_error)
            for each in chunk.skipped:
                console.say(f"skipped: {' '.join(each.why.split())}")
            positions = chunk.indices
            if not len(positions):
                continue
            if stored is not None:
                wanted = [rows[each] for each in positions.tolist()]
                attacked = stored.images(attack.stops[-1], wanted)
            else:
                images = chunk.images.to(device).float()
                labels = source.targets_of(positions).to(device)
                steps = reporting_steps(report, attack, positions, len(source))
                found = attack.run(images, labels, positions, progress=steps)
                attacked = found[attack.stops[-1]]
            yield chunk.images, attacked, positions


def _memory(options: Options) -> int | None:
    from sign_ext.store.budget import parse_size

    try:
        return None if options.memory is None else parse_size(options.memory)
    except ValueError as error:
        raise UsageError(f"--memory: {error}") from error


def _print(
    options: Options,
    config: dict[str, Any],
    attack: AttackIteration,
    found: Robustness,
    source: ImageSource,
) -> None:
    if options.json:
        console.print_json(
            {
                "checkpoint": options.checkpoint,
                "network": network_as_json(config),
                "data": {**source.summary().to_dict(), "name": source.name, "split": options.split},
                "attack": attack.settings(),
                "out": options.out,
                **found.to_dict(),
            }
        )
        return
    from rich.table import Table

    from sign_ext.formatting import error_of_share, percent

    towards = "" if options.target is None else f", towards {options.target}"
    print(f"{attack.in_words()}{towards}")
    table = Table(title=f"{source.name}: {counted(found.images, 'image')}")
    table.add_column("condition")
    table.add_column("images", justify="right")
    table.add_column("in percent", justify="right")
    table.add_column("±", justify="right")
    table.add_column("± is", style="dim")
    rows = [("clean", found.correct, found.images), ("robust", found.robust, found.images)]
    if found.reached is not None and found.others:
        rows.append((f"other classes, now {options.target}", found.reached, found.others))
    for condition, right, images in rows:
        errors = error_of_share(right, images)
        table.add_row(condition, f"{right:,} of {images:,}", percent(right / images), *errors)
    console.print_rich(table)
