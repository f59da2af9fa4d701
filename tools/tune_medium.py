"""Choose the settings of the scale `medium` that the paper leaves open, on validation images.

Training images are those of the tuning seed, which no table has, and no test image is looked at.
Prints a line of JSON for each training as it ends; the choices stand in configs/medium.yaml, the
lines in docs/results/medium/tuning.jsonl. In bfloat16, where that is faster: a setting is chosen,
not a result made.

    python tools/tune_medium.py --data-root DIR --network basic_cnn
"""

from __future__ import annotations

import argparse
import itertools
import json
import time

import torch

from sign_ext import SignTransform
from sign_ext.augment import build_augment, sign_training_set
from sign_ext.change import describe_change
from sign_ext.data import ImageSet, Splits, load_data
from sign_ext.experiments.stages.networks import PHI_SEEDS, TUNING_SEED
from sign_ext.models import build_model
from sign_ext.training import TrainSettings, train

SNAPSHOTS = (50, 100)
CALIBRATION_IMAGES = 64


def main() -> None:
    """Tune one network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-root", required=True)
    parser.add_argument("--network", default="basic_cnn")
    parser.add_argument("--options", type=json.loads, default={})
    parser.add_argument("--precision", default="bfloat16")
    parser.add_argument("--train-size", type=int, default=5000)
    parser.add_argument("--rates", type=float, nargs="+", default=[0.001, 0.002])
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--rate-epochs", type=int, default=30)
    parser.add_argument("--phi-epochs", type=int, default=50)
    parser.add_argument("--shares", type=float, nargs="*", default=[0.02, 0.05, 0.1])
    parser.add_argument("--share-images", type=int, default=1000)
    parser.add_argument("--checkpoints", type=int, default=4)
    parser.add_argument("--share-epochs", type=int, default=12)
    given = parser.parse_args()
    torch.set_num_threads(1)
    data = load_data(
        "cifar10", given.data_root, seed=TUNING_SEED, train_size=given.train_size, test_size=10
    )
    scores = {}
    for choice in itertools.product(given.rates, given.batch_sizes):
        settings = _settings(given, given.rate_epochs, choice, TUNING_SEED)
        scores[choice], _ = _train(given, "rate", data, data.train, settings)
    choice = max(scores, key=lambda each: scores[each])
    settings = _settings(given, given.phi_epochs, choice, TUNING_SEED + PHI_SEEDS)
    _, phi = _train(given, "phi", data, data.train, settings)
    if not given.shares:
        return
    some = data.train.subset(range(given.share_images))
    for share in given.shares:
        calibration = data.validation.subset(range(CALIBRATION_IMAGES)).float()
        step = SignTransform(phi).calibrate(calibration, steps=max(SNAPSHOTS), target_share=share)
        sign = SignTransform(phi, max(SNAPSHOTS), step_size=step.proposed, snapshots=SNAPSHOTS)
        versions = sign.transform(some.float())
        assert isinstance(versions, dict)
        change = describe_change(versions[max(SNAPSHOTS)], some.images)["rms"]
        settings = _settings(given, given.share_epochs, choice, TUNING_SEED)
        joined = sign_training_set(some, versions)
        told = {"share": share, "step_size": step.proposed, "rms": change}
        _train(given, "share", data, joined, settings, **told)


def _settings(
    given: argparse.Namespace, epochs: int, choice: tuple[float, int], seed: int
) -> TrainSettings:
    return TrainSettings(
        epochs=epochs,
        learning_rate=choice[0],
        batch_size=choice[1],
        schedule="cosine",
        precision=given.precision,
        seed=seed,
        checkpoints=min(epochs, given.checkpoints),
    )


def _train(
    given: argparse.Namespace,
    purpose: str,
    data: Splits,
    images: ImageSet,
    settings: TrainSettings,
    **told: float,
) -> tuple[float, torch.nn.Module]:
    """Train on images with classical augmentation, and print what validation says."""
    torch.manual_seed(settings.seed)
    model = build_model(
        given.network,
        num_classes=len(data.class_names),
        image_shape=data.image_shape,
        **given.options,
    )
    began = time.process_time()
    result = train(model, images, data.validation, settings, augment=build_augment("classical"))
    best = max(float(row["validation_accuracy"]) for row in result.history)
    line = {
        "for": purpose,
        "network": given.network,
        **given.options,
        "learning_rate": settings.learning_rate,
        "batch_size": settings.batch_size,
        "images": len(images),
        "epochs": settings.epochs,
        **told,
        "validation_accuracy": best,
        "history": [round(float(row["validation_accuracy"]), 4) for row in result.history],
        "processor_seconds": round(time.process_time() - began),
    }
    print(json.dumps(line), flush=True)
    return best, model


if __name__ == "__main__":
    main()
