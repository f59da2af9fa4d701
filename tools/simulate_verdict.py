#!/usr/bin/env python3
"""Error and power of the rule that judges two methods, by simulation.

    python tools/simulate_verdict.py --trials 2000 --out docs/verdict_rule.md

Two methods are trained with S seeds each and measured on one test set of N images. Of a pair of
networks, the share "discordance" of the images is right for one and wrong for the other. These are
among the images that are hard at all, 2.5 times as many; a hard image leans to one of the methods,
the same way for all seeds, so that a quarter of the variance over images is shared between seeds.
The true difference of a seed's networks is the methods' difference plus a normal deviate, the
seed's. Images and seeds are drawn anew for each trial.

Each trial is judged by `evaluation.crossed` and `evaluation.decide`, as reports are.
"""

from __future__ import annotations

import argparse
import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sign_ext.environment import commit
from sign_ext.evaluation.crossed import Crossed, crossed, decide
from sign_ext.evaluation.paired import paired
from sign_ext.evaluation.samples import Samples, hierarchical_bootstrap
from sign_ext.files import write_whole

IMAGES = 10_000
MARGIN = 0.004
HARD = 2.5  # hard images for each discordant one
LEAN = 0.8  # of a hard image to a method: 1 always, 0 not at all
SEEDS, DISCORDANCES, DEVIATIONS = (3, 5, 10), (0.08, 0.12, 0.25), (0.003, 0.004)
EFFECTS = (0.005, 0.0087)  # the second is the largest gain that the paper's Table 1 reports
BEYOND = 0.008  # a seed deviation twice as large as assumed, for how the rule breaks


@dataclass(frozen=True)
class Case:
    """What is simulated.

    Attributes:
        seeds: S.
        discordance: share of images on which a pair of networks differs in being right.
        deviation: standard deviation over seeds of the true difference.
        effect: the methods' true difference.
        images: N.
    """

    seeds: int
    discordance: float
    deviation: float
    effect: float = 0.0
    images: int = IMAGES

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """Draw right (method) − right (baseline), float32 (hard images, S); 0 on all others."""
        hard = rng.binomial(self.images, HARD * self.discordance)
        lean = np.where(rng.random(hard) < 0.5, LEAN, -LEAN)
        true = self.effect + self.deviation * rng.standard_normal(self.seeds)
        better = np.clip((1 + lean[:, None] + true / self.discordance) / 2, 0, 1)
        chance = rng.random((hard, self.seeds), dtype=np.float32)
        won = chance < better / HARD
        lost = ~won & (chance < 1 / HARD)
        return won.astype(np.float32) - lost.astype(np.float32)


def judge(drawn: np.ndarray, images: int) -> Crossed:
    """Return what the rule estimates of the hard images' differences; on others they are 0."""
    drawn = drawn.astype(np.float64)
    differences = drawn.sum(axis=0) / images
    covariance = (drawn.T @ drawn / images - np.outer(differences, differences)) / (images - 1)
    return crossed(differences.tolist(), covariance)


def bootstrap(drawn: np.ndarray, images: int) -> tuple[float, float]:
    """Return the interval of the hierarchical bootstrap."""
    whole = np.zeros((images, drawn.shape[1]))
    whole[: len(drawn)] = drawn
    zeros = Samples("mean", np.zeros(images))
    method = [Samples("mean", column) for column in whole.T]
    return hierarchical_bootstrap(
        whole.mean(axis=0).tolist(), method, [zeros] * len(method), replicates=1000
    )


@dataclass(frozen=True)
class Found:
    """Shares of trials.

    Attributes:
        different: judged "better" or "worse".
        better: judged "better".
        equal: judged "no difference".
        by_t: in which the paired t-test over seeds alone finds a difference.
        by_bootstrap: in which the bootstrap alone does; NaN if it was not run.
        detectable: mean of the smallest detectable difference, of the first trials.
    """

    different: float
    better: float
    equal: float
    by_t: float
    by_bootstrap: float
    detectable: float


def simulate(case: Case, trials: int, rng: np.random.Generator, bootstraps: int = 0) -> Found:
    """Judge many drawn studies.

    Args:
        case: what is simulated.
        trials: how many.
        rng: draws them.
        bootstraps: in how many of them the bootstrap is run beside the rule.
    """
    verdicts, by_t, by_bootstrap, detectable = [], [], [], []
    for trial in range(trials):
        drawn = case.draw(rng)
        found = judge(drawn, case.images)
        equivalence = found.equivalence(MARGIN)
        verdicts.append(decide(found.difference, found.p_value, equivalence))
        if trial < max(bootstraps, 20):
            t = paired((drawn.sum(axis=0) / case.images).tolist(), [0.0] * case.seeds)
            by_t.append(t.p_value is not None and t.p_value < 0.05)
            detectable.append(found.detectable() or 0.0)
        if trial < bootstraps:
            low, high = bootstrap(drawn, case.images)
            by_bootstrap.append(low > 0 or high < 0)
    return Found(
        different=float(np.mean([each in ("better", "worse") for each in verdicts])),
        better=verdicts.count("better") / trials,
        equal=verdicts.count("no difference") / trials,
        by_t=float(np.mean(by_t)),
        by_bootstrap=float(np.mean(by_bootstrap)) if by_bootstrap else float("nan"),
        detectable=float(np.mean(detectable)),
    )


HEADS = (
    "seeds",
    "discordance",
    "seed deviation",
    "wrongly “better” or “worse”",
    *(f"power at {100 * effect:.2g} points" for effect in EFFECTS),
    "“no difference”, rightly",
    f"“no difference” at {100 * MARGIN:g} points, wrongly",
    "smallest detectable",
    "t over seeds alone, wrong",
    "bootstrap alone, wrong",
)


def table(trials: int, bootstraps: int, seed: int) -> str:
    """Simulate every case, and return a Markdown table."""
    lines = [f"| {' | '.join(HEADS)} |", f"|{'---:|' * len(HEADS)}"]
    rng = np.random.default_rng(seed)
    cases = list(itertools.product(SEEDS, DISCORDANCES, DEVIATIONS))
    cases += [(seeds, DISCORDANCES[0], BEYOND) for seeds in SEEDS]
    for seeds, discordance, deviation in cases:
        null = simulate(Case(seeds, discordance, deviation), trials, rng, bootstraps)
        powers = [
            simulate(Case(seeds, discordance, deviation, effect), trials // 2, rng).better
            for effect in EFFECTS
        ]
        edge = simulate(Case(seeds, discordance, deviation, MARGIN), trials // 2, rng)
        shares = [null.different, *powers, null.equal, edge.equal]
        cells = [
            str(seeds),
            f"{discordance:.0%}",
            f"{100 * deviation:g} points",
            *(f"{100 * share:.1f}%" for share in shares),
            f"{100 * null.detectable:.2f} points",
            f"{100 * null.by_t:.1f}%",
            f"{100 * null.by_bootstrap:.1f}%",
        ]
        lines.append(f"| {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    return "\n".join(lines) + "\n"


def page(found: str, trials: int, bootstraps: int, seed: int) -> str:
    """Say what the table shows, and how it was made."""
    assert __doc__ is not None
    title, _, rest = __doc__.partition("\n\n")
    about = rest.partition("\n\n")[2].strip()
    command = f"--trials {trials} --bootstraps {bootstraps} --seed {seed}"
    return f"""# {title}

{about}

N = {IMAGES:,}, and the margin of equality is {100 * MARGIN:g} points. Shares are of {trials:,}
trials without a true difference, of half as many with one, and of {bootstraps:,} for the last two
columns: the paired t-test over seeds, which takes the test set as given, and the interval of the
bootstrap over seeds and images. The last {len(SEEDS)} rows have seeds that differ twice as much as
assumed.

{found}
Made by `python tools/simulate_verdict.py {command}` at commit {commit() or "(none)"}.
"""


def main() -> None:
    """Parse the command line, simulate, and write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=int, default=2000, help="studies a case (default 2000)")
    parser.add_argument(
        "--bootstraps", type=int, default=400, help="of them, with bootstrap and t (default 400)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the random numbers")
    parser.add_argument("--out", type=Path, help="a Markdown file; without it, only printed")
    options = parser.parse_args()
    print(f"| {' | '.join(HEADS)} |\n|{'---:|' * len(HEADS)}")
    text = table(options.trials, options.bootstraps, options.seed)
    if options.out is not None:
        write_whole(options.out, page(text, options.trials, options.bootstraps, options.seed))


if __name__ == "__main__":
    main()
