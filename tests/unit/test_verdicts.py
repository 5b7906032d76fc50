from dataclasses import replace

import pytest

from loadgen.figures.durations import Durations
from loadgen.figures.verdicts import Evidence, verdicts

CLEAN = Evidence(
    agents=2,
    seconds=10.0,
    in_flight=2.0,
    completions=100,
    mean_stay=0.2,
    latencies=[0.2, 0.201, 0.199, 0.2] * 25,
    send_lags=[0.0002] * 100,
    loop_lags=Durations([1000] * 1000),
    token_pairs=[(32, 32)] * 100,
    cached_tokens=0,
    failures=0,
)


def failed(evidence):
    return {v.name for v in verdicts(evidence) if v.checked and not v.ok}


def test_a_clean_stage_raises_no_doubt_and_every_check_could_be_made():
    assert failed(CLEAN) == set()
    assert all(v.checked for v in verdicts(CLEAN))


@pytest.mark.parametrize(
    ("change", "doubt"),
    [
        ({"loop_lags": Durations([11_000] * 1000)}, "loop_lag"),
        ({"send_lags": [0.011] * 100}, "send_lag"),
        ({"mean_stay": 0.19, "in_flight": 2.0 * 1.06}, "little"),
        ({"token_pairs": [(32, 30)] * 100}, "counts"),
        ({"latencies": [0.1 + i / 200 for i in range(100)]}, "stationary"),
        ({"cached_tokens": 1}, "uncached"),
        ({"failures": 2}, "failures"),
        ({"completions": 0, "mean_stay": None}, "failures"),
    ],
)
def test_one_fault_raises_exactly_its_doubt(change, doubt):
    assert failed(replace(CLEAN, **change)) == {doubt}


def test_limits_are_relative_to_what_they_disturb():
    slow = replace(CLEAN, latencies=[10.0] * 100, mean_stay=0.2)
    assert (
        failed(replace(slow, loop_lags=Durations([400_000] * 1000), send_lags=[0.4] * 100)) == set()
    )
    assert failed(replace(slow, loop_lags=Durations([600_000] * 1000))) == {"loop_lag"}


def test_what_cannot_be_checked_is_said_not_judged():
    bare = replace(CLEAN, token_pairs=[], latencies=[0.2] * 9, completions=9, mean_stay=0.2)
    unchecked = {v.name for v in verdicts(bare) if not v.checked}
    assert unchecked == {"counts", "little", "stationary"}
    assert failed(bare) == set()
