"""Train a network on a data set and keep the epoch that is best on validation images.

Writes OUT/model.safetensors (the weights) and OUT/model.json (the network's
structure, and how it was trained). With --sign, the training set
is joined with transformed versions of itself that `sign-ext transform` wrote
for the same --data, --train-size, --image-size and --seed. Under torchrun
(torchrun --nproc-per-node=2 -m sign_ext train ...) the processes train one
network together, and --batch-size counts the images of all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sign_ext.commands import console
from sign_ext.commands.console import UsageError
from sign_ext.commands.names import check_data_name, check_network_name, parse_name
from sign_ext.commands.networks import (
    MODEL_HELP,
    ModelOptions,
    build_network,
    network_as_json,
    recorded_size,
)
from sign_ext.commands.options import NonNegativeFloat, PositiveFloat, PositiveInt, option
from sign_ext.commands.out_folder import check_keeps_weights, check_not_in_data
from sign_ext.commands.shared import (
    DATA_HELP,
    DataOptions,
    check_folder,
    on_error_option,
    read_data,
    resolve_device,
    skipped_as_json,
)
from sign_ext.formatting import counted

if TYPE_CHECKING:
    from sign_ext.augment import Augment, Policy
    from sign_ext.data import ImageSet, Splits
    from sign_ext.store.reader import Transformed
    from sign_ext.training import TrainSettings
    from sign_ext.training.processes import Processes

EXAMPLES = (
    "sign-ext train --data digits --model basic_cnn --epochs 20 \\",
    "    --augment classical --out runs/classical",
    "sign-ext train --data digits --model basic_cnn --epochs 20 \\",
    "    --augment classical --sign runs/transformed --out runs/sign",
    "sign-ext train --model timm:resnet18 --weights pretrained --data photos \\",
    "    --image-size 64 --learning-rate 1e-4 --out runs/fine-tuned",
    "sign-ext train --config classical.yaml --epochs 50",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(ModelOptions, DataOptions):
    """Options of `sign-ext train`; those from epochs to precision belong to `TrainSettings`."""

    data: str = option(help=DATA_HELP, metavar="NAME", check=check_data_name)
    model: str = option(help=f"The network: {MODEL_HELP}", metavar="NAME", check=check_network_name)
    out: str = option(help="Folder for the checkpoint and the training curves.", metavar="DIR")
    train_size: int | None = option(
        None, type=PositiveInt, help="Use a stratified subset of this many training images."
    )
    image_size: int | None = option(
        None,
        type=PositiveInt,
        help="Height and width in pixels. Default: what timm, torchvision or transformers record "
        "for the network, else the data set's.",
    )
    augment: str = option(
        "none",
        type=Literal[
            "none",
            "classical",
            "mixup",
            "deepaugment",
            "trivialaugment",
            "randaugment",
            "augmix",
            "cutmix",
        ],
        metavar="NAME",
        help="none; classical: flips, shifts and rotations (without flips for digits); mixup: "
        "blends of two images and their labels; cutmix: rectangles of one in another; deepaugment: "
        "learned policies (needs --policies); trivialaugment, randaugment, augmix: torchvision's, "
        "on images rounded and clipped to 0-255.",
    )
    aleatoric: int | None = option(
        None,
        type=PositiveInt,
        help="Also learn the spread of each logit (Section 3.2, Eq. 10), with T draws a step.",
        metavar="T",
    )
    policies: str | None = option(
        None, help="YAML file of DeepAugment's policies.", metavar="FILE.yaml"
    )
    mixup_alpha: float | None = option(
        None, type=PositiveFloat, help="α of mixup's Beta distribution. Default: 1."
    )
    sign: tuple[str, ...] | None = option(
        None,
        nargs="+",
        metavar="DIR",
        help="Folders of `sign-ext transform`; all their versions of training images join the "
        "training set.",
    )
    sign_mode: str = option(
        "add",
        type=Literal["add", "replace"],
        help="Add the transformed images to the originals (the paper), or replace them.",
    )
    sign_random_k: bool = option(
        False,
        type=bool,
        help="Of each --sign folder take one version of an image, its K drawn at random.",
    )
    epochs: int = option(20, type=PositiveInt, help="Passes over the training set.")
    batch_size: int = option(128, type=PositiveInt, help="Images per gradient step.")
    learning_rate: float = option(1e-3, type=PositiveFloat, help="Learning rate.")
    optimizer: str = option("adam", type=Literal["adam", "adamw", "sgd"], help="Optimiser.")
    weight_decay: float = option(0.0, type=NonNegativeFloat, help="Weight decay.")
    schedule: str = option(
        "constant", type=Literal["constant", "cosine"], help="Learning rate over the run."
    )
    max_steps: int | None = option(
        None, type=PositiveInt, help="Stop after this many gradient steps, if epochs allow more."
    )
    checkpoints: int | None = option(
        None,
        type=PositiveInt,
        help="Validate so many times, evenly spaced over the gradient steps, instead of after each "
        "epoch.",
    )
    select: str = option(
        "accuracy",
        type=Literal["accuracy", "auc"],
        help="What selects the best epoch on validation; auc for two classes of unequal size.",
    )
    precision: str = option(
        "float32",
        type=Literal["float32", "bfloat16"],
        help="Arithmetic of forward and backward passes.",
    )
    compile: bool = option(
        False, type=bool, help="Compile the network for training (torch.compile); for long runs."
    )
    on_error: str = on_error_option()
    resume: bool = option(False, type=bool, help="Continue the run that was stopped in OUT.")
    overwrite: bool = option(
        False, type=bool, help="Discard the run that is in OUT, once this one has an epoch."
    )

    def check(self) -> None:
        """Check that options which belong together are given together."""
        super().check()
        if self.resume and self.overwrite:
            raise UsageError(
                "--resume continues the run in --out, --overwrite discards it: give one"
            )
        _require_each_once(self.sign or ())
        if not self.sign and self.sign_mode != "add":
            raise UsageError("--sign-mode replace needs --sign DIR")
        if not self.sign and self.sign_random_k:
            raise UsageError("--sign-random-k needs --sign DIR")
        if self.mixup_alpha is not None and self.augment != "mixup":
            raise UsageError(f"--mixup-alpha needs --augment mixup; it is {self.augment}")
        if self.policies is not None and self.augment != "deepaugment":
            raise UsageError(f"--policies needs --augment deepaugment; it is {self.augment}")
        if self.policies is None and self.augment == "deepaugment":
            raise UsageError("--augment deepaugment needs --policies FILE.yaml")

    def train_settings(self) -> TrainSettings:
        """Return the training options as `TrainSettings`."""
        from sign_ext.training import TrainSettings

        names = {field.name for field in dataclasses.fields(TrainSettings)}
        return TrainSettings(**{name: getattr(self, name) for name in names})


def _require_each_once(folders: Sequence[str]) -> None:
    """Raise UsageError if --sign names a store twice, whose images would then count twice."""
    seen: set[Path] = set()
    for folder in folders:
        place = Path(folder).resolve()
        if place in seen:
            raise UsageError(
                f"--sign names the store {folder} twice: its images would count twice; give each "
                "store once"
            )
        seen.add(place)


def run(options: Options) -> None:
    """Train, write OUT/model.safetensors and model.json, and print the best epoch."""
    from sign_ext.training.processes import join_processes
    from sign_ext.training.run_folder import without_empty_folders

    processes = join_processes(resolve_device(options.device))
    out = Path(options.out) if processes.first else None
    with console.rank_zero_output(processes), without_empty_folders(out):
        _train(options, processes)


def _train(options: Options, processes: Processes) -> None:
    from sign_ext.data.guessing import NOT_SHOWN
    from sign_ext.training import Aleatoric, train

    with processes.raising_together():
        name = parse_name(options.model)
        settings = options.train_settings()
        policies = read_policies(options)
        out = _out_folder(options) if processes.first else Path(options.out)
        sizes: dict[str, Any] = {
            "train_size": options.train_size,
            "image_size": options.image_size or recorded_size(name),
        }
        stores = open_stores(options.sign or ())
        splits = read_data(options, options.data, **sizes)
        train_set = training_set(options, splits, stores)

        model, network = build_network(
            options,
            name,
            num_classes=len(splits.class_names),
            image_shape=splits.image_shape,
            new_head=True,
            aleatoric=options.aleatoric is not None,
            say=console.say,
        )
        augment = _augment(options, policies, len(splits.class_names))
        config = _config(options, network, splits, train_set)
    in_processes = f", in {processes.count} processes" if processes.count > 1 else ""
    device = resolve_device(options.device)
    versions = _versions(options, len(train_set), len(splits.train))
    console.say(
        f"training on {counted(len(train_set), 'image')}{versions}, on {device}{in_processes}"
    )
    with console.progress("training") as report:
        result = train(
            model,
            train_set,
            splits.validation,
            settings,
            augment=augment,
            objective=Aleatoric(options.aleatoric) if options.aleatoric else None,
            device=processes.device,
            out=out,
            resume=options.resume,
            overwrite=options.overwrite,
            progress=report,
            config=config,
        )
    if result.doubt_of_learning:
        console.say(
            f"this network is {NOT_SHOWN}: {result.doubt_of_learning}; try more --epochs, another "
            "--learning-rate or another --seed"
        )
    _print(options, result, network, str(out / "model.safetensors"), splits)


def _versions(options: Options, images: int, originals: int) -> str:
    """Say how many images of a training set are versions that SIGN made of the originals."""
    if not options.sign:
        return ""
    if options.sign_mode == "replace":
        return ", all of them transformed versions"
    return f" ({originals:,} and {images - originals:,} transformed versions of them)"


def _out_folder(options: Options) -> Path:
    """Create OUT, and refuse to lose what it holds."""
    check_not_in_data(options.out, options.data)
    if not options.resume:
        folder = options.model[3:] if options.model.startswith("hf:") else None
        check_keeps_weights(options.out, {"--weights": options.weights, "--model hf:": folder})
    out = check_folder(options.out)
    taken = any((out / name).exists() for name in ("last.safetensors", "model.safetensors"))
    if taken and not (options.resume or options.overwrite):
        raise FileExistsError(
            f"--out {out} already holds a training run: give --resume to continue it, "
            "--overwrite to discard it, or another folder"
        )
    return out


def open_stores(folders: Sequence[str]) -> list[Transformed]:
    """Open the stores of --sign, before any image is read.

    Args:
        folders: of the stores.

    Raises:
        ValueError: a store that training cannot use: its images have targets in place of classes,
            or are versions of validation or test images.
        OSError, StoreError: it cannot be read, or is unfinished.
    """
    from sign_ext.store import load_transformed

    stores = [load_transformed(folder) for folder in folders]
    for folder, store in zip(folders, stores, strict=True):
        if (kind := store.manifest.targets) is not None:
            raise ValueError(
                f"--sign {folder} holds a target for each image ({kind.dtype}, shape "
                f"{tuple(kind.shape)}) in place of a class, and `sign-ext train` trains "
                "classifiers: train on it in a loop of your own, with "
                "sign_ext.load_transformed(DIR).join(dataset) as the data set (docs/stores.md)"
            )
        split = _split_of(store)
        if split not in ("train", "all"):
            raise ValueError(
                f"--sign {folder} holds versions of the {split} images, on which no network should "
                "be trained: make a store with `sign-ext transform --split train`"
            )
    return stores


def _split_of(store: Transformed) -> str:
    """The split that a store was made from, as `sign-ext transform` records it."""
    split = store.recipe.get("split")
    return str(split.get("name", "train")) if isinstance(split, dict) else "train"


def training_set(options: Options, splits: Splits, stores: Sequence[Transformed] = ()) -> ImageSet:
    """Return the originals, or with --sign, their union with the transformed versions.

    Of a store of all images (`sign-ext transform --split all`) the versions of training images are
    taken.

    Args:
        options: the command's options.
        splits: the data.
        stores: those of --sign, from `open_stores`.

    Raises:
        ValueError: a store was made from other images.
    """
    originals = splits.train
    if not stores:
        return originals
    import torch

    from sign_ext.augment import sign_training_set
    from sign_ext.data import ImageSet
    from sign_ext.store.reader import require_made_from

    random_k = torch.Generator().manual_seed(options.seed) if options.sign_random_k else None
    parts = [originals] if options.sign_mode == "add" else []
    for store in stores:
        part = _split_of(store)
        sources = originals if part == "train" else splits.part(part)
        rows = require_made_from(store, sources, splits.skipped_in(part))
        # Training images come first among all. If images were skipped, the store has versions of
        # the others only.
        of_training = rows < len(originals)
        rows = rows[of_training]
        snapshots = store.snapshots
        if not bool(of_training.all()):
            snapshots = {step: images[of_training] for step, images in snapshots.items()}
        chosen = originals if len(rows) == len(originals) else originals.subset(rows)
        parts.append(sign_training_set(chosen, snapshots, mode="replace", random_k=random_k))
    return ImageSet.concatenate(parts)


def read_policies(options: Options) -> tuple[Policy, ...]:
    """Read --policies, if --augment deepaugment uses them.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds no policies.
    """
    if options.policies is None:
        return ()
    from sign_ext.augment import load_policies

    return load_policies(options.policies)


def _augment(options: Options, policies: tuple[Policy, ...], classes: int) -> Augment:
    from sign_ext.augment import build_augment, classical_for

    if options.augment == "classical":
        classical = classical_for(options.data)
        if not classical.horizontal_flip:
            console.say(
                "digits: classical augmentation without flips (a mirrored digit is no digit)"
            )
        return classical
    if options.augment == "mixup":
        alpha = {} if options.mixup_alpha is None else {"alpha": options.mixup_alpha}
        return build_augment("mixup", num_classes=classes, **alpha)
    if options.augment == "cutmix":
        return build_augment("cutmix", num_classes=classes)
    if options.augment == "deepaugment":
        return build_augment("deepaugment", policies=policies)
    return build_augment(options.augment)


def _config(
    options: Options, network: dict[str, Any], splits: Splits, train_set: ImageSet
) -> dict[str, Any]:
    """Describe how the checkpoint is made; `train` adds settings, best epoch and versions."""
    from sign_ext.data import fingerprint

    return {
        "model": network["model"],
        **({"initial_weights": network["weights"]} if "weights" in network else {}),
        "data": {
            "name": options.data,
            "note": splits.note,
            "train_size": options.train_size,
            "image_size": options.image_size,
            "seed": options.seed,
            **({"reading": options.reading()} if options.reading() else {}),
            "images": len(train_set),
            **({"skipped": len(splits.skipped)} if splits.skipped else {}),
            "fingerprint": fingerprint(train_set),
        },
        "sign": {
            "folders": list(options.sign or ()),
            "mode": options.sign_mode,
            "random_k": options.sign_random_k,
        },
    }


def _print(
    options: Options, result: Any, network: dict[str, Any], checkpoint: str, splits: Splits
) -> None:
    if options.json:
        found = {
            "network": network_as_json(network),
            "data": splits.summary.to_dict(),
            "skipped": skipped_as_json(splits),
        }
        console.print_json({"checkpoint": checkpoint, **found, **result.to_dict()})
        return
    from sign_ext.formatting import duration, percent

    print(
        f"best epoch {result.best_epoch} of {len(result.history)}: validation accuracy "
        f"{percent(result.best_validation_accuracy)}% ({counted(result.steps, 'gradient step')}, "
        f"{duration(result.seconds)})"
    )
    print(checkpoint)
