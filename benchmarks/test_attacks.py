"""PGD against torchattacks, integrated gradients against captum, in turns in one process.

Both sides get the same network, images, labels and batch: all 64 images in one batch for PGD; for
integrated gradients as many points at a time as sign_ext takes by itself. `make bench-attacks` runs
this in an environment with both libraries.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from attack_cases import NETWORKS, RANGE, Attack, Work

from sign_ext import InputIteration, integrated_gradients, pgd
from sign_ext.benchmarking.measure import mirrored, on_each

IMAGES = 64
POINTS = 10
BASELINE = RANGE / 2


def work_of(network: str, request: pytest.FixtureRequest, device: torch.device) -> Work:
    """Fewer images where nothing is measured."""
    quick = request.config.getoption("--benchmark-disable")
    work = Work.of(network, request.config.getoption("--images") or (4 if quick else IMAGES))
    return Work(work.model.to(device), work.images.to(device), work.labels.to(device))


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.benchmark(group="PGD")
def test_pgd(
    race: Callable[..., dict[str, float]],
    benchmark: Any,
    request: pytest.FixtureRequest,
    device: torch.device,
    network: str,
) -> None:
    pytest.importorskip("torchattacks", reason="needs torchattacks (make bench-attacks)")
    work = work_of(network, request, device)
    attack = Attack(steps=request.config.getoption("--steps") or 10)

    def torchattacks_of(attack: Attack) -> Callable[[torch.Tensor], torch.Tensor]:
        theirs = attack.theirs(work, random_start=False)
        return lambda images: theirs(images / RANGE, work.labels) * RANGE

    def sign_ext_of(attack: Attack) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda images: pgd(
            work.model,
            images,
            work.labels,
            epsilon=attack.epsilon,
            step_size=attack.step_size,
            steps=attack.steps,
            random_start=False,
            batch_size=len(images),
        )

    # In float32 one step differs in the signs of rounded zeros. Ten steps of a deep network differ
    # in a fifth of the values, from float64 too: `attack_parity.py` compares those in float64.
    one = replace(attack, steps=1)
    difference = (sign_ext_of(one)(work.images) - torchattacks_of(one)(work.images)).abs()
    assert float((difference > 0.01 * attack.epsilon).double().mean()) < 0.01
    sign_ext, torchattacks = sign_ext_of(attack), torchattacks_of(attack)
    inputs = mirrored(work.images)
    facts = {"network": network, "images": len(work.images), "steps": attack.steps}
    medians = race(
        {
            "torchattacks": on_each(torchattacks, inputs),
            "sign_ext": on_each(sign_ext, inputs),
        },
        baseline="torchattacks",
        rounds=5,
        warmup=1,
        backend=backend_of(work, "cross_entropy"),
        **facts,
    )
    assert set(medians) == {"torchattacks", "sign_ext"}


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.benchmark(group="integrated gradients")
def test_integrated_gradients(
    race: Callable[..., dict[str, float]],
    benchmark: Any,
    request: pytest.FixtureRequest,
    device: torch.device,
    network: str,
) -> None:
    attr = pytest.importorskip("captum.attr", reason="needs captum (make bench-attacks)")
    work = work_of(network, request, device)
    batch = InputIteration(work.model, objective="logit").images_at_once(work.images)
    points = request.config.getoption("--steps") or POINTS
    integration = attr.IntegratedGradients(work.model)

    def captum(images: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = integration.attribute(
            images,
            baselines=BASELINE,
            target=work.labels,
            n_steps=points,
            internal_batch_size=max(batch, len(images)),
        )
        return found

    def sign_ext(images: torch.Tensor) -> torch.Tensor:
        return integrated_gradients(
            work.model,
            images,
            work.labels,
            baseline=BASELINE,
            steps=points,
            batch_size=max(batch, len(images)),
        )

    ours, theirs = sign_ext(work.images), captum(work.images)
    assert float((ours - theirs).norm() / theirs.norm()) < 0.02
    inputs = mirrored(work.images)
    medians = race(
        {"captum": on_each(captum, inputs), "sign_ext": on_each(sign_ext, inputs)},
        baseline="captum",
        rounds=5,
        warmup=1,
        network=network,
        images=len(work.images),
        points=points,
        batch=max(batch, len(work.images)),
        backend=backend_of(work, "logit"),
    )
    assert set(medians) == {"captum", "sign_ext"}


def backend_of(work: Work, objective: str) -> str:
    """The backend that runs a step."""
    return InputIteration(work.model, objective=objective).explain(work.images).backend
