"""Adversarial images and attributions of sign_ext against those of torchattacks and captum.

    attack_parity.py --out benchmarks/results/attack_parity.json

Both libraries get the same network, images, labels and random numbers, once in float64 and once in
float32. Two values count as equal if they differ by less than a millionth of ε, or of the image's
largest attribution; in float32, a hundredth. At least 99% must be.

Where a gradient is zero up to rounding, rounding decides its sign, and an L∞ step goes either way.
From then on the two attacks are at different images, and small differences grow. So an attack is
compared twice: as a whole, from the same start; and step by step, each of our steps from where
torchattacks was. In float64 both must agree, and what differs must have a gradient of zero; in
float32, where also the kinks of ReLU and max pooling decide, what counts is the comparison step by
step. `make parity-attacks` runs this in an environment of its own.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from attack_cases import NETWORKS, RANGE, Attack, Work
from torch import Tensor

from sign_ext import integrated_gradients, iterate_inputs, smoothgrad
from sign_ext.environment import commit, machine_details
from sign_ext.noise import draw_each

# Of ε, or of an image's largest attribution: what differs less is equal. In float32 the gradient of
# a network with ReLU jumps where rounding puts an input of one on the other side of 0.
EQUAL = {torch.float64: 1e-6, torch.float32: 1e-2}
WANTED = 0.99  # of all values
ZERO = 1e-6  # of an image's largest gradient: below, its sign is rounding's
IMAGES = 8
SEED = 3
ATTACKS = (
    Attack(),
    Attack(targeted=True),
    Attack("l2", epsilon=128.0, step_size=32.0),
)
INTEGRATION_POINTS = 20
NOISY_COPIES = 8
SIGMA = 25.0


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        network: its name.
        check: what is compared.
        library: with what.
        dtype: of the network.
        values: compared.
        equal: the share of them that is equal.
        largest: difference, in the unit that `EQUAL` is a share of.
        steps_equal: of an attack, the share that is equal step by step; None of attributions.
        flips: of L∞, how many are not, step by step: a step went the other way.
        flipped_gradient: the largest gradient of these, as a share of the image's largest.
    """

    network: str
    check: str
    library: str
    dtype: str
    values: int
    equal: float
    largest: float
    steps_equal: float | None = None
    flips: int | None = None
    flipped_gradient: float | None = None

    @property
    def passed(self) -> bool:
        """Whether enough values are equal, and no step differs where there is a gradient."""
        if self.steps_equal is None:
            return self.equal >= WANTED
        if self.dtype == "float32":
            return self.steps_equal >= WANTED
        zero = (self.flipped_gradient or 0.0) <= ZERO
        return zero and min(self.equal, self.steps_equal) >= WANTED

    def __str__(self) -> str:
        """One line."""
        steps = ""
        if self.steps_equal is not None:
            steps = f"; step by step {self.steps_equal:.4%}"
        if self.flips:
            steps += f", {self.flips} went the other way"
        return (
            f"{'ok ' if self.passed else 'NOT'} {self.network:<11} {self.dtype} {self.check:<20} "
            f"{self.equal:9.4%} equal, largest difference {self.largest:.1e}{steps}"
        )


def attack_row(network: str, attack: Attack, dtype: torch.dtype) -> Row:
    """PGD from the same random start, and its first step alone."""
    work = Work.of(network, IMAGES, dtype)
    labels = (work.labels + 1) % 10 if attack.targeted else work.labels
    images01 = work.images / RANGE

    theirs = attack.theirs(work, random_start=True, note=True)
    theirs.model.visited.clear()
    torch.manual_seed(SEED)
    moved = theirs(images01, labels) * RANGE
    # Where torchattacks was before each step, and after the last.
    visited = [*(each * RANGE for each in theirs.model.visited), moved]
    start = attack.start(images01, SEED) * RANGE

    def ours(start: Tensor, steps: int) -> Tensor:
        moved = iterate_inputs(
            work.model,
            work.images,
            steps,
            objective="cross_entropy",
            labels=labels,
            update="sign" if attack.norm == "linf" else "l2",
            step_size=-attack.step_size if attack.targeted else attack.step_size,
            project=(attack.norm, attack.epsilon),
            clamp=(0, RANGE),
            start=start,
        )
        assert isinstance(moved, Tensor)
        return moved

    flips, values, flipped_gradient = 0, 0, 0.0
    for before, after in itertools.pairwise(visited):
        differs = (ours(before, 1) - after).abs() > EQUAL[dtype] * attack.epsilon
        values += differs.numel()
        if bool(differs.any()):
            gradient = gradient_at(work, before, labels).abs()
            share = gradient / gradient.flatten(1).amax(1).view(-1, 1, 1, 1)
            flips += int(differs.sum())
            flipped_gradient = max(flipped_gradient, float(share[differs].max()))
    return row(
        network,
        attack.label,
        "torchattacks",
        dtype,
        (ours(start, attack.steps) - moved).abs() / attack.epsilon,
        steps_equal=1 - flips / values,
        flips=flips if attack.norm == "linf" else None,
        flipped_gradient=flipped_gradient if attack.norm == "linf" else None,
    )


def gradient_at(work: Work, images: Tensor, labels: Tensor) -> Tensor:
    """The gradient of the cross-entropy by autograd, in float64."""
    x = images.detach().double().requires_grad_()
    logits = copy.deepcopy(work.model).double()(x)
    loss = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, x)
    return gradient


def integrated_row(network: str, dtype: torch.dtype) -> Row:
    """Integrated gradients from a grey baseline, by the same quadrature."""
    from captum.attr import IntegratedGradients

    work = Work.of(network, IMAGES, dtype)
    baseline = RANGE / 2
    ours = integrated_gradients(
        work.model, work.images, work.labels, baseline=baseline, steps=INTEGRATION_POINTS
    )
    theirs = IntegratedGradients(work.model).attribute(
        work.images,
        baselines=baseline,
        target=work.labels,
        n_steps=INTEGRATION_POINTS,
        internal_batch_size=IMAGES * INTEGRATION_POINTS,
    )
    return row(network, "integrated gradients", "captum", dtype, relative(ours, theirs))


def smooth_row(network: str, dtype: torch.dtype) -> Row:
    """SmoothGrad with the same noise."""
    from captum.attr import NoiseTunnel, Saliency

    work = Work.of(network, IMAGES, dtype)
    ours = smoothgrad(
        work.model,
        work.images,
        work.labels,
        sigma=SIGMA,
        samples=NOISY_COPIES,
        seed=SEED,
    )
    # An image's copies are beside one another in captum's batch.
    numbers = [(copy, image) for image in range(IMAGES) for copy in range(NOISY_COPIES)]
    noise = draw_each(
        work.images.shape[1:], SEED, numbers, lambda each, g: each.normal_(generator=g)
    ).to(work.images)

    def same_noise(mean: float, std: Tensor) -> Tensor:
        return mean + std.to(noise) * noise

    with mock.patch("torch.normal", same_noise):
        theirs = NoiseTunnel(Saliency(work.model)).attribute(
            work.images,
            nt_type="smoothgrad",
            nt_samples=NOISY_COPIES,
            stdevs=SIGMA,
            target=work.labels,
            abs=False,
        )
    return row(network, "SmoothGrad", "captum", dtype, relative(ours, theirs))


def relative(ours: Tensor, theirs: Tensor) -> Tensor:
    """Differences as shares of each image's largest attribution."""
    return (ours - theirs).abs() / theirs.abs().flatten(1).amax(1).view(-1, 1, 1, 1)


def row(
    network: str,
    check: str,
    library: str,
    dtype: torch.dtype,
    difference: Tensor,
    **steps: Any,
) -> Row:
    """Count equal values."""
    return Row(
        network,
        check,
        library,
        str(dtype).removeprefix("torch."),
        difference.numel(),
        float((difference <= EQUAL[dtype]).double().mean()),
        float(difference.max()),
        **steps,
    )


def comparisons(networks: list[str]) -> Iterator[Row]:
    """All of them, one after the other."""
    checks: list[Callable[[str, torch.dtype], Row]] = [
        *(lambda n, d, attack=attack: attack_row(n, attack, d) for attack in ATTACKS),
        integrated_row,
        smooth_row,
    ]
    for network in networks:
        for dtype in (torch.float64, torch.float32):
            for check in checks:
                yield check(network, dtype)


def main() -> int:
    """Compare, print, write; the exit code is 1 if a comparison fails."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--only", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # about units: the networks are not trained
    found = []
    for each in comparisons(arguments.only):
        found.append(each)
        print(each, flush=True)
    failed = sum(not each.passed for each in found)
    libraries: dict[str, Any] = {name: version(name) for name in ("torchattacks", "captum")}
    print(f"{len(found) - failed} of {len(found)} comparisons agree; {libraries}")
    if arguments.out:
        sys.path.append(str(Path(__file__).resolve().parent.parent / "tools"))
        from files import write_whole

        result = {
            "machine": machine_details(),
            "commit": commit(),
            "libraries": libraries,
            "equal": {str(dtype).removeprefix("torch."): each for dtype, each in EQUAL.items()},
            "wanted": WANTED,
            "images": IMAGES,
            "rows": [asdict(each) for each in found],
        }
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(arguments.out, json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
