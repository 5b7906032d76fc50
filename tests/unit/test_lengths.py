"""Lengths follow the law they are asked for, and the notations name it."""

import numpy as np
import pytest
from scipy import stats

from contract.errors import ConfigError
from loadgen.workload.lengths import parse_lengths

DRAWS = 20_000


def drawn(text):
    lengths = parse_lengths(text)
    return np.array([lengths.draw(1, "isl", n) for n in range(DRAWS)])


def test_a_number_is_that_length():
    assert set(drawn("128")) == {128}
    assert parse_lengths("128").mean == 128


def test_a_range_is_uniform_with_both_ends():
    seen = drawn("3..7")
    counts = [int((seen == k).sum()) for k in range(3, 8)]
    assert sum(counts) == DRAWS
    assert stats.chisquare(counts).pvalue > 0.001


@pytest.mark.parametrize(
    ("text", "law"),
    [
        ("normal(256,64)", stats.truncnorm((0.5 - 256) / 64, np.inf, 256, 64)),
        ("normal(100,50)[50..120]", stats.truncnorm(-50.5 / 50, 20.5 / 50, 100, 50)),
        ("lognormal(256,0.5)", stats.lognorm(0.5, scale=256)),
    ],
)
def test_normal_and_lognormal_lengths_follow_their_truncated_law(text, law):
    seen = drawn(text)
    # Lengths are whole tokens: spread them over their token before comparing with the density.
    spread = seen + np.random.default_rng(0).uniform(-0.5, 0.5, DRAWS)
    assert stats.kstest(spread, law.cdf).pvalue > 0.001
    assert parse_lengths(text).mean == pytest.approx(law.mean(), rel=0.005)
    assert seen.mean() == pytest.approx(law.mean(), rel=0.02)


def test_bounds_hold_and_gather_no_heap():
    seen = drawn("lognormal(100,1)[50..200]")
    assert seen.min() == 50
    assert seen.max() == 200
    assert (seen == 200).sum() < 3 * (seen == 190).sum() + 30


def test_a_length_depends_on_seed_purpose_and_number_alone():
    lengths = parse_lengths("1..1000000")
    assert lengths.draw(1, "isl", 7) == lengths.draw(1, "isl", 7)
    others = {lengths.draw(1, "osl", 7), lengths.draw(2, "isl", 7), lengths.draw(1, "isl", 8)}
    assert lengths.draw(1, "isl", 7) not in others
    assert len(others) == 3


@pytest.mark.parametrize(
    "text",
    ["", "0", "-5", "7..3", "0..9", "x", "normal(256)", "normal(256,0)", "normal(0,5)", "1e3",
     "poisson(3)", "normal(nan,3)", "lognormal(256,0.5)[9..3]", "99999999", "normal(100,1)[1..20]",
     "١٢", "1.5"],
)  # fmt: skip
def test_a_bad_length_is_refused_in_one_line(text):
    with pytest.raises(ConfigError) as refused:
        parse_lengths(text, "--osl")
    assert str(refused.value).startswith(f"--osl: '{text}'")
    assert "\n" not in str(refused.value)


def test_a_prompt_has_room_for_its_nonce():
    with pytest.raises(ConfigError, match=r"leaves 5\.\.10000000 tokens"):
        parse_lengths("4", least=5)
    assert parse_lengths("normal(6,5)", least=5).least == 5
