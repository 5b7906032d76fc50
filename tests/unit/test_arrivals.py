"""Schedules whose instants are known, and the notations that ask for them."""

import itertools
import math

import pytest

from contract.errors import ConfigError
from loadgen.workload.arrivals import (
    Arrivals,
    RateStage,
    parse_rates,
    parse_stages,
    shard,
    trace_dues,
    unit_arrivals,
)


@pytest.mark.parametrize(
    ("rate", "seconds", "arrivals"), [(10, 3, 30), (1.1, 10, 11), (0.29, 100, 29), (0.1, 25, 3)]
)
def test_a_constant_rate_is_a_comb_that_starts_at_zero(rate, seconds, arrivals):
    dues = list(Arrivals((RateStage(rate, seconds),), "constant").dues(0))
    assert dues == pytest.approx([i / rate for i in range(arrivals)])
    assert dues[-1] < seconds


def test_a_constant_ramp_inverts_the_integral_of_the_rate():
    dues = list(Arrivals((RateStage(1, 4, to=3),), "constant").dues(0))
    assert len(dues) == 8
    for number, t in enumerate(dues):
        assert t + t**2 / 4 == pytest.approx(number)


def test_a_ramp_down_to_nothing_and_a_pause_keep_their_place():
    stages = (RateStage(2, 4, to=0), RateStage(0, 10), RateStage(1, 2))
    assert list(Arrivals(stages, "constant").dues(0)) == pytest.approx(
        [0, 4 - 2 * math.sqrt(3), 4 - 2 * math.sqrt(2), 2, 14, 15]
    )


def test_a_schedule_without_end_goes_on():
    dues = Arrivals((RateStage(4),), "constant").dues(0)
    assert list(itertools.islice(dues, 5)) == [0, 0.25, 0.5, 0.75, 1]
    assert Arrivals((RateStage(4),)).expected == math.inf


def test_a_seed_names_its_schedule():
    plan = Arrivals((RateStage(50, 10),))
    assert list(plan.dues(7)) == list(plan.dues(7))
    assert list(plan.dues(7)) != list(plan.dues(8))


def test_a_gamma_schedule_of_shape_one_is_the_poisson_one():
    assert list(itertools.islice(unit_arrivals("gamma", 1.0, 3), 50)) == list(
        itertools.islice(unit_arrivals("poisson", 1.0, 3), 50)
    )


def test_a_trace_replays_its_instants_at_its_speed():
    assert list(trace_dues([0.0, 0.1, 7.25])) == [0.0, 0.1, 7.25]
    assert list(trace_dues([0.0, 1.0, 7.5], speed=2.5)) == [0.0, 0.4, 3.0]
    with pytest.raises(ConfigError, match="trace speed: 0 given"):
        trace_dues([1.0], speed=0)


def test_shards_deal_the_schedule_out_in_turn():
    dues = [0.0, 0.5, 0.7, 2.0, 2.5]
    assert list(shard(dues, 0, 2)) == [(0, 0.0), (2, 0.7), (4, 2.5)]
    assert list(shard(dues, 1, 2)) == [(1, 0.5), (3, 2.0)]
    with pytest.raises(ConfigError, match=r"shard: 2 given, allowed: 0\.\.1"):
        shard(dues, 2, 2)


def test_stages_are_written_as_rate_and_seconds():
    assert parse_stages("5:60, 1..20:120,2.5") == (
        RateStage(5, 60),
        RateStage(1, 120, to=20),
        RateStage(2.5),
    )


@pytest.mark.parametrize(
    "text",
    ["", "5:", "x", "-1:3", "5:0", "1..2", "0", "5:60:2", "1..:3", "1e3:5", "nan:5", "2000000:1",
     "٣:5", "5;6"],
)  # fmt: skip
def test_a_bad_stage_is_refused_in_one_line(text):
    with pytest.raises(ConfigError, match=r"^--rate-stages: '.*allowed") as refused:
        parse_stages(text)
    assert "\n" not in str(refused.value)


def test_rates_of_a_sweep():
    assert parse_rates("2.5") == (2.5,)
    assert parse_rates("1, 2.5,4") == (1, 2.5, 4)
    assert parse_rates("1..8x2") == (1, 2, 4, 8)


@pytest.mark.parametrize("text", ["", "0", "1,1", "inf", "-2", "1,,2", "9999999"])
def test_a_bad_rate_is_refused_with_what_is_allowed(text):
    with pytest.raises(ConfigError, match=r"^--request-rate: '.*allowed"):
        parse_rates(text)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"stages": ()}, "no stage given"),
        ({"stages": (RateStage(1), RateStage(1, 2))}, "can only be the last"),
        ({"pattern": "pareto"}, "'pareto', allowed: constant, poisson, gamma"),
        ({"pattern": "gamma", "shape": 0.0}, "burstiness: 0.0 given"),
        ({"shape": 2.0}, "only with pattern gamma"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(wrong, says):
    with pytest.raises(ConfigError, match=says):
        Arrivals(**{"stages": (RateStage(1, 1),), **wrong})


@pytest.mark.parametrize("text", ["0:1", "0:5,0..0:9", "0.0:1"])
def test_a_rate_of_0_throughout_is_refused(text):
    with pytest.raises(ConfigError, match="rate of 0 throughout, allowed: one above 0"):
        parse_stages(text)
    assert parse_stages(f"{text},1:1")[-1].expected == 1
