"""Values of each image: statistics, covariances, bootstrap by enumeration; texts and files."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from sign_ext.evaluation import Answers, Samples, hierarchical_bootstrap, image_covariance, ranked

NAN = math.nan


def mean(*values: float) -> Samples:
    return Samples("mean", np.array(values))


def test_the_mean_is_over_the_images_that_count() -> None:
    assert mean(1, NAN, 0, 1, NAN).value() == pytest.approx(2 / 3)
    assert math.isnan(mean(NAN, NAN).value())
    assert Samples("replicates", np.array([0.2, 0.4])).value() == pytest.approx(0.3)


@pytest.mark.parametrize(
    "samples",
    [
        mean(1, 0, 0, 1, 1, 0, 1),
        mean(2.5, NAN, 0.5, 1, NAN, 4, 3),
        ranked(np.array([3.0, 1, 2, 2, 5, 4, 2]), np.array([1, 0, 1, 0, 1, 1, 0], dtype=bool)),
    ],
)
def test_the_influence_is_the_derivative_by_an_images_weight(samples: Samples) -> None:
    # θ of a test set with weights 1 + h on image i, written out with weights.
    v, h = samples.values, 1e-6

    def weighted(w: np.ndarray) -> float:
        if samples.statistic == "mean":
            keep = ~np.isnan(v)
            return float((w * np.where(keep, v, 0)).sum() / (w * keep).sum())
        pos, neg = v > 0, v < 0
        wins = (v[pos][:, None] > -v[neg]) + 0.5 * (v[pos][:, None] == -v[neg])
        return float((w[pos][:, None] * w[neg] * wins).sum() / (w[pos].sum() * w[neg].sum()))

    n = len(v)
    assert weighted(np.ones(n)) == pytest.approx(samples.value())
    derivative = [
        (weighted(np.ones(n) + h * unit) - weighted(np.ones(n) - h * unit)) / (2 * h)
        for unit in np.eye(n)
    ]
    np.testing.assert_allclose(samples.influence() / n, derivative, atol=1e-8)
    assert samples.influence().sum() == pytest.approx(0, abs=1e-12)


def test_the_covariance_of_means_is_that_of_all_draws_of_images() -> None:
    # Every one of the 4⁴ test sets that the bootstrap could draw from four images, two seeds.
    a = np.array([[1.0, 0, 1, 1], [0, 1, 1, 0]])
    b = np.array([[0.0, 0, 1, 0], [1, 1, 0, 0]])
    draws = np.array(list(itertools.product(range(4), repeat=4)))
    means = (a - b)[:, draws].mean(axis=2)  # (seeds, draws)
    exact = np.cov(means, ddof=0) * 4 / 3  # the bootstrap's variance is n/(n − 1) too small
    found = image_covariance([Samples("mean", x) for x in a], [Samples("mean", x) for x in b])
    np.testing.assert_allclose(found, exact, atol=1e-12)


def test_a_share_of_some_images_has_the_error_of_a_simulation(rng: np.random.Generator) -> None:
    shares, estimates = [], []
    for _ in range(2000):
        counts, yes = rng.random(150) < 0.6, rng.random(150) < 0.2
        samples = Samples("mean", np.where(counts, yes.astype(float), NAN))
        shares.append(samples.value())
        zero = [Samples("mean", np.zeros(150))]
        estimates.append(float(image_covariance([samples], zero)[0, 0]))
    assert np.mean(estimates) == pytest.approx(np.var(shares), rel=0.1)


def test_replicates_are_paired() -> None:
    rng = np.random.default_rng(3)
    common = rng.normal(size=500)
    noise = 0.1 * rng.normal(size=500)
    a, b = Samples("replicates", common + noise), Samples("replicates", common)
    assert image_covariance([a], [b])[0, 0] == pytest.approx(noise.var(ddof=1))


def test_the_bootstrap_is_that_over_all_draws_of_seeds_and_images() -> None:
    a = np.array([[1.0, 0, 1], [0, 1, 1]])
    b = np.zeros((2, 3))
    of_seeds, of_images = (itertools.product(range(n), repeat=n) for n in (2, 3))
    draws = itertools.product(of_seeds, of_images)
    exact = [a[np.ix_(seeds, images)].mean() for seeds, images in draws]
    samples = [Samples("mean", row) for row in a]
    zeros = [Samples("mean", row) for row in b]
    for level in (0.1, 0.3, 0.6):
        low, high = hierarchical_bootstrap(
            a.mean(axis=1).tolist(), samples, zeros, replicates=40_000, level=level
        )
        assert np.mean(np.array(exact) < low - 1e-9) <= level / 2 + 0.01
        assert np.mean(np.array(exact) <= low + 1e-9) >= level / 2 - 0.01
        assert np.mean(np.array(exact) > high + 1e-9) <= level / 2 + 0.01
        assert np.mean(np.array(exact) >= high - 1e-9) >= level / 2 - 0.01
    again = hierarchical_bootstrap(a.mean(axis=1).tolist(), samples, zeros)
    assert again == hierarchical_bootstrap(a.mean(axis=1).tolist(), samples, zeros)


def test_one_seed_of_replicates_gives_their_quantiles(rng: np.random.Generator) -> None:
    values = rng.normal(size=400)
    samples, zeros = Samples("replicates", values), Samples("replicates", np.zeros(400))
    low, high = hierarchical_bootstrap([0.0], [samples], [zeros])
    assert (low, high) == pytest.approx(tuple(np.quantile(values, [0.025, 0.975])))


@pytest.mark.parametrize(
    ("samples", "exact"),
    [
        (mean(*([1, 0, 0, 1, 1] * 33)), True),
        (mean(1, NAN, 0, 0.1, 0.7), True),
        (ranked(np.arange(600.0) % 41, np.arange(600) % 5 == 0), True),
        (ranked(np.arange(600.0) * 1.7, np.arange(600) % 5 == 0), True),
        (Samples("mean", np.random.default_rng(0).lognormal(size=999)), False),
    ],
)
def test_texts_give_the_values_back(samples: Samples, exact: bool) -> None:
    text = samples.to_text()
    again = Samples.from_text(text)
    assert again.statistic == samples.statistic
    np.testing.assert_allclose(again.values, samples.values, rtol=0 if exact else 2**-11)
    if np.isin(samples.values, (0, 1)).all():
        assert len(text) < len(samples.values) / 4  # bits


def test_other_texts_are_refused() -> None:
    good = mean(1, 0, 1, 0, 0, 1, 1, 1, 0).to_text()
    for bad in (
        "",
        good.replace("mean", "median"),
        good.replace(":9:", ":90:"),
        good.replace("bits", "f4"),
        good[:-3],
        good.replace(":9:", ":900000000000:"),
    ):
        with pytest.raises(ValueError, match="reproduce again"):
            Samples.from_text(bad)


def test_networks_of_other_images_are_refused() -> None:
    with pytest.raises(ValueError, match="the same images"):
        image_covariance([mean(1, 0)], [mean(1, 0, 1)])
    positive = np.array([True, False, True, False])
    a, b = ranked(np.arange(4.0), positive), ranked(np.arange(4.0), ~positive)
    with pytest.raises(ValueError, match="different images"):
        image_covariance([a], [b])


def test_answers_come_back_from_their_file(tmp_path, rng: np.random.Generator) -> None:
    n = 21
    answers = Answers(
        {
            "correct": rng.random(n) < 0.7,
            "probability": rng.random(n).astype(np.float32),
            "sigma": rng.random(n).astype(np.float32),
            "noise": rng.integers(0, 5, n).astype(np.uint8),
            "test_score": rng.normal(size=n),
            "test_positive": rng.random(n) < 0.5,
            "train_silhouette": rng.normal(size=7).astype(np.float32),
        },
        draws=4,
    )
    answers.write(tmp_path / "a.safetensors")
    again = Answers.read(tmp_path / "a.safetensors")
    assert again.draws == 4
    assert again.values.keys() == answers.values.keys()
    for name, values in answers.values.items():
        assert again.values[name].dtype == values.dtype
        np.testing.assert_array_equal(again.values[name], values)
    v = answers.values
    low = v["correct"] & (v["probability"] <= 0.5)
    assert again.samples("correct").value() == pytest.approx(v["correct"].mean())
    assert again.samples("noise").value() == pytest.approx(v["noise"].mean() / 4)
    assert again.samples("low").value() == pytest.approx(low.sum() / v["correct"].sum())
    assert again.samples("low_sigma").value() == pytest.approx(v["sigma"][low].mean())
    assert again.samples("test").statistic == "auc"
    assert again.samples("train_silhouette").statistic == "replicates"
    assert again.samples("validation") is again.samples("pixels_off") is None
    (tmp_path / "b.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes()[:-5])
    with pytest.raises(ValueError, match="will be run again"):
        Answers.read(tmp_path / "b.safetensors")
