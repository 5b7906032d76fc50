"""Think times are written and drawn as the law they name."""

import re
import statistics

import pytest
from scipy import stats

from contract.errors import ConfigError
from loadgen.workload.think import ThinkTime, parse_think


@pytest.mark.parametrize(
    ("text", "think", "mean"),
    [
        ("0", ThinkTime(), 0),
        ("2.5", ThinkTime("fixed", 2.5), 2.5),
        ("1..5", ThinkTime("uniform", 1, 5), 3),
        ("exponential(2)", ThinkTime("exponential", 2), 2),
        ("lognormal(2, 0.5)", ThinkTime("lognormal", 2, 0.5), 2 * 2.718281828**0.125),
    ],
)
def test_think_times_are_written_and_drawn(text, think, mean):
    assert parse_think(text) == think
    assert think.mean == pytest.approx(mean)
    seen = [think.draw(0, agent, turn) for agent in range(100) for turn in range(100)]
    assert statistics.fmean(seen) == pytest.approx(mean, rel=0.05)


def test_exponential_and_lognormal_pauses_follow_their_law():
    exponential = [ThinkTime("exponential", 2).draw(0, n) for n in range(5000)]
    assert stats.kstest(exponential, stats.expon(scale=2).cdf).pvalue > 0.001
    lognormal = [ThinkTime("lognormal", 2, 0.5).draw(0, n) for n in range(5000)]
    assert stats.kstest(lognormal, stats.lognorm(0.5, scale=2).cdf).pvalue > 0.001


@pytest.mark.parametrize(
    "text", ["", "-1", "5..1", "nan", "exp(2)", "99999", "1e3", "2s", "lognormal(2,9)"]
)
def test_a_bad_think_time_is_refused(text):
    with pytest.raises(ConfigError, match=f"^--think-time: '{re.escape(text)}'"):
        parse_think(text)
