"""Open-loop schedules have the rate, the spread and the independence they promise."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from loadgen.workload.arrivals import Arrivals, RateStage, shard, unit_arrivals

SEEDS, GAPS = 200, 2000
LAWS = [("poisson", 1.0), *(("gamma", shape) for shape in (0.1, 0.25, 0.5, 1.0, 2.0, 4.0))]


def gaps(pattern, shape, seed):
    """Gaps after the first arrival, which is a residual gap."""
    return np.diff(list(itertools.islice(unit_arrivals(pattern, shape, seed), GAPS + 1)))


@pytest.fixture(scope="module", params=LAWS, ids=str)
def law(request):
    pattern, shape = request.param
    return shape, [gaps(pattern, shape, seed) for seed in range(SEEDS)]


def test_mean_and_cv_of_every_seed_are_within_four_sigma(law):
    shape, runs = law
    cv = 1 / math.sqrt(shape)
    mean_sigma = cv / math.sqrt(GAPS)
    # Delta method; skewness 2 cv and excess kurtosis 6 cv^2 make it cv sqrt((1 + cv^2) / 2n).
    cv_sigma = cv * math.sqrt((1 + cv**2) / (2 * GAPS))
    for run in runs:
        assert abs(run.mean() - 1) < 4 * mean_sigma
        assert abs(run.std() / run.mean() - cv) < 4 * cv_sigma


def test_no_more_seeds_fail_kolmogorov_smirnov_than_chance_allows(law):
    shape, runs = law
    # Of shape 0.1, 4 % of the gaps are below the resolution of a float64 instant: fold those,
    # in the sample and in the law alike.
    least = 1e-9
    folded = stats.gamma(shape, scale=1 / shape)
    rejected = 0
    for run in runs:
        seen = np.sort(np.maximum(run, least))
        cdf = folded.cdf(seen)
        below = np.searchsorted(seen, seen, side="left") / GAPS
        above = np.searchsorted(seen, seen, side="right") / GAPS
        distance = max((above - cdf).max(), (cdf - below)[seen > least].max())
        rejected += stats.kstwo.sf(distance, GAPS) < 0.01
    assert rejected <= 8


def test_a_gap_says_nothing_about_the_next(law):
    _, runs = law
    scores = [np.corrcoef(run[:-1], run[1:])[0, 1] * math.sqrt(GAPS) for run in runs]
    ranks = [stats.spearmanr(run[:-1], run[1:]).statistic * math.sqrt(GAPS) for run in runs]
    for zs in (scores, ranks):
        assert abs(np.mean(zs)) < 4 / math.sqrt(SEEDS)
    assert max(map(abs, ranks)) < 4


@pytest.mark.parametrize("shape", [0.1, 0.25, 4.0])
def test_a_bursty_schedule_offers_its_rate_from_the_first_second(shape):
    plan = Arrivals((RateStage(1, 5),), "gamma", shape)
    counts = [len(list(plan.dues(seed))) for seed in range(4000)]
    z = (np.mean(counts) - 5) / (np.std(counts) / math.sqrt(len(counts)))
    assert abs(z) < 4


def test_a_poisson_ramp_has_the_expected_count_in_every_part():
    plan = Arrivals((RateStage(2, 10, to=10), RateStage(10, 5), RateStage(10, 10, to=0)))
    dues = np.concatenate([list(plan.dues(seed)) for seed in range(400)])
    seen, _ = np.histogram(dues, bins=[0, 5, 10, 15, 20, 25])
    expected = 400 * np.array([20, 40, 50, 37.5, 12.5])
    assert np.all(np.abs(seen - expected) < 4 * np.sqrt(expected))
    assert plan.expected == 160


stages = st.lists(
    st.builds(
        RateStage,
        st.floats(0, 50),
        st.floats(0.01, 5),
        st.one_of(st.none(), st.floats(0, 50)),
    ),
    min_size=1,
    max_size=5,
).map(tuple)
plans = st.one_of(
    st.builds(Arrivals, stages, st.sampled_from(["constant", "poisson"])),
    st.builds(Arrivals, stages, st.just("gamma"), st.floats(0.1, 4)),
)


@given(plans, st.integers(0, 2**31))
def test_dues_never_decrease_and_stay_inside(plan, seed):
    dues = list(plan.dues(seed))
    assert dues == sorted(dues)
    assert all(0 <= due <= plan.seconds for due in dues)
    if plan.pattern == "constant":
        assert abs(len(dues) - plan.expected) <= 1


@given(plans, st.integers(0, 2**31), st.integers(1, 7))
def test_the_shards_together_are_the_schedule(plan, seed, shards):
    parts = [list(shard(plan.dues(seed), index, shards)) for index in range(shards)]
    together = sorted(itertools.chain(*parts))
    assert together == list(enumerate(plan.dues(seed)))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
