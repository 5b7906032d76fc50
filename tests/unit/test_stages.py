"""When a target counts as gone: not for a failure, not for a gap, but for the end of a window."""

import errno
from dataclasses import replace

import pytest

from contract.records import RequestRecord
from loadgen.figures.stage_end import gone
from loadgen.figures.tally import tallies
from loadgen.wire.connect import refusal


def tally_of(outcomes, phase="measured"):
    """One measured request per outcome, a second apart from second 1 on."""
    return tallies(
        RequestRecord("r", 1, 0, seq, 1, phase, outcome, due=seq, ended=seq + 1.0)
        for seq, outcome in enumerate(outcomes)
    )[1]


def away(outcomes, agents=1, end=100.0):
    return gone(tally_of(outcomes), agents, 0.0, end)


def test_the_last_fifth_of_a_window_without_anybody_is_a_target_that_went_away():
    assert away(["ok"] * 80 + ["unreachable"] * 20)
    assert not away(["ok"] * 81 + ["unreachable"] * 19)


def test_a_fifth_by_time_is_enough_because_failing_agents_ask_ever_more_slowly():
    assert away(["ok"] * 80 + ["unreachable"] * 5)


def test_a_fifth_by_number_is_enough_where_requests_are_few():
    assert away(["ok"] * 8 + ["unreachable"] * 3, end=12.0)


def test_who_comes_back_was_not_gone():
    assert not away(["ok"] * 20 + ["unreachable"] * 79 + ["ok"])
    assert not away(["ok"] * 20 + ["unreachable"] * 79 + ["bad_stream"])


def test_every_agent_has_to_have_found_nobody():
    assert away(["ok"] * 80 + ["unreachable"] * 8, agents=8)
    assert not away(["ok"] * 80 + ["unreachable"] * 7, agents=8)
    assert not away(["ok"] * 2 + ["unreachable"] * 2, end=4.0)


@pytest.mark.parametrize("outcome", ["timed_out", "rejected", "server_error", "bad_stream"])
def test_a_server_that_fails_is_there(outcome):
    assert not away(["ok"] * 50 + [outcome] * 50)


def test_a_window_nobody_was_reached_in_at_all():
    assert away(["unreachable"] * 10, end=10.0)
    assert not gone(tally_of(["unreachable"] * 10, phase="drain"), 1, 5.0, 5.0)


def test_a_lack_of_this_machine_says_nothing_of_the_target():
    lacking = refusal(OSError(errno.EMFILE, "Too many open files"))
    records = [
        RequestRecord("r", 1, 0, seq, 1, "measured", outcome, seq, seq + 1.0, error=error)
        for seq, (outcome, error) in enumerate(
            [("ok", None)] * 50 + [("unreachable", lacking)] * 50
        )
    ]
    assert not gone(tallies(records)[1], 1, 0.0, 100.0)
    refused = [replace(record, error="connection refused") for record in records]
    assert gone(tallies(refused)[1], 1, 0.0, 100.0)
