"""How the accuracy bench judges: limits either way, the true error, and disturbance."""

import json
import math
from dataclasses import dataclass

import numpy as np
import pytest

from bench.accuracy import Check, Declared, Lateness, Outcome, Shape, calmest
from bench.errors import Errors


def errors(ttft=(), gap=(), late=(), matched=100):
    return Errors(100, matched, *(np.asarray(each, float) for each in (ttft, gap, late)), 0)


def held(checks):
    return {check.name: check.ok for check in checks}


TRUE = errors(ttft=[2e-5] * 100, gap=[-3e-4] * 1000, late=[5e-6] * 100)


@pytest.mark.parametrize(
    ("value", "at_least", "ok"),
    [(0.5, False, True), (0.51, False, False), (0.5, True, True), (0.49, True, False),
     (math.nan, False, False), (math.nan, True, False)],
)  # fmt: skip
def test_a_figure_is_held_to_its_side_and_no_number_is_never_good(value, at_least, ok):
    check = Check("gap p99", value, 0.5, at_least)
    assert check.ok == ok
    assert str(check).endswith(f"{'at least' if at_least else 'at most'} 0.5: "
                               f"{'ok' if ok else 'missed'}")  # fmt: skip


def test_the_worse_of_first_tokens_and_gaps_is_the_true_error_without_its_sign():
    assert pytest.approx(3e-4) == TRUE.worst
    assert TRUE.figures()["gap p99"] == pytest.approx(0.3)


@pytest.mark.parametrize(("declared", "ok"), [(3.1e-4, True), (2.9e-4, False), (None, False)])
def test_what_is_declared_must_cover_the_true_error_in_every_shape(declared, ok):
    outcome = Outcome(TRUE, Declared(declared, {}, []), 0.0)
    assert held(outcome.checks(Shape("any", 64))) == {"declared, against the true p99": ok}


def test_a_shape_may_ask_for_limits_on_either_side_and_for_doubt():
    shape = Shape("any", 64, most={"TTFT p50": 0.1, "declared": 0.5}, least={"gap p99": 0.4},
                  doubted=True)  # fmt: skip
    sure = Outcome(TRUE, Declared(1e-3, {}, ["little"]), 0.0)
    assert held(sure.checks(shape)) == {
        "TTFT p50": True, "declared": False, "gap p99": False,
        "declared, against the true p99": True, "verdict generator failed": False,
    }  # fmt: skip
    doubting = Outcome(TRUE, Declared(4e-4, {}, ["generator"]), 0.0)
    assert held(doubting.checks(shape))["verdict generator failed"]


@pytest.mark.parametrize(
    ("bare", "arrival", "sent", "ok"),
    [(1e-4, 4e-4, 1e-4, True), (1e-4, 6e-4, 1e-4, False), (1e-3, 1.4e-3, 1e-4, True),
     (1e-3, 1.6e-3, 1e-4, False), (1e-4, 4e-4, 3e-4, False)],
)  # fmt: skip
def test_lateness_is_held_against_a_bare_timer_of_the_same_run(bare, arrival, sent, ok):
    late = (np.full(200, each) for each in (bare, arrival, sent))
    outcome = Lateness(*late, TRUE, Declared(1e-3, {}, []), 0.0)
    assert all(held(outcome.checks()).values()) == ok


@dataclass
class Taken:
    foreign: float


def test_the_first_undisturbed_repetition_counts_or_else_the_calmest():
    takes = iter(map(Taken, (0.9, 0.1, 0.0)))
    assert calmest(lambda: next(takes), 0.25) == (Taken(0.1), 1)
    takes = iter(map(Taken, (0.9, 0.5, 0.7)))
    assert calmest(lambda: next(takes), 0.25) == (Taken(0.5), 2)


def test_what_a_run_declares_is_read_from_its_last_stage(tmp_path):
    verdicts = [
        {"name": "generator", "ok": False, "checked": True},
        {"name": "little", "ok": True, "checked": True},
        {"name": "counts", "ok": False, "checked": False},
    ]
    lines = [
        {"verdicts": [], "generator": None},
        {"verdicts": verdicts, "generator": {"declared": 0.002, "merged": 7}},
    ]
    path = tmp_path / "stages.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = Declared.of(tmp_path)
    assert (found.error, found.failed, found.doubted) == (0.002, ["generator"], True)
    path.write_text(json.dumps(lines[0]) + "\n")
    assert Declared.of(tmp_path) == Declared(None, {}, [])
