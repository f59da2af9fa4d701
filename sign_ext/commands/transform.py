"""Apply SIGN to a data set with a trained network, and store the transformed images.

Each step adds to the images the gradient δ of the sum of the network's features
Φ, the values that its final classifier layer reads. --snapshots keeps the images after several
step counts from one trajectory: no step is computed twice. They are written
to the store, OUT, in shards, with a manifest of how they were made, for
`sign-ext train --sign OUT`.

To resume a run that was stopped, run the same command again: it computes what
is missing, and the result is byte-identical. Other settings are refused. Under
torchrun the processes share the shards; the bytes do not depend on how many.

The step size depends on the network and on the data: `sign-ext calibrate`
shows what each one does to the images, and proposes one. --step-size auto
takes its proposal for 64 training images.
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sign_ext.commands import console
from sign_ext.commands.console import UsageError
from sign_ext.commands.network_data import NetworkDataOptions, network_source
from sign_ext.commands.networks import ignore, network_as_json, read_network
from sign_ext.commands.options import PositiveInt, option, sign_option
from sign_ext.commands.out_folder import check_not_in_data
from sign_ext.commands.shared import (
    SignOptions,
    on_error_option,
    own_device,
    resolve_device,
    say_converted,
    say_found,
)
from sign_ext.formatting import counted

if TYPE_CHECKING:
    from sign_ext import SignTransform
    from sign_ext.data import ImageSource
    from sign_ext.data.listing import DataSummary
    from sign_ext.store import StoreRun
    from sign_ext.store.coordination import Ranks

EXAMPLES = (
    "sign-ext transform --checkpoint runs/classical/model.safetensors \\",
    "    --data digits --steps 100 --snapshots 50 100 --step-size 30 \\",
    "    --out runs/transformed",
    "sign-ext transform --checkpoint runs/phi --data photos --steps 50 \\",
    "    --step-size auto --dtype bfloat16 --on-error skip --memory 8GB \\",
    "    --profile --out /shared/transformed",
    "sign-ext transform --model timm:resnet18 --weights resnet18.pth \\",
    "    --data photos --image-size 64 --step-size auto --out runs/transformed",
)

AUTO = "auto"
TINY = 1.0  # grey levels rms; less is hardly a change: probably the step size is still the default


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(NetworkDataOptions, SignOptions):
    """Options of `sign-ext transform`."""

    out: str = option(help="Folder of the store.", metavar="STORE")
    steps: int = sign_option("steps", type=PositiveInt)
    snapshots: tuple[int, ...] | None = sign_option(
        "snapshots", type=PositiveInt, nargs="+", metavar="K"
    )
    step_size: float | str = sign_option(
        "step_size",
        type=float | Literal["auto"],
        metavar="STEP|auto",
        help="Factor of the gradient δ. auto takes what `sign-ext calibrate` proposes for training "
        "images, and records it: a rerun uses the same.",
    )
    split: str = option(
        "train",
        type=Literal["train", "validation", "test", "all"],
        help="Which split to transform; all is the three in order.",
    )
    train_size: int | None = option(
        None, type=PositiveInt, help="As in `sign-ext train`: a subset of the training images."
    )
    shard_size: int | None = option(
        None, type=PositiveInt, help="Images per shard. Default: as many as fill 64 MiB."
    )
    dtype: str = option(
        "float32",
        type=Literal["float32", "float16", "bfloat16"],
        help="Dtype of the stored images; the 16-bit ones round.",
    )
    on_error: str = on_error_option()
    memory: str | None = option(
        None,
        help="Memory limit of each process, e.g. 4GB. Default: 4 GiB more than "
        "before the first image.",
        metavar="SIZE",
    )
    readers: int = option(
        2, type=PositiveInt, help="Chunks of images that are read and decoded at the same time."
    )
    tune: bool = option(
        False,
        type=bool,
        help="Measure first which algorithms of the fused backend are fastest here; the manifest "
        "keeps the choice, for all processes and reruns.",
    )
    trust: bool = option(
        False,
        type=bool,
        help="Check existing shards by size only, for stores that take long to read.",
    )
    profile: bool = option(
        False,
        type=bool,
        help="Print where the time went (decoding, computing, writing), and what computed and why.",
    )
    overwrite: bool = option(
        False,
        type=bool,
        help="Start over if OUT was made with other settings. The old store stays until the new "
        "one has a shard.",
    )

    def check(self) -> None:
        """Check the network, --snapshots and --memory."""
        super().check()
        _snapshots(self)
        _memory(self)


def run(options: Options) -> None:
    """Transform the images and write OUT."""
    from sign_ext import SignTransform
    from sign_ext.store import transform_to_store
    from sign_ext.store.coordination import Ranks
    from sign_ext.store.transform import refuse_other_settings

    snapshots = _snapshots(options)
    memory = _memory(options)
    ranks = Ranks.from_environment()
    device = resolve_device(own_device(options.device))
    say = console.say if ranks.first else ignore
    model, config = read_network(options, device, say=say)
    check_not_in_data(options.out, options.data or recorded_data(config))
    sizes = {"train_size": options.train_size}
    source = network_source(options, config, options.split, say=say, **sizes)
    if ranks.first:
        say_found(source.summary())
    given = options.step_size
    sign = SignTransform(
        model,
        options.steps,
        step_size=1.0 if isinstance(given, str) else given,
        snapshots=snapshots,
        tune=options.tune,
        **options.sign_settings(model),
    )
    about: dict[str, Any] = {
        **origin_of(options, config),
        "split": {
            "name": options.split,
            "train_size": options.train_size,
            "seed": options.seed,
        },
    }
    if given == AUTO:
        if ranks.first and not options.overwrite:
            refuse_other_settings(
                sign,
                source,
                options.out,
                shard_size=options.shard_size,
                dtype=options.dtype,
                on_error=_on_error(options),
                about=about,
            )
        sign, about["calibration"] = _calibrated(options, sign, config, source, ranks)
    began = time.perf_counter()
    with console.progress("transforming, images × steps") as report:
        done = transform_to_store(
            sign,
            source,
            options.out,
            shard_size=options.shard_size,
            dtype=options.dtype,
            on_error=_on_error(options),
            memory=memory,
            readers=options.readers,
            overwrite=options.overwrite,
            trust=options.trust,
            about=about,
            ranks=ranks,
            progress=report if ranks.first else False,
            say=say if ranks.first else None,
        )
    _print(options, config, done, ranks, time.perf_counter() - began, source.summary())


def _on_error(options: Options) -> Literal["fail", "skip"]:
    return "skip" if options.on_error == "skip" else "fail"


def recorded_data(config: dict[str, Any]) -> str | None:
    """Return the data that a checkpoint names; `network_source` says so if it is malformed."""
    data = config.get("data")
    name = data.get("name") if isinstance(data, dict) else None
    return name if isinstance(name, str) else None


def origin_of(options: NetworkDataOptions, config: dict[str, Any]) -> dict[str, Any]:
    """Return what the manifest says about where the network comes from."""
    from sign_ext.files import sha256_of

    if options.checkpoint is None:
        return {"model": network_as_json(config)}
    path = Path(options.checkpoint)
    path = path / "model.safetensors" if path.is_dir() else path
    return {"checkpoint": {"sha256": sha256_of(path), "model": config["model"]}}


def _calibrated(
    options: Options,
    sign: SignTransform,
    config: dict[str, Any],
    source: ImageSource,
    ranks: Ranks,
) -> tuple[SignTransform, dict[str, Any]]:
    """Find the step size of --step-size auto on the training images, or in the store's manifest."""
    from sign_ext.store import auto_step_size

    train = source
    if options.split != "train":
        sizes = {"train_size": options.train_size}
        train = network_source(options, config, "train", say=ignore, **sizes)
    with console.progress("calibrating, images × steps") as report:
        return auto_step_size(
            sign,
            train,
            options.out,
            seed=options.seed,
            on_error=_on_error(options),
            ranks=ranks,
            progress=report,
            say=console.say if ranks.first else None,
        )


def _memory(options: Options) -> int | None:
    from sign_ext.store.budget import parse_size

    try:
        return None if options.memory is None else parse_size(options.memory)
    except ValueError as error:
        raise UsageError(f"--memory: {error}") from error


def _snapshots(options: Options) -> tuple[int, ...]:
    snapshots = tuple(sorted(set(options.snapshots or [options.steps])))
    if snapshots[-1] > options.steps:
        raise UsageError(
            f"--snapshots {snapshots[-1]} is beyond --steps {options.steps}: "
            f"raise --steps or leave it out"
        )
    return snapshots


def _print(
    options: Options,
    config: dict[str, Any],
    done: StoreRun,
    ranks: Ranks,
    seconds: float,
    data: DataSummary,
) -> None:
    from sign_ext.store.inspect import describe, in_words

    if options.profile:
        if ranks.first:
            console.say(str(done.explanation))
        process = f"process {ranks.rank} of {ranks.world}: " if ranks.world > 1 else ""
        console.say(process + done.shares.in_words())
    if not ranks.first:
        return
    say_converted(data)
    store = describe(options.out)
    rms = [change["rms"] for change in store["change"].values()]
    if rms and max(rms) < TINY:
        console.say(
            f"the change is below 1 grey level ({max(rms):.2g} rms): `sign-ext calibrate` proposes "
            "a step size"
        )
    if options.json:
        numbers = {name: store[name] for name in ("images", "of", "shards", "change", "skipped")}
        shares = {"profile": dataclasses.asdict(done.shares)} if options.profile else {}
        made = {"made": done.made, "kept": done.kept, "seconds": seconds}
        found = {"network": network_as_json(config), "data": data.to_dict()}
        console.print_json({"out": options.out, **found, **numbers, **made, **shares})
        return
    from sign_ext.formatting import duration

    for name, text in in_words(store):
        print(f"{name:<11}{text}")
    own = "of its own " if ranks.world > 1 else ""
    kept = f"{done.kept:,} existed" if done.kept else "none existed"
    print(f"{'this run':<11}made {counted(done.made, 'shard')}, {own}{kept} ({duration(seconds)})")
