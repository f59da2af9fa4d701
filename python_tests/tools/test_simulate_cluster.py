"""The simulated cluster agrees with closed forms."""

from __future__ import annotations

import dataclasses
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"
if str(BENCHMARKS) not in sys.path:
    sys.path.append(str(BENCHMARKS))

from cluster import WASTE, Cluster, HopelessError  # noqa: E402
from cluster_disk import Disk  # noqa: E402
from cluster_run import simulate  # noqa: E402

# All kinds of waste occur, with odd sizes.
ROUGH = Cluster(
    images=1013,
    shard_size=7,
    ranks=9,
    rate=3.0,
    image_bytes=50.0,
    source_bytes=11.0,
    hashed_bytes=5.0,
    start_up=2.0,
    restart=3.0,
    sigma=0.4,
    slow_share=0.2,
    slow_factor=1.7,
    job_interval=60.0,
    rank_interval=400.0,
    bandwidth=1000.0,
    link=400.0,
    hash_rate=700.0,
    shard_seconds=0.05,
    operations=8.0,
    operation_rate=90.0,
    request_seconds=0.002,
    open_rate=5000.0,
    listed=20.0,
    list_seconds=0.04,
    list_rate=300.0,
)


def quiet(**options: float) -> Cluster:
    """A cluster on which only the images take time, unless an option says otherwise."""
    basic = {"images": 100, "shard_size": 10, "ranks": 1, "rate": 2.0}
    return Cluster(**{**basic, **options})


@settings(max_examples=60)
@given(st.integers(1, 400), st.integers(1, 50), st.integers(1, 30), st.floats(0.1, 50))
def test_without_noise_the_time_is_the_busiest_ranks(
    images: int, shard_size: int, ranks: int, rate: float
) -> None:
    of_rank = np.zeros(ranks, dtype=int)
    for image in range(images):
        of_rank[image // shard_size % ranks] += 1
    outcome = simulate(Cluster(images, shard_size, ranks, rate, start_up=4.0))
    assert outcome.seconds == pytest.approx(4.0 + of_rank.max() / rate)
    assert outcome.waste["waiting"] == pytest.approx((of_rank.max() - of_rank).sum() / rate)
    assert outcome.ideal == pytest.approx(images / ranks / rate)


@pytest.mark.parametrize("change", [{}, {"trust": True}, {"ranks": 23}])
def test_the_categories_add_up_to_all_rank_seconds(change: dict[str, float], seed: int) -> None:
    cluster = dataclasses.replace(ROUGH, **change)
    preemptions = 0
    for each in range(seed, seed + 5):
        outcome = simulate(cluster, each)
        total = outcome.ideal * outcome.ranks + sum(outcome.waste.values())
        assert total == pytest.approx(outcome.seconds * outcome.ranks)
        assert outcome.efficiency + sum(outcome.shares.values()) == pytest.approx(1.0)
        assert all(outcome.waste[name] >= 0 for name in WASTE if name != "slowness")
        preemptions += outcome.preemptions
    assert preemptions > 0


def test_the_same_seed_gives_the_same_numbers(seed: int) -> None:
    assert simulate(ROUGH, seed) == simulate(ROUGH, seed)
    assert simulate(ROUGH, seed) != simulate(ROUGH, seed + 1)


def test_a_preemption_loses_half_a_shard_on_average(seed: int) -> None:
    # Pre-emptions are rare and independent of progress. By renewal theory the
    # mean loss is 1/λ − s/(exp(λs) − 1), and a shard takes (exp(λs) − 1)/λ in all.
    s, interval, shards = 5.0, 50.0, 40
    found = [simulate(quiet(images=400, job_interval=interval), seed + i) for i in range(400)]
    hazard = s / interval
    lost = sum(each.waste["lost"] for each in found) / sum(each.preemptions for each in found)
    expected = interval - s / math.expm1(hazard)
    assert expected == pytest.approx(s / 2, rel=0.04)
    # A loss is almost uniform between 0 and s, so its standard deviation is s/√12.
    error = s / math.sqrt(12 * sum(each.preemptions for each in found))
    assert abs(lost - expected) < 5 * error
    times = np.array([each.seconds for each in found])
    mean = shards * interval * math.expm1(hazard)
    assert abs(times.mean() - mean) < 5 * times.std() / math.sqrt(len(times))


def test_restarts_agree_with_renewal_theory(seed: int) -> None:
    # One shard: it needs an unbroken R + s; the mean time to one is (exp(λ(R + s)) − 1)/λ.
    cluster = quiet(images=10, start_up=3.0, rank_interval=8.0)
    found = [simulate(cluster, seed + each).seconds for each in range(2000)]
    expected = 8.0 * math.expm1((3.0 + 5.0) / 8.0)
    assert abs(np.mean(found) - expected) < 5 * np.std(found) / math.sqrt(len(found))


def test_pre_emptions_of_ranks_add_up() -> None:
    assert quiet(ranks=30, rank_interval=60.0, job_interval=10.0).hazard == pytest.approx(0.6)


def test_a_job_without_progress_is_given_up(seed: int) -> None:
    with pytest.raises(HopelessError, match="smaller shards"):
        simulate(quiet(job_interval=1.0, start_up=60.0), seed)


@pytest.mark.parametrize("compute", [0.5, 5.0])
@pytest.mark.parametrize("write", [0.7, 3.0])
def test_one_shard_is_computed_while_another_is_written(compute: float, write: float) -> None:
    shards = 6
    outcome = simulate(quiet(images=60, rate=10 / compute, image_bytes=write, link=10.0))
    expected = compute + (shards - 1) * max(compute, write) + write
    assert outcome.seconds == pytest.approx(expected)
    assert outcome.waste["files"] == pytest.approx(expected - shards * compute)


def test_all_ranks_share_the_bandwidth() -> None:
    # Each rank has one shard; all start to write at once and share one channel.
    outcome = simulate(quiet(ranks=10, image_bytes=3.0, source_bytes=1.0, bandwidth=20.0, link=7.0))
    assert outcome.seconds == pytest.approx(10 / 2.0 + 100 * 4.0 / 20.0)


def test_requests_are_served_one_after_another() -> None:
    outcome = simulate(quiet(ranks=10, operations=8.0, operation_rate=2.0))
    assert outcome.seconds == pytest.approx(5.0 + 10 * 4.0)
    assert outcome.waste["files"] == pytest.approx(sum(4.0 * (i + 1) for i in range(10)))
    assert outcome.waste["waiting"] == pytest.approx(sum(4.0 * (9 - i) for i in range(10)))


def test_each_rank_hashes_and_flushes_its_own_shards() -> None:
    options = {"image_bytes": 20.0, "hashed_bytes": 10.0, "hash_rate": 60.0, "shard_seconds": 0.5}
    assert simulate(quiet(ranks=10, **options)).seconds == pytest.approx(5.0 + 0.5 + 300.0 / 60.0)


def test_listing_at_the_start_and_records_at_the_end() -> None:
    listing = {"listed": 40.0, "list_rate": 100.0}
    records = {"request_seconds": 0.1, "open_rate": 4.0}
    outcome = simulate(quiet(ranks=5, **listing, **records))
    # 5 ranks list 40 files each, open 2 records of their own; rank 0 opens and removes all 10.
    assert outcome.seconds == pytest.approx(2.0 + 10 / 4.0 + 2 * 5.0 + 10 * 2 * 0.1)
    assert outcome.waste["recheck"] == pytest.approx(5 * 10 / 4.0)
    assert outcome.waste["files"] == pytest.approx(5 * (2.0 + 2.0))
    slow = simulate(quiet(ranks=5, request_seconds=3.0, open_rate=4.0, list_seconds=7.0, **listing))
    assert slow.waste["recheck"] == pytest.approx(5 * 2 * 3.0)
    assert slow.waste["files"] == pytest.approx(5 * (40 * 7.0 + 10 * 2 * 3.0))


def test_a_restart_hashes_finished_shards_unless_trusted(seed: int) -> None:
    options = {"image_bytes": 6.0, "hash_rate": 4.0, "job_interval": 150.0}
    checked = [simulate(quiet(**options), seed + each) for each in range(30)]
    trusted = [simulate(quiet(trust=True, **options), seed + each) for each in range(30)]
    assert sum(each.preemptions for each in checked) > 0
    assert sum(each.waste["recheck"] for each in checked) > 0
    assert all(each.waste["recheck"] == 0 for each in trusted)
    for each in checked:
        # 15 s a shard, and at most the 10 shards at every restart.
        assert each.waste["recheck"] <= each.preemptions * 10 * 15.0 + 1e-9


def test_ranks_wait_for_stragglers(seed: int) -> None:
    outcome = simulate(quiet(images=1000, ranks=10, slow_share=0.2, slow_factor=3.0), seed)
    assert outcome.seconds == pytest.approx(3 * 50.0)
    assert outcome.waste["slowness"] == pytest.approx(2 * 100.0)
    assert outcome.waste["waiting"] == pytest.approx(8 * 100.0)


def test_noise_does_not_change_the_mean(seed: int) -> None:
    outcome = simulate(quiet(images=20_000, shard_size=1, sigma=0.5), seed)
    # 20,000 lognormal numbers of mean 1 and variance exp(σ²) − 1.
    error = math.sqrt(math.expm1(0.25) / 20_000)
    assert abs(outcome.seconds / outcome.ideal - 1) < 5 * error


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("rate", (2.0, 3.0, 9.0)),
        ("bandwidth", (300.0, 1000.0, math.inf)),
        ("link", (40.0, 400.0, math.inf)),
        ("hash_rate", (90.0, 700.0, math.inf)),
        ("operation_rate", (30.0, 90.0, math.inf)),
        ("open_rate", (100.0, 5000.0, math.inf)),
        ("slow_factor", (4.0, 1.7, 1.0)),
        ("start_up", (9.0, 2.0, 0.0)),
    ],
)
def test_faster_hardware_takes_no_longer(option: str, values: tuple[float, ...], seed: int) -> None:
    # With two queues in a row, faster service can delay others, so only the option's queue is on.
    calm = {"job_interval": math.inf, "rank_interval": math.inf, "operation_rate": math.inf}
    calm |= {"bandwidth": math.inf} if option == "operation_rate" else {}
    base = dataclasses.replace(ROUGH, **calm)
    seconds = [simulate(dataclasses.replace(base, **{option: v}), seed).seconds for v in values]
    assert seconds == sorted(seconds, reverse=True)
    assert seconds[0] > seconds[-1]


def test_transfers_agree_with_a_plain_loop(rng: np.random.Generator) -> None:
    starts, sizes = rng.uniform(0, 10, 25), rng.uniform(1, 30, 25)
    bandwidth, link = 20.0, 3.0
    disk = Disk(bandwidth, link, answer=0.0)
    for rank, (start, size) in enumerate(zip(starts, sizes, strict=True)):
        disk.write(rank, start, 0.0, size)
    ends = np.full(25, np.nan)
    while (now := disk.next()) < math.inf:
        rank = disk.advance(now)
        if rank is not None:
            ends[rank] = now
    # The definition: at each moment all active transfers have the same speed.
    left, now, expected = sizes.copy(), 0.0, np.full(25, np.nan)
    while np.isnan(expected).any():
        active = (starts <= now) & np.isnan(expected)
        speed = min(link, bandwidth / max(active.sum(), 1))
        later = starts[starts > now]
        step = min((left[active] / speed).min(initial=np.inf), (later - now).min(initial=np.inf))
        left[active] -= speed * step
        now += step
        expected[active & (left < 1e-9)] = now
    np.testing.assert_allclose(ends, expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("option", "value"), [("ranks", 0), ("rate", -1.0), ("start_up", math.nan), ("slow_share", 1.1)]
)
def test_invalid_values_are_rejected(option: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{option}=.*accepted"):
        quiet(**{option: value})
