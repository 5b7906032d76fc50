"""However a stage is cut, its slices hold every request, token and second once."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.records import RequestRecord
from loadgen.files.slices import Slices

START, END = 5.0, 12.0
instants = st.floats(0.0, 20.0).map(lambda value: round(value, 6))


@st.composite
def records(draw):
    due, first, last, ended = sorted(draw(st.tuples(instants, instants, instants, instants)))
    inside = START <= ended < END
    outcome = draw(st.sampled_from(["ok", "ok", "timed_out", "server_error"]))
    ok = outcome == "ok"
    return RequestRecord(
        run="r",
        stage=1,
        agent=0,
        seq=0,
        agents=1,
        phase="measured" if inside else "drain",
        outcome=outcome,
        due=due,
        ended=ended,
        first_token=first if ok else None,
        last_token=last if ok else None,
        output_tokens=draw(st.integers(0, 500)) if ok else None,
    )


def overlap(start, end):
    return max(0.0, min(end, END) - max(start, START))


@given(found=st.lists(records(), max_size=40), seconds=st.sampled_from([0.3, 1.0, 2.5, 7.0, 50.0]))
def test_slices_add_up_to_their_stage(found, seconds):
    slices = Slices(START, END, seconds)
    for record in found:
        slices.add(record)
    columns = slices.columns()
    measured = [r for r in found if r.phase == "measured"]
    ok = [r for r in measured if r.outcome == "ok"]
    assert sum(columns["ok"]) == len(ok)
    assert sum(columns["not_ok"]) == len(measured) - len(ok)
    assert sum(columns["output_tokens"]) == sum(r.output_tokens for r in ok)
    lengths = [end - start for start, end in map(slices.edges, range(slices.number))]
    assert math.fsum(lengths) == pytest.approx(END - START)
    busy = [held * length for held, length in zip(columns["in_flight"], lengths, strict=True)]
    assert sum(busy) == pytest.approx(sum(overlap(r.due, r.ended) for r in found), abs=1e-6)
    assert max(columns["in_flight"]) <= len(found) + 1e-6


@given(found=st.lists(records(), max_size=40))
def test_generated_tokens_are_those_that_came_inside(found):
    slices = Slices(START, END, 1.0)
    expected = 0.0
    for record in found:
        slices.add(record)
        first, last, tokens = record.first_token, record.last_token, record.output_tokens
        if tokens and last > first:
            expected += tokens * overlap(first, last) / (last - first)
        elif tokens:
            expected += tokens * (START <= first < END)
    assert sum(slices.columns()["generated_tokens"]) == pytest.approx(expected, abs=1e-6)
