"""The verdict on simulated queues whose load is known."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.figures.saturation import saturation, saturation_verdict

WARMUP, SEEDS = 100, 60


def queue(load, arrivals, seed, service=lambda rng: 1.0):
    """(dues, endeds, start, end) of a FIFO server of mean service 1 under Poisson arrivals."""
    rng = random.Random(seed)
    due = free = 0.0
    dues, endeds = [], []
    for _ in range(WARMUP + arrivals):
        due += rng.expovariate(load)
        free = max(due, free) + service(rng)
        dues.append(due)
        endeds.append(free)
    return dues, endeds, dues[WARMUP], dues[-1] + 1e-9


def found(load, arrivals, **service):
    """In how many of the seeds the window counts as saturated."""
    windows = (queue(load, arrivals, seed, **service) for seed in range(SEEDS))
    return sum(saturation(*window).saturated for window in windows)


@pytest.mark.parametrize("arrivals", [300, 1000])
def test_md1_below_capacity_is_not_called_saturated(arrivals):
    assert found(0.5, arrivals) == 0
    assert found(0.8, arrivals) <= 3


@pytest.mark.parametrize("arrivals", [300, 1000])
def test_md1_above_capacity_is(arrivals):
    assert found(1.1, arrivals) >= 0.6 * SEEDS
    assert found(1.3, arrivals) >= 0.95 * SEEDS
    assert found(2.0, arrivals) == SEEDS


def test_heavy_tailed_service_raises_few_false_alarms():
    def heavy(rng):
        return rng.lognormvariate(-1.125, 1.5)  # mean 1, CV 2.9

    assert found(0.5, 300, service=heavy) <= 3
    assert found(0.8, 300, service=heavy) <= 0.15 * SEEDS


def test_a_window_with_few_arrivals_is_not_judged():
    window = queue(2.0, 150, seed=0)
    assert saturation(*window) is None
    verdict = saturation_verdict(*window)
    assert not verdict.checked
    assert "fewer than 200 arrivals" in verdict.says


def test_the_verdict_says_what_grew():
    # One arrival a second, each served 1.5 s after the one before it.
    dues = [float(i) for i in range(400)]
    endeds = [1.5 * (i + 1) for i in range(400)]
    seen = saturation(dues, endeds, 0.0, 400.0)
    assert seen.arrivals == 400
    assert seen.completions == 266
    assert seen.growth == pytest.approx(134 / 400)
    # In flight at t: t - t / 1.5 = t / 3, so 50/3, 150/3, ... on average, half a request more
    # since a request is in flight from its due on.
    assert seen.backlogs == pytest.approx([(50 + 100 * q) / 3 + 1.0 for q in range(4)], abs=0.5)
    assert seen.latencies == pytest.approx([1.5 + 0.5 * (49.5 + 100 * q) for q in range(4)])
    assert seen.votes == 3
    verdict = saturation_verdict(dues, endeds, 0.0, 400.0)
    assert (verdict.name, verdict.ok, verdict.checked) == ("saturation", False, True)
    assert verdict.says.startswith("266 completed of 400 due, in flight 17.")


def test_a_steady_server_has_no_vote():
    dues = [0.1 * i for i in range(1000)]
    seen = saturation(dues, [due + 0.5 for due in dues], 10.0, 90.0)
    assert seen.votes == 0
    assert seen.backlogs == pytest.approx([5.0] * 4)
    assert saturation_verdict(dues, [due + 0.5 for due in dues], 10.0, 90.0).ok


@given(st.sampled_from([0.5, 0.9, 1.1, 1.5]), st.integers(0, 1000), st.integers(-6, 6))
def test_the_verdict_knows_neither_the_unit_of_time_nor_the_order_of_records(load, seed, power):
    dues, endeds, start, end = queue(load, 200, seed)
    plain = saturation(dues, endeds, start, end)
    unit = 2.0**power
    pairs = [(due * unit, ended * unit) for due, ended in zip(dues, endeds, strict=True)]
    random.Random(seed).shuffle(pairs)
    scaled = saturation(*zip(*pairs, strict=True), start * unit, end * unit)
    assert (scaled.arrivals, scaled.votes) == (plain.arrivals, plain.votes)
    assert scaled.growth == plain.growth
