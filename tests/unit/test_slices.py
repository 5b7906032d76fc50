"""A stage cut into slices: hand-counted cases."""

import pytest

from contract.records import RequestRecord
from loadgen.files.slices import Slices, slice_seconds


def record(due, ended, *, phase="measured", outcome="ok", tokens=10, first=None):
    ok = outcome == "ok"
    return RequestRecord(
        run="r",
        stage=1,
        agent=0,
        seq=0,
        agents=2,
        phase=phase,
        outcome=outcome,
        due=due,
        ended=ended,
        first_token=(due if first is None else first) if ok else None,
        last_token=ended if ok else None,
        output_tokens=tokens if ok else None,
    )


def columns(*records, start=10.0, end=13.5, seconds=1.0):
    slices = Slices(start, end, seconds)
    for one in records:
        slices.add(one)
    return slices.columns()


def test_the_last_slice_is_what_is_left():
    found = columns()
    assert found["start"] == [0.0, 1.0, 2.0, 3.0]
    assert found["ok"] == [0, 0, 0, 0]
    assert found["e2e_p50"] == [None, None, None, None]


def test_a_request_counts_in_the_slice_it_ended_in():
    found = columns(record(10.0, 12.5), record(11.0, 12.75, outcome="timed_out"))
    assert found["ok"] == [0, 0, 1, 0]
    assert found["not_ok"] == [0, 0, 1, 0]
    assert found["output_tokens"] == [0, 0, 10, 0]
    assert found["e2e_p50"] == [None, None, 2.5, None]


def test_load_counts_by_overlap_whatever_the_phase():
    found = columns(
        record(9.0, 10.5, phase="warmup"),
        record(10.5, 12.25),
        record(13.0, 20.0, phase="drain"),
    )
    # The last slice is half a second long and busy throughout.
    assert found["in_flight"] == pytest.approx([1.0, 1.0, 0.25, 1.0])
    assert found["ok"] == [0, 0, 1, 0]


def test_tokens_are_generated_between_the_first_and_the_last():
    found = columns(record(10.0, 13.0, first=11.0, tokens=20))
    assert found["generated_tokens"] == pytest.approx([0.0, 10.0, 10.0, 0.0])
    assert found["output_tokens"] == [0, 0, 0, 20]


def test_a_single_token_is_generated_at_its_instant():
    found = columns(record(10.0, 11.25, first=11.25, tokens=1))
    assert found["generated_tokens"] == [0.0, 1.0, 0.0, 0.0]


def test_quantiles_interpolate():
    found = columns(record(10.0, 10.2), record(10.0, 10.4), record(10.0, 10.6))
    assert found["e2e_p50"][0] == pytest.approx(0.4)
    assert found["e2e_p95"][0] == pytest.approx(0.58)
    assert found["ttft_p50"][0] == 0.0


def test_a_stage_without_a_window_has_one_empty_slice():
    assert columns(start=3.0, end=3.0)["in_flight"] == [0.0]


@pytest.mark.parametrize(
    ("length", "wanted", "seconds"),
    [
        *((30, 1.0, 1.0), (300, 1.0, 1.0), (301, 1.0, 2.0), (1200, 1.0, 5.0)),
        *((86_400, 1.0, 500.0), (10, 0.5, 0.5), (400, 0.5, 2.5)),
    ],
)
def test_a_long_stage_has_wider_slices(length, wanted, seconds):
    assert slice_seconds(length, wanted) == seconds
