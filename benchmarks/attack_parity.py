"""Adversarial images and attributions of sign_ext against those of torchattacks and captum.

    attack_parity.py --out benchmarks/results/attack_parity.json

Both libraries get the same network, images, labels and random numbers, each in a float64 and in a
float32 network. Two values count as equal if they differ by less than a thousandth of what the
attack may change, or of the largest attribution of the image. At least 99% must be: where a
gradient is zero up to rounding, its sign is decided by rounding, and an L∞ step goes either way.
`make parity-attacks` runs this in an environment of its own.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from attack_cases import NETWORKS, RANGE, Attack, Work
from torch import Tensor

from sign_ext import integrated_gradients, iterate_inputs, smoothgrad
from sign_ext.environment import machine_details

EQUAL = 1e-3  # of what an attack may change, or of an image's largest attribution
WANTED = 0.99  # of all values
IMAGES = 16
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
        sign_flips: values whose first step went the other way; None where no step is a sign.
        flipped_gradient: the largest gradient among those, as a share of the image's largest.
    """

    network: str
    check: str
    library: str
    dtype: str
    values: int
    equal: float
    largest: float
    sign_flips: int | None = None
    flipped_gradient: float | None = None

    @property
    def passed(self) -> bool:
        """Whether enough values are equal, and no sign differs where there is a gradient."""
        return self.equal >= WANTED and (self.flipped_gradient or 0.0) <= EQUAL

    def __str__(self) -> str:
        """One line."""
        flips = ""
        if self.sign_flips is not None:
            flips = f", {self.sign_flips} sign flips in the first step"
            if self.sign_flips:
                flips += f" (gradients ≤ {self.flipped_gradient:.1e} of the largest)"
        return (
            f"{'ok ' if self.passed else 'NOT'} {self.network:<12} {self.dtype:<8} "
            f"{self.check:<24} {self.equal:8.4%} equal, largest difference {self.largest:.1e}{flips}"
        )


def attack_row(network: str, attack: Attack, dtype: torch.dtype) -> Row:
    """PGD from the same random start, and its first step alone."""
    work = Work.of(network, IMAGES, dtype)
    labels = (work.labels + 1) % 10 if attack.targeted else work.labels
    images01 = work.images / RANGE

    theirs = attack.theirs(work, random_start=True)
    start = attack.start(images01, SEED) * RANGE

    def ours(steps: int) -> Tensor:
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

    def of_torchattacks(steps: int) -> Tensor:
        theirs.steps = steps
        torch.manual_seed(SEED)
        moved: Tensor = theirs(images01, labels) * RANGE
        return moved

    difference = (ours(attack.steps) - of_torchattacks(attack.steps)).abs() / attack.epsilon
    flips = largest = None
    if attack.norm == "linf":
        flipped = (ours(1) - of_torchattacks(1)).abs() > EQUAL * attack.epsilon
        gradient = gradient_at(work, start, labels).abs()
        share = gradient / gradient.flatten(1).amax(1).view(-1, 1, 1, 1)
        flips, largest = int(flipped.sum()), float(share[flipped].max()) if flipped.any() else 0.0
    return row(network, attack.label, "torchattacks", dtype, difference, flips, largest)


def gradient_at(work: Work, images: Tensor, labels: Tensor) -> Tensor:
    """The gradient of the cross-entropy by autograd."""
    x = images.detach().requires_grad_()
    loss = torch.nn.functional.cross_entropy(work.model(x), labels, reduction="sum")
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
        generator=torch.Generator().manual_seed(SEED),
    )
    with noise_in_order(dtype):
        torch.manual_seed(SEED)
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
    flips: int | None = None,
    largest: float | None = None,
) -> Row:
    """Count equal values."""
    return Row(
        network,
        check,
        library,
        str(dtype).removeprefix("torch."),
        difference.numel(),
        float((difference <= EQUAL).double().mean()),
        float(difference.max()),
        flips,
        largest,
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
            "libraries": libraries,
            "equal": EQUAL,
            "wanted": WANTED,
            "images": IMAGES,
            "rows": [asdict(each) for each in found],
        }
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(arguments.out, json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
