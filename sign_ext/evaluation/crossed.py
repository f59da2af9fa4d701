"""Two methods over the same seeds and the same test images: what both kinds of chance allow.

Seed s gives the difference d_s = θ_s(method) − θ_s(baseline) of two networks. Another seed would
give another difference, and so would another test set; but all seeds share one test set, so more
seeds do not average that part away. Studies in which several readers judge the same cases have this
design, and their analysis is used: Obuchowski and Rockette (Communications in Statistics –
Simulation and Computation 24, 1995) with the degrees of freedom of Hillis (Statistics in Medicine
26, 2007).

With S seeds, s² the sample variance of the differences, σ² the variance over test images of one
seed's difference, and c the covariance of two seeds' (`evaluation.samples` estimates both):

    Var(mean d) = (σ_seeds² + σ² − c)/S + c,    estimated by V = A + C,
    A = max(s², σ² − c)/S,    C = max(c, 0)

because s² estimates σ_seeds² + σ² − c, of which a few seeds can by chance show less than the
images alone bring. mean d / √V is taken for Student's t with (V/A)² (S − 1) degrees of freedom:
S − 1 where seeds are all that varies (the paired t-test over seeds), and as many as a normal
distribution where images are. The lower bound of A is an addition to Hillis' procedure: without
it, three seeds would be wrong in 6 to 8% of the cases instead of 5%. `make simulate-verdict` shows
error and power.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sign_ext.evaluation.paired import LEVEL, POWER, smallest_detectable

Verdict = Literal["better", "worse", "no difference", "undecided"]
FREEDOM = 1e6  # as many degrees of freedom as a normal distribution


@dataclass(frozen=True)
class Crossed:
    """The mean difference of two methods, with the errors from seeds and from images.

    Attributes:
        difference: mean over seeds.
        seed_error: √A, which has all that differs between seeds; None for one seed.
        image_error: √C, what all seeds share; for one seed, σ, the standard error over images of
            the difference of its two networks.
        freedom: degrees of freedom; None for one seed.
        seeds: S.
    """

    difference: float
    seed_error: float | None
    image_error: float
    freedom: float | None
    seeds: int

    @property
    def error(self) -> float:
        """√V, the standard error of the difference; for one seed, from the images alone."""
        return math.hypot(self.seed_error or 0.0, self.image_error)

    @property
    def p_value(self) -> float | None:
        """Of the two-sided test of no difference; None for one seed, or without any spread."""
        if self.freedom is None or not self.error:
            return None
        return 2 * _upper_tail(abs(self.difference) / self.error, self.freedom)

    def interval(self, level: float = LEVEL) -> tuple[float, float] | None:
        """The 1 − level confidence interval; None where there is no p-value."""
        if self.freedom is None or not self.error:
            return None
        from scipy.special import stdtrit

        half = float(stdtrit(self.freedom, 1 - level / 2)) * self.error
        return self.difference - half, self.difference + half

    def equivalence(self, margin: float) -> float | None:
        """The p-value of equivalence: of the claim that the true difference lies within ±margin.

        Two one-sided tests (Schuirmann, Journal of Pharmacokinetics and Biopharmaceutics 15, 1987),
        of a difference of −margin or less and of +margin or more; the larger p-value counts. It is
        below 0.05 exactly if the 90% interval lies within the margin.

        Args:
            margin: the smallest difference that matters, above 0.

        Raises:
            ValueError: a margin of 0 or less.
        """
        if not 0 < margin < math.inf:
            raise ValueError(f"margin={margin}; accepted: above 0, in the differences' unit.")
        if self.freedom is None or not self.error:
            return None
        return _upper_tail((margin - abs(self.difference)) / self.error, self.freedom)

    def detectable(self, power: float = POWER) -> float | None:
        """The smallest true difference that the test finds with this power at the 5% level."""
        if self.freedom is None or not self.error:
            return None
        return smallest_detectable(self.error, self.freedom, power=power)


def crossed(differences: Sequence[float], covariance: np.ndarray) -> Crossed:
    """Estimate a mean difference and its errors from seeds and from images.

    Args:
        differences: d_s, one a seed.
        covariance: float (S, S), of the d_s over test images, the seeds being what they are.

    Raises:
        ValueError: no seeds, or a covariance of another shape.

    Example:
        >>> found = crossed([0.010, 0.006, 0.011], np.diag([9e-6, 9e-6, 9e-6]) + 4e-6)
        >>> round(found.difference, 4), round(found.error, 4), round(found.freedom, 1)
        (0.009, 0.0026, 10.9)
    """
    d = np.asarray(differences, dtype=np.float64)
    seeds = len(d)
    if seeds == 0 or covariance.shape != (seeds, seeds):
        raise ValueError(
            f"{seeds} differences and a covariance of shape {covariance.shape}; accepted: one "
            "difference a seed, and a row and a column for each."
        )
    if seeds == 1:
        return Crossed(float(d[0]), None, math.sqrt(max(float(covariance[0, 0]), 0.0)), None, 1)
    each = float(np.diag(covariance).mean())
    between = float(covariance[~np.eye(seeds, dtype=bool)].mean())
    shared = max(between, 0.0)
    spread = float(d.var(ddof=1))
    # Differences that are equal as decimal numbers can differ in their last bits.
    if spread <= (1e-12 * float(np.abs(d).max())) ** 2:
        spread = 0.0
    by_seeds = max(spread, each - between, 0.0) / seeds
    freedom = FREEDOM
    if by_seeds > 0:
        freedom = min(FREEDOM, ((by_seeds + shared) / by_seeds) ** 2 * (seeds - 1))
    return Crossed(float(d.mean()), math.sqrt(by_seeds), math.sqrt(shared), freedom, seeds)


def decide(
    difference: float,
    p_value: float | None,
    equivalence: float | None = None,
    *,
    higher_is_better: bool = True,
) -> Verdict:
    """Judge a difference: the whole rule, in one place.

    A difference whose p-value is below 0.05 is "better" or "worse". Otherwise there is "no
    difference" if the p-value of equivalence is below 0.05, and where neither holds the data do not
    decide. Each of the two statements is wrong in at most 5% of the cases in which it could be.

    Args:
        difference: method − baseline.
        p_value: of no difference, adjusted for the family; None where there was no test.
        equivalence: of a difference beyond the margin, likewise; None without a margin.
        higher_is_better: False for uncertainties, calibration errors and the like.

    Example:
        >>> decide(0.02, 0.03), decide(0.001, 0.6, 0.01), decide(0.001, 0.6, 0.2)
        ('better', 'no difference', 'undecided')
    """
    if p_value is not None and p_value < LEVEL:
        return "better" if (difference > 0) == higher_is_better else "worse"
    if equivalence is not None and equivalence < LEVEL:
        return "no difference"
    return "undecided"


def _upper_tail(t: float, freedom: float) -> float:
    from scipy.special import stdtr

    return float(stdtr(freedom, -t))
