"""The closed loop in virtual time, against queues whose answer is known."""

import asyncio
from collections import Counter

import pytest

from contract.errors import DataError
from contract.records import StageKey
from loadgen.engine import StagePlan, StageRun
from loadgen.prompts import PromptSource
from loadgen.stopwatch import Facts


class Slots:
    """A FIFO server of `slots` places and a fixed service time, in the loop's own time."""

    name = "slots"

    def __init__(self, slots=1, seconds=0.1, outcome="ok"):
        self.seconds, self.outcome = seconds, outcome
        self.places = asyncio.Semaphore(slots)
        self.most, self.now, self.calls = 0, 0, 0

    async def perform(self, request, watch, timeout):
        self.calls += 1
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            watch.sent()
            async with self.places:
                await asyncio.sleep(self.seconds)
                watch.mark()
            return Facts(self.outcome, output_tokens=1, error="as told")
        finally:
            self.now -= 1


def stage_of(agents, *, warmup=None, seconds=None, requests=None, grace=30.0, **server):
    """A function that runs one stage inside a loop and returns it with server and records."""

    async def run(during=None):
        loop = asyncio.get_running_loop()
        backend, records = Slots(**server), []
        key = StageKey("slots", "m", agents, 8, 1)
        plan = StagePlan(1, key, agents if warmup is None else warmup, seconds, requests, 60, grace)
        stage = StageRun("r", plan, backend, PromptSource(0, 8, 1), loop.time, records.append)
        driving = asyncio.ensure_future(stage.drive())
        if during is not None:
            await during(stage, driving)
        await driving
        return stage, backend, records

    return run


def test_eight_agents_on_one_slot_keep_eight_in_flight_and_wait_eight_services(jump):
    stage, server, _records = jump(stage_of(8, seconds=10)())
    assert stage.complete
    assert server.most == 8
    assert stage.end - stage.start == pytest.approx(10)
    assert stage.tally.in_flight(stage.start, stage.end) == pytest.approx(8)
    latencies = list(stage.tally.latencies)
    assert latencies == pytest.approx([0.8] * len(latencies))
    assert stage.tally.outcomes["ok"] == pytest.approx(100, abs=1)


@pytest.mark.parametrize(("agents", "rate"), [(1, 10), (2, 20), (3, 30), (4, 30), (8, 30)])
def test_three_slots_serve_three_at_a_time(jump, agents, rate):
    stage, _, _ = jump(stage_of(agents, slots=3, seconds=20)())
    assert stage.tally.outcomes["ok"] / 20 == pytest.approx(rate, rel=0.01)


def test_the_first_completions_are_warmup_and_what_ends_late_is_drain(jump):
    stage, _, records = jump(stage_of(4, warmup=6, seconds=1.05)())
    phases = [record.phase for record in records]
    assert phases == sorted(phases, key=["warmup", "measured", "drain"].index)
    assert Counter(phases) == {"warmup": 6, "measured": 10, "drain": 4}
    assert stage.start == pytest.approx(0.6)
    for record in records:
        assert (record.phase == "measured") == (stage.start < record.ended < stage.end)


def test_a_window_by_count_closes_after_exactly_that_many(jump):
    stage, _, records = jump(stage_of(2, requests=15)())
    assert stage.complete
    assert sum(record.phase == "measured" for record in records) == 15
    assert stage.end - stage.start == pytest.approx(1.5)


def test_sent_equals_the_sum_of_outcomes_and_every_request_leaves_one_record(jump):
    stage, server, records = jump(stage_of(5, seconds=3)())
    assert server.calls == len(records) == stage.tally.sent
    assert len({(record.agent, record.seq) for record in records}) == len(records)


def test_a_stage_without_warmup_opens_its_window_at_once(jump):
    stage, _, records = jump(stage_of(1, warmup=0, seconds=1)())
    assert stage.start == stage.began
    assert {record.phase for record in records} <= {"measured", "drain"}


def test_a_target_that_fails_the_whole_warmup_is_not_measured(jump):
    stage, server, _ = jump(stage_of(4, seconds=10, outcome="rejected")())
    assert not stage.complete
    assert stage.tally.ok == 0
    assert server.calls <= 8
    assert stage.tally.reasons["rejected: as told"] == server.calls


def test_a_failing_target_is_asked_ever_more_slowly(jump):
    _, server, _ = jump(stage_of(1, warmup=0, seconds=60, outcome="rejected")())
    # Pauses double from 0.05 to 1 s, after services of 0.1 s: near one request in 1.1 s.
    assert 50 <= server.calls <= 65


def test_an_interrupt_drains_what_is_in_flight(jump):
    async def interrupt(stage, _driving):
        await asyncio.sleep(2.05)
        stage.stop()

    stage, _, records = jump(stage_of(4, seconds=60)(interrupt))
    assert not stage.complete
    assert stage.end == pytest.approx(2.05)
    assert Counter(record.phase for record in records)["drain"] == 4
    assert {record.outcome for record in records} == {"ok"}


def test_an_abort_cancels_what_is_in_flight_into_one_record_each(jump):
    async def abort(stage, _driving):
        await asyncio.sleep(2.05)
        stage.abort()

    _stage, server, records = jump(stage_of(4, seconds=60)(abort))
    assert Counter(r.outcome for r in records)["cancelled"] == 4
    assert len(records) == server.calls
    assert server.now == 0


def test_what_outlasts_the_grace_period_is_cancelled(jump):
    stage, _, records = jump(stage_of(4, seconds=1, grace=0.15)())
    assert Counter(r.outcome for r in records if r.phase == "drain") == {"ok": 2, "cancelled": 2}
    assert stage.drained == pytest.approx(stage.end + 0.15)


def test_a_disk_that_takes_no_more_ends_the_stage_at_once(jump):
    async def run():
        loop = asyncio.get_running_loop()
        written, backend = [], Slots()

        def emit(record):
            if len(written) == 10:
                raise DataError("disk full")
            written.append(record)

        plan = StagePlan(1, StageKey("slots", "m", 4, 8, 1), 4, 60.0, None, 60, 30)
        stage = StageRun("r", plan, backend, PromptSource(0, 8, 1), loop.time, emit)
        with pytest.raises(DataError, match="disk full"):
            await stage.drive()
        return stage, backend, written

    stage, backend, written = jump(run())
    assert len(written) == 10
    assert backend.now == 0
    assert stage.drained < 2
