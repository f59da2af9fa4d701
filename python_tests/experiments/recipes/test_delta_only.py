"""The finding of δ alone, from accuracies made up here."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from sign_ext.experiments.recipes import delta_only, published
from sign_ext.experiments.scale import NetworkSettings, Task
from sign_ext.experiments.stages.networks import Network, Train
from sign_ext.experiments.stages.sources import Source
from sign_ext.experiments.stages.stage import Outcome
from sign_ext.training import TrainSettings


def outcomes(*accuracies):
    numbers = [
        {"accuracy": each, "per_class": dict.fromkeys("abcd", each), "images": 50}
        for each in accuracies
    ]
    stage = Train(Source("digits"), 40, Network("basic_cnn"), TrainSettings())
    return [Outcome(stage, Path(), each, 0.0) for each in numbers]


def summarize(network):
    planner = SimpleNamespace(
        options=lambda name, **defaults: {**defaults, "networks": [network]},
        network=lambda name: NetworkSettings("Net", "basic_cnn", 1),
        task=lambda name: Task("digits"),
        source=lambda task: task,
        sources=SimpleNamespace(read=lambda source: SimpleNamespace(image_shape=(3, 8, 8))),
        image_count=lambda task, part: 7,
        learning_rate=lambda name: 1e-3,
    )
    found = {f"{network}/delta": outcomes(0.3, 0.4), f"{network}/phi": outcomes(0.7, 0.9)}
    return delta_only.summarize(planner, found)


def test_the_finding_has_both_accuracies_the_papers_and_chance():
    (sentence,) = summarize("mobilenet_v2").findings
    assert published.DELTA_ONLY["mobilenet_v2"] == 0.462
    assert sentence == (
        "Net: 35.0% from δ alone (the paper: 46.2%), 25.0% by chance; "
        "Φ itself has 80.0% on the images."
    )


def test_a_network_that_the_paper_lacks_has_no_number_of_the_paper():
    experiment = summarize("basic_cnn")
    assert "the paper" not in experiment.findings[0]
    assert experiment.tables[0].rows[0].cells["accuracy"].paper is None
