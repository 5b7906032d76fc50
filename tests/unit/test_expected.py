"""Expected requests, seconds and tokens of stages, against schedules walked and laws drawn."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.config import validate
from loadgen.commands.expected import Replay, per_request, stages_ahead
from loadgen.config import RunConfig
from loadgen.search.find import Grid, Observation, Rules, doubling, most_levels, standing
from loadgen.workload.arrivals import Arrivals, parse_stages
from loadgen.workload.build import source_of


def ahead(**settings):
    config = validate(RunConfig, {"backend": {"kind": "vllm"}, **settings})
    source = source_of(config, 0, None)
    return stages_ahead(config, source, per_request(config, source))


STAGES = st.sampled_from(["5:60", "5:60,5..20:120,20:60", "0..4:10,4", "3", "8..0:30"])


@given(STAGES, st.floats(0, 400))
def test_a_schedule_expects_what_its_comb_brings(text, seconds):
    schedule = Arrivals(parse_stages(text), "constant")
    brought = 0
    for due in schedule.dues(0):
        if due >= seconds:
            break
        brought += 1
    assert brought == pytest.approx(schedule.expected_by(seconds), abs=1 + 1e-6)


@given(STAGES, st.floats(0.001, 1))
def test_seconds_for_requests_undo_requests_by_seconds(text, share):
    schedule = Arrivals(parse_stages(text))
    seconds = share * min(schedule.seconds, 300)
    assert schedule.seconds_for(schedule.expected_by(seconds)) == pytest.approx(seconds, rel=1e-5)


def test_a_replay_counts_its_instants():
    replay = Replay((0.0, 0.5, 0.5, 2.0))
    assert [replay.expected_by(t) for t in (0.0, 0.5, 0.6, 1.9, 2.0, 9.0)] == [0, 1, 3, 3, 4, 4]
    assert [replay.seconds_for(n) for n in (0, 1, 2, 4, 9)] == [0.0, 0.0, 0.5, 2.0, 2.0]


def test_a_timed_closed_loop_knows_its_seconds_not_its_requests():
    (stage,) = ahead(agents=4, duration=20, warmup_duration=5, think=2)
    assert (stage.seconds, stage.rounds, stage.requests) == (25, 1, None)


def test_thinking_takes_its_known_time():
    (stage,) = ahead(agents=4, request_count=20, warmup_requests=8, think="1..3")
    assert stage.seconds == (2 + 5) * 2


def test_an_open_loop_ends_with_its_window_or_with_its_schedule():
    one, two = ahead(request_rate="2,4", request_count=20, warmup_requests=10)
    assert (one.seconds, one.requests, two.seconds) == (15, 30, 7.5)
    (short,) = ahead(rate_stages="5:60", duration=10, warmup_duration=5)
    assert (short.seconds, short.requests) == (15, 75)
    (endless,) = ahead(rate_stages="5:60,5")
    assert (endless.seconds, endless.requests) == (math.inf, None)


def test_a_conversation_sends_all_that_was_said():
    config = validate(
        RunConfig, {"backend": {"kind": "vllm"}, "turns": "1..4", "isl": "20..40", "osl": 10}
    )
    source = source_of(config, 0, None)
    asked = [source.request(1, 0, seq) for seq in range(4000)]
    words = sum(len(request.prompt.split()) for request in asked) / len(asked)
    assert per_request(config, source).prompt_tokens == pytest.approx(words, rel=0.02)


@pytest.mark.parametrize(("start", "last"), [(1, 1), (1, 20), (7, 100), (64, 64), (3, 5)])
def test_no_search_takes_more_levels_than_was_said(start, last):
    grid, rules = Grid(start, last), Rules(0.9, repeats=1)

    def driven(answer):
        history = []
        while (place := standing(history, grid, rules).place) is not None:
            history.append(Observation(100 if place <= answer else 0, 100))
        return len(history)

    assert max(map(driven, range(last + 1))) <= most_levels(grid)
    assert driven(last) == len(doubling(grid))
