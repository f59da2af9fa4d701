"""The demo at toy size: its steps, its files, and that its numbers are consistent."""

from __future__ import annotations

import dataclasses
import json
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from sign_ext.augment import Classical
from sign_ext.cli import main
from sign_ext.data import load_data
from sign_ext.errors import DivergenceError
from sign_ext.evaluation import evaluate
from sign_ext.experiments.demo import parts as demo_parts
from sign_ext.experiments.demo import run as demo_run
from sign_ext.experiments.demo.parts import (
    CALIBRATED_SIZES,
    EVALUATED,
    TRAINED,
    work_of_a_seed,
)
from sign_ext.experiments.demo.settings import DemoSettings, for_data, reason_for_sizes
from sign_ext.training import load_checkpoint

TINY = DemoSettings(
    train_size=30,
    test_size=20,
    image_size=12,
    epochs=1,
    batch_size=16,
    snapshots=(1, 3),
    calibration_images=10,
    draws=2,
    seeds=2,
)


class Listener:
    """A reporter that remembers."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.bars: dict[str, tuple[int, int]] = {}
        self.titles: list[str] = []

    def say(self, message: str, /) -> None:
        self.said.append(message)

    @contextmanager
    def progress(self, description: str, /) -> Any:
        self.titles.append(description)
        yield lambda done, total: self.bars.__setitem__(description, (done, total))


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], Listener]:
    out = tmp_path_factory.mktemp("demo")
    (out / "metrics.json").write_text("of an earlier run")
    listener = Listener()
    metrics = demo_run.run_demo(TINY, out, command="sign-ext demo --tiny", reporter=listener)
    return out, metrics, listener


def test_files(done: tuple[Path, dict[str, Any], Listener]) -> None:
    out, metrics, _ = done
    assert json.loads((out / "metrics.json").read_text()) == metrics
    page = (out / "index.html").read_text()
    assert "sign-ext demo --tiny" in page
    assert metrics["comparison"]["headline"] in page
    assert (out / "samples.png").read_bytes().startswith(b"\x89PNG")
    assert not list(out.rglob("*.tmp"))


def test_protocols_have_the_steps_they_promise(
    done: tuple[Path, dict[str, Any], Listener],
) -> None:
    _, metrics, _ = done
    for run in metrics["runs"]:
        steps = {name: result["steps"] for name, result in run["training"].items()}
        # 30 originals in batches of 16: 2 steps an epoch; with two versions 90 images: 6 steps.
        assert steps == {"classical": 2, "sign": 6, "classical_same_steps": 6}
        assert set(run["change"]) == {"1", "3"}
        assert 0 < run["change"]["1"]["rms"] < run["change"]["3"]["rms"]
        assert run["step_size"] == run["calibration"]["proposed"]
    assert [run["seed"] for run in metrics["runs"]] == [0, 1]


def test_checkpoints_give_the_reported_accuracies(
    done: tuple[Path, dict[str, Any], Listener],
) -> None:
    out, metrics, _ = done
    test = load_data("drawings", test_size=20, train_size=30, image_size=12).test
    for name, reported in metrics["runs"][0]["evaluation"].items():
        model, config = load_checkpoint(out / name)
        assert evaluate(model, test, draws=2, seed=0).to_dict() == reported
        assert config["data"]["name"] == "drawings"


def test_methods_start_from_the_same_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    starts, sets, augments = [], [], []
    real = demo_run.train

    def spy(model: Any, train_set: Any, *args: Any, **kwargs: Any) -> Any:
        starts.append([p.detach().clone() for p in model.parameters()])
        sets.append(train_set)
        augments.append(kwargs["augment"])
        return real(model, train_set, *args, **kwargs)

    monkeypatch.setattr(demo_run, "train", spy)
    splits = load_data("drawings", train_size=30, test_size=20, image_size=12)
    settings = dataclasses.replace(TINY, seeds=1, step_size=30.0)
    reporter = demo_run.Silent()
    parts = demo_run.Parts([1.0] * 5, demo_run.Clock(), reporter)
    torch.manual_seed(99)
    state = torch.get_rng_state()
    result = demo_run._SeedRun(settings, splits, 0, parts, reporter).run()
    assert torch.equal(torch.get_rng_state(), state)
    assert result["calibration"] is None
    assert result["step_size"] == 30
    assert len(starts) == 3
    for other in starts[1:]:
        assert all(torch.equal(a, b) for a, b in zip(starts[0], other, strict=True))
    assert [len(s) for s in sets] == [30, 90, 30]
    assert torch.equal(sets[1].images[:30], splits.train.float())
    assert augments == [Classical()] * 3


def test_progress_and_messages(done: tuple[Path, dict[str, Any], Listener]) -> None:
    out, metrics, listener = done
    assert all(now == total for now, total in listener.bars.values())
    # Two seeds of six parts, each of which is announced with its number.
    numbers = [title.partition(": ")[0].partition(",")[0] for title in listener.titles]
    assert numbers == [f"part {i + 1} of 12" for i in range(12)]
    assert listener.titles[0] == "part 1 of 12: training Φ with classical augmentation"
    assert all("left for all: " in title for title in listener.titles[1:])
    assert "transforming 30 images, K = 3" in listener.titles[2]
    assert sum(line.startswith("all 12 parts take about") for line in listener.said) == 1
    assert listener.said[-3] == metrics["comparison"]["headline"]
    assert listener.said[-2] == metrics["comparison"]["meaning"]
    assert str(out / "index.html") in listener.said[-1]


def test_divergence_is_reported_with_what_to_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["demo", "--train-size", "20", "--test-size", "10", "--image-size", "12"]
    arguments += ["--epochs", "1", "--snapshots", "2", "--step-size", "1e38"]

    def diverge(*args: Any, **kwargs: Any) -> Any:
        raise DivergenceError("δ is not finite in step 2", 2)

    monkeypatch.setattr(demo_run.SignTransform, "transform", diverge)
    assert main([*arguments, "--out", str(tmp_path)]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("sign-ext: error: SIGN diverged with seed 0")
    assert "--step-size" in error
    assert not (tmp_path / "index.html").exists()


def test_command_prints_json_and_records_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "demo"
    arguments = ["demo", "--train-size", "20", "--test-size", "10", "--image-size", "12"]
    arguments += ["--epochs", "1", "--snapshots", "1", "2", "--step-size", "20", "--draws", "1"]
    assert main([*arguments, "--out", str(out), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    metrics = json.loads(Path(summary["metrics"]).read_text())
    assert summary["comparison"] == metrics["comparison"]
    assert metrics["command"].startswith("sign-ext demo --")
    assert "--snapshots 1 2" in metrics["command"]
    assert metrics["settings"]["train_size"] == 20
    assert Path(summary["page"]).is_file()


def test_the_forecast_is_the_first_part_over_its_share_of_the_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr(demo_parts.time, "monotonic", lambda: now[0])
    listener = Listener()
    parts = demo_run.Parts([2.0, 3.0, 1.0], demo_run.Clock(), listener)
    with parts.running("training") as report:
        now[0] = 7.0  # the first step is slow, and is left out of the rate
        report(1, 11)
        assert listener.said == []
        now[0] = 19.0  # two of ten in 12 s: 60 s for a third of the work
        report(3, 11)
        assert listener.said == ["all 3 parts take about 3 min 20 s"]
        now[0] = 60.0
        report(11, 11)
    with parts.running("more"):
        now[0] = 140.0
    with parts.running("the rest"):
        pass
    assert len(listener.said) == 1
    # 60 s for 2 of 6, then 140 s for 5 of 6.
    assert list(listener.bars) == ["part 1 of 3: training"]
    assert listener.titles[1:] == [
        "part 2 of 3, 2 min 00 s left for all: more",
        "part 3 of 3, 30 s left for all: the rest",
    ]


def test_a_silent_first_part_is_timed_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(demo_parts.time, "monotonic", lambda: now[0])
    listener = Listener()
    with demo_run.Parts([1.0, 1.0], demo_run.Clock(), listener).running("training"):
        now[0] = 60.0
    assert listener.said == ["all 2 parts take about 2 min 00 s"]


def test_the_work_of_the_parts_follows_the_settings() -> None:
    settings = DemoSettings(
        epochs=2, snapshots=(3, 5), step_size=None, calibration_images=9, draws=4
    )
    work = work_of_a_seed(settings, 10, 7, 6)
    assert work[3] - work[0] == 2 * (2 * 10 * TRAINED)  # two versions more, the same validations
    assert work[4] == 3 * work[0]  # as many steps, in three times as many epochs
    assert work[1] / work[2] == CALIBRATED_SIZES * 7 / 10
    assert work[5] == 3 * 6 * (1 + 2 * 4) * EVALUATED
    given = dataclasses.replace(settings, step_size=1.0)
    assert work_of_a_seed(given, 10, 7, 6) == [work[0], *work[2:]]


def test_sizes_suit_the_data() -> None:
    assert for_data("drawings") == DemoSettings()
    assert for_data("digits").train_size == 400
    assert for_data("cifar10", data_root="x").train_size == 5000
    assert for_data("cifar10", train_size=700, epochs=None).train_size == 700
    assert for_data("some/folder").train_size is None
    assert "two minutes" in reason_for_sizes(for_data("drawings", seed=4))
    assert reason_for_sizes(for_data("drawings", train_size=500)) == ""
    assert reason_for_sizes(for_data("some/folder")) == ""
