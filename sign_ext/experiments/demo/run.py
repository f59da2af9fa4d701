"""The whole method once: train Φ, calibrate, transform, retrain, evaluate, and write a page.

Tables 1 and 5 of the paper in miniature: classical augmentation with and without SIGN.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sign_ext import SignTransform
from sign_ext.augment import Augment, classical_for, sign_training_set
from sign_ext.change import describe_change
from sign_ext.data import ImageSet, Splits, fingerprint, load_data
from sign_ext.data.splits import stratified_choice
from sign_ext.environment import machine, versions
from sign_ext.errors import DivergenceError
from sign_ext.evaluation import Evaluation, evaluate
from sign_ext.evaluation.answers import Answers
from sign_ext.experiments.demo.comparison import compare
from sign_ext.experiments.demo.parts import Parts, work_of_a_seed
from sign_ext.experiments.demo.settings import DemoSettings, reason_for_sizes
from sign_ext.files import json_text, write_whole
from sign_ext.formatting import counted, duration, finite, percent
from sign_ext.models import build_model
from sign_ext.progress import Clock, Reporter, Silent
from sign_ext.report.demo_page import write_page
from sign_ext.report.plots import Samples, pick_samples
from sign_ext.training import TrainResult, TrainSettings, save_checkpoint, steps_per_epoch, train


def run_demo(
    settings: DemoSettings, out: str | Path, *, command: str = "", reporter: Reporter | None = None
) -> dict[str, Any]:
    """Run everything and write OUT/index.html, metrics.json, samples.png and three checkpoints.

    Args:
        settings: What to do.
        out: The folder; files of an earlier run are replaced one by one.
        command: The command line, for the page.
        reporter: Where messages and progress go.

    Returns:
        What metrics.json holds.

    Raises:
        DivergenceError: SIGN's iterates are no longer finite; use a smaller step size.

    Example:
        >>> metrics = run_demo(DemoSettings(), "runs/demo")  # doctest: +SKIP
    """
    reporter = reporter or Silent()
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    clock = Clock()
    with clock("reading data"):
        splits = load_data(
            settings.data,
            settings.data_root,
            seed=settings.seed,
            train_size=settings.train_size,
            test_size=settings.test_size,
            image_size=settings.image_size,
        )
    _announce(settings, splits, reporter)
    sizes = len(splits.train), len(splits.validation), len(splits.test)
    parts = Parts(work_of_a_seed(settings, *sizes) * settings.seeds, clock, reporter)
    runs, answers, samples = [], [], None
    for seed in range(settings.seed, settings.seed + settings.seeds):
        of_seed = _SeedRun(settings, splits, seed, parts, reporter)
        runs.append(of_seed.run())
        answers.append(of_seed.answers)
        if samples is None:  # the first seed's networks and images are the ones to keep
            samples = of_seed.samples
            of_seed.save(out)
    comparison = compare([run["evaluation"] for run in runs], len(splits.test), answers)
    metrics = finite(
        {
            "settings": asdict(settings),
            "sizes_because": reason_for_sizes(settings),
            "augmentation": _describe_augment(classical_for(settings.data)),
            "data": _describe_data(splits),
            "runs": runs,
            "comparison": comparison.to_dict(),
            "seconds": clock.seconds,
            "command": command,
            "machine": machine(settings.device),
            "versions": versions(),
        }
    )
    assert samples is not None  # seeds is at least 1
    write_page(out, metrics, samples)
    write_whole(out / "metrics.json", json_text(metrics, indent=2) + "\n")
    reporter.say(comparison.headline)
    reporter.say(comparison.meaning)
    reporter.say(f"{out / 'index.html'} ({duration(clock.total())})")
    return dict(metrics)


class _SeedRun:
    """One seed: the classical network Φ, its transform, and the networks that are compared."""

    def __init__(
        self,
        settings: DemoSettings,
        splits: Splits,
        seed: int,
        parts: Parts,
        reporter: Reporter,
    ) -> None:
        self.settings, self.splits, self.seed = settings, splits, seed
        self.parts, self.reporter = parts, reporter
        self.networks: dict[str, nn.Module] = {}
        self.configs: dict[str, dict[str, Any]] = {}
        self.training: dict[str, TrainResult] = {}
        self.answers: dict[str, Answers] = {}
        self.samples: Samples | None = None

    def run(self) -> dict[str, Any]:
        """Run every step and return its numbers."""
        epochs = self.settings.epochs
        originals = self.splits.train
        self.fit("classical", originals, "training Φ with classical augmentation", epochs)
        calibration, step_size = self.calibrate()
        snapshots, change = self.transform(step_size)
        joined = sign_training_set(originals, snapshots)
        self.fit("sign", joined, "training with SIGN, as many epochs", epochs)
        steps = self.training["sign"].steps
        self.fit(
            "classical_same_steps",
            originals,
            "training classically, as many gradient steps",
            math.ceil(steps / steps_per_epoch(len(originals), self.settings.batch_size)),
            max_steps=steps,
        )
        evaluation = self.evaluate()
        self.answers = {name: result.answers for name, result in evaluation.items()}
        return {
            "seed": self.seed,
            "calibration": calibration,
            "step_size": step_size,
            "change": change,
            "training": {name: result.to_dict() for name, result in self.training.items()},
            "evaluation": {name: result.to_dict() for name, result in evaluation.items()},
        }

    def fit(
        self,
        name: str,
        train_set: ImageSet,
        title: str,
        epochs: int,
        max_steps: int | None = None,
    ) -> None:
        """Train a new network, from the same initial weights for every method."""
        shape, classes = self.splits.image_shape, len(self.splits.class_names)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            network = build_model(self.settings.model, num_classes=classes, image_shape=shape)
        settings = TrainSettings(
            epochs=epochs,
            batch_size=self.settings.batch_size,
            learning_rate=self.settings.learning_rate,
            max_steps=max_steps,
            seed=self.seed,
        )
        with self.parts.running(title) as report:
            result = train(
                network,
                train_set,
                self.splits.validation,
                settings,
                augment=classical_for(self.settings.data),
                device=self.settings.device,
                progress=report,
            )
        self.networks[name], self.training[name] = network, result
        self.configs[name] = {
            "model": {
                "name": self.settings.model,
                "num_classes": classes,
                "image_shape": list(shape),
                "options": {},
            },
            "data": {"name": self.settings.data, "train_size": self.settings.train_size},
            "train": settings.to_dict(),
            "class_names": list(self.splits.class_names),
            "versions": versions(),
        }
        self.reporter.say(
            f"{title}: {counted(result.steps, 'step')}, validation accuracy "
            f"{percent(result.best_validation_accuracy)}% (epoch {result.best_epoch})"
        )

    def calibrate(self) -> tuple[dict[str, Any] | None, float]:
        """Propose a step size on validation images; the proposal uses no labels."""
        if self.settings.step_size is not None:
            return None, self.settings.step_size
        images = self.splits.validation
        count = min(self.settings.calibration_images, len(images))
        chosen = stratified_choice(images.labels.numpy(), count, seed=self.settings.seed)
        images = images.subset(chosen.tolist())
        sign = SignTransform(self.networks["classical"])
        title = "calibrating the step size"
        with self.parts.running(title) as report:
            table = sign.calibrate(
                images.float().to(self.settings.device),
                images.labels.to(self.settings.device),
                steps=max(self.settings.snapshots),
                target_share=self.settings.target_share,
                progress=report,
            )
        self.reporter.say(
            f"step size {table.proposed:g}, from {counted(count, 'validation image')}"
        )
        return table.to_dict(), table.proposed

    def transform(self, step_size: float) -> tuple[dict[int, Tensor], dict[str, Any]]:
        """Transform the training set; all snapshots come from one trajectory."""
        snapshots = self.settings.snapshots
        sign = SignTransform(
            self.networks["classical"],
            max(snapshots),
            step_size=step_size,
            snapshots=snapshots,
        )
        images = self.splits.train.float()
        title = f"transforming {counted(len(images), 'image')}, K = {max(snapshots)}"
        try:
            with self.parts.running(title, "transforming") as report:
                result = sign.transform(images.to(self.settings.device), progress=report)
        except DivergenceError as error:
            raise DivergenceError(
                f"SIGN diverged with seed {self.seed} and step size {step_size:g} ({error}); use "
                f"a smaller --step-size or another --seed",
                error.step,
            ) from error
        assert isinstance(result, dict)
        result = {k: result[k].cpu() for k in sorted(result)}
        self.samples = pick_samples(self.splits.train, result)
        change = {str(k): describe_change(moved, images) for k, moved in result.items()}
        return result, change

    def evaluate(self) -> dict[str, Evaluation]:
        """Evaluate every network on the test set, with the same corrupted images."""
        results: dict[str, Evaluation] = {}
        count = len(self.networks)
        with self.parts.running(f"evaluating {count} networks", "evaluating") as report:

            def of_all(done: int, total: int) -> None:
                report(len(results) * total + done, count * total)

            for name, network in self.networks.items():
                results[name] = evaluate(
                    network,
                    self.splits.test,
                    draws=self.settings.draws,
                    seed=self.settings.seed,
                    progress=of_all,
                )
        return results

    def save(self, out: Path) -> None:
        """Save the networks as OUT/<method>/model.safetensors, for the other commands."""
        for name, network in self.networks.items():
            save_checkpoint(out / name / "model.safetensors", network, self.configs[name])


def _announce(settings: DemoSettings, splits: Splits, reporter: Reporter) -> None:
    reason = reason_for_sizes(settings)
    reporter.say(
        f"{splits.note}: {len(splits.train):,} training, {len(splits.validation):,} validation "
        f"and {counted(len(splits.test), 'test image')}, {counted(settings.epochs, 'epoch')}"
    )
    for line in splits.summary.lines()[1:]:
        reporter.say(line)
    if reason:
        reporter.say(f"(sizes {reason})")


def _describe_augment(augment: Augment) -> dict[str, Any]:
    return {"name": type(augment).__name__, **vars(augment)}


def _describe_data(splits: Splits) -> dict[str, Any]:
    return {
        "name": splits.name,
        "note": splits.note,
        "class_names": list(splits.class_names),
        "image_shape": list(splits.image_shape),
        "train": len(splits.train),
        "validation": len(splits.validation),
        "test": len(splits.test),
        "train_fingerprint": fingerprint(splits.train),
    }
