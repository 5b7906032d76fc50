"""The closed loop in virtual time, against queues whose answer is known."""

import asyncio
import functools
import gc
from collections import Counter

import pytest

from contract.errors import DataError
from contract.records import StageKey
from loadgen.backends.base import Awaited
from loadgen.engine import Flight, StagePlan, StageRun
from loadgen.figures.stamp_stats import StampStats
from loadgen.figures.tally import tallies
from loadgen.loops import AHEAD, Closed, Open
from loadgen.stopwatch import Facts
from loadgen.workload.lengths import fixed
from loadgen.workload.prompts import PromptSource


class Slots(Awaited):
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


class Chatty:
    """A source that wants to know what was answered."""

    listens = True

    def __init__(self):
        self.prompts = PromptSource(0, fixed(8), fixed(3))
        self.log = []

    def request(self, stage, agent, seq):
        request = self.prompts.request(stage, agent, seq)
        request.wants_text = True
        self.log.append(("asked", agent, seq, request.id))
        return request

    def answered(self, ids, request, facts):
        self.log.append(("answered", ids.agent, ids.seq, request.id))


def plan_of(load, agents, warmup, **more):
    """A stage of that load, whose window is `seconds` or `requests`."""
    key = StageKey("slots", "m", agents, 8, 1)
    given = {"seconds": None, "requests": None, "timeout": 60.0, "grace": 30.0, **more}
    return StagePlan(number=1, key=key, load=load, warmup=warmup, **given)


def stage_of(agents, *, load=None, warmup=None, slots=1, service=0.1, outcome="ok", **plan):
    """A function that runs one stage inside a loop and returns it with server and records."""

    async def run(during=None):
        loop = asyncio.get_running_loop()
        backend, records = Slots(slots, service, outcome), []
        warm = agents if warmup is None else warmup
        asked = plan_of(load or Closed(agents), agents, warm, **plan)
        stage = StageRun(
            "r", asked, loop.time, records.append, backend, PromptSource(0, fixed(8), fixed(1))
        )
        driving = asyncio.ensure_future(stage.drive())
        if during is not None:
            await during(stage, driving)
        await driving
        return stage, backend, records

    return run


def test_eight_agents_on_one_slot_keep_eight_in_flight_and_wait_eight_services(jump):
    stage, server, records = jump(stage_of(8, seconds=10)())
    tally = tallies(records)[1]
    assert stage.complete
    assert server.most == 8
    assert stage.end - stage.start == pytest.approx(10)
    assert tally.in_flight(stage.start, stage.end) == pytest.approx(8)
    latencies = list(tally.latencies)
    assert latencies == pytest.approx([0.8] * len(latencies))
    assert stage.counts.outcomes["ok"] == pytest.approx(100, abs=1)


@pytest.mark.parametrize(("agents", "rate"), [(1, 10), (2, 20), (3, 30), (4, 30), (8, 30)])
def test_three_slots_serve_three_at_a_time(jump, agents, rate):
    stage, _, _ = jump(stage_of(agents, slots=3, seconds=20)())
    assert stage.counts.outcomes["ok"] / 20 == pytest.approx(rate, rel=0.01)


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
    assert server.calls == len(records) == stage.counts.sent
    assert len({(record.agent, record.seq) for record in records}) == len(records)


def test_a_timer_that_rings_early_does_not_close_the_window(jump):
    async def run():
        loop, source = asyncio.get_running_loop(), PromptSource(0, fixed(8), fixed(1))
        clock = lambda: 0.9995 * loop.time()  # noqa: E731
        records = []
        plan = plan_of(Closed(2), 2, 0, seconds=1.0, grace=0.0)
        await StageRun("r", plan, clock, records.append, Slots(seconds=5), source).drive()
        return records

    assert [(r.outcome, r.phase) for r in jump(run())] == [("cancelled", "drain")] * 2


def test_a_stage_without_warmup_opens_its_window_at_once(jump):
    stage, _, records = jump(stage_of(1, warmup=0, seconds=1)())
    assert stage.start == stage.began
    assert {record.phase for record in records} <= {"measured", "drain"}


def test_a_target_that_fails_the_whole_warmup_is_not_measured(jump):
    stage, server, _ = jump(stage_of(4, seconds=10, outcome="rejected")())
    assert not stage.complete
    assert stage.counts.ok == 0
    assert server.calls <= 8
    assert stage.counts.reasons["rejected: as told"] == server.calls


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


class Reader(Slots):
    """One that stamps what it reads."""

    def __init__(self):
        super().__init__()
        self.taken, self.lags = 0, []

    def stamps_taken(self):
        self.taken += 1
        return StampStats(kernel=10**self.taken)

    def late(self, seconds):
        self.lags.append(seconds)


def test_a_stage_knows_its_own_reads_alone_and_tells_how_late_the_loop_is(jump):
    async def run():
        loop, source, backend = (
            asyncio.get_running_loop(),
            PromptSource(0, fixed(8), fixed(1)),
            Reader(),
        )
        plan = plan_of(Closed(2), 2, 0, seconds=1.0)
        stage = StageRun("r", plan, loop.time, lambda _record: None, backend, source)
        await stage.drive()
        return stage, backend

    stage, backend = jump(run())
    assert stage.counts.stamps.to_json() == StampStats(kernel=100).to_json()
    assert len(backend.lags) >= len(stage.counts.loop_lags) >= 99
    stage.stamped(StampStats(user=5))
    assert (stage.counts.stamps.kernel, stage.counts.stamps.user) == (100, 5)


class Held:
    """A backend whose exchange knows where it will land, as the wire's does."""

    name = "held"

    def prepare(self, request):
        return request

    def begin(self, prepared, watch, timeout, landing):
        asyncio.get_running_loop().call_later(0.1, landing.landed, Facts("ok", content=()))
        return functools.partial(self.cancel, landing)

    def cancel(self, landing):
        raise AssertionError("nothing is cancelled")


class Noted:
    """A source that notes what it made."""

    listens = False

    def __init__(self, made):
        self.prompts, self.made = PromptSource(0, fixed(8), fixed(1)), made

    def request(self, stage, agent, seq):
        self.made.append(seq)
        return self.prompts.request(stage, agent, seq)


def test_arrivals_are_prepared_ahead_and_each_once(jump):
    made, seen = [], []

    async def run():
        loop = asyncio.get_running_loop()
        dues = [0.1 * n for n in range(100)] + [10.0] * 20
        plan = plan_of(Open(dues), 0, 0)
        emit = lambda record: seen.append((record.seq, len(made)))  # noqa: E731
        await StageRun("r", plan, loop.time, emit, Slots(200, 0.01), Noted(made)).drive()

    jump(run())
    assert made == list(range(120))
    assert sorted(seq for seq, _ in seen) == made
    ahead = [count - seq - 1 for seq, count in seen if 40 <= seq < 80]
    assert set(ahead) == {AHEAD}


def test_what_became_due_while_an_answer_was_read_is_sent_before_its_record(jump):
    order = []

    async def run():
        loop, source, busy = asyncio.get_running_loop(), PromptSource(0, fixed(8), fixed(1)), [0.0]
        clock = lambda: loop.time() + busy[0]  # noqa: E731

        class Slow(Held):
            def begin(self, prepared, watch, timeout, landing):
                order.append(f"sent {landing.ids.seq}")
                loop.call_later(0.1, self.land, landing)
                return self.cancel

            def land(self, landing):
                busy[0] += 1.0  # so long reading the answer took
                landing.landed(Facts("ok", content=()))

        plan = plan_of(Open([0.0, 0.5]), 0, 0)
        emit = lambda record: order.append(f"recorded {record.seq}")  # noqa: E731
        await StageRun("r", plan, clock, emit, Slow(), source).drive()

    jump(run())
    assert order == ["sent 0", "sent 1", "recorded 0", "recorded 1"]


def test_requests_that_landed_leave_nothing_to_collect(jump):
    async def run():
        loop, source = asyncio.get_running_loop(), PromptSource(0, fixed(8), fixed(1))
        plan = plan_of(Closed(4), 4, 0, requests=40)
        await StageRun("r", plan, loop.time, lambda _record: None, Held(), source).drive()

    gc.collect()
    gc.disable()
    try:
        jump(run())
        assert not [each for each in gc.get_objects() if type(each) is Flight]
    finally:
        gc.enable()


def test_a_disk_that_takes_no_more_ends_the_stage_at_once(jump):
    async def run():
        loop = asyncio.get_running_loop()
        written, backend = [], Slots()

        def emit(record):
            if len(written) == 10:
                raise DataError("disk full")
            written.append(record)

        plan = plan_of(Closed(4), 4, 4, seconds=60.0)
        stage = StageRun("r", plan, loop.time, emit, backend, PromptSource(0, fixed(8), fixed(1)))
        with pytest.raises(DataError, match="disk full"):
            await stage.drive()
        return stage, backend, written

    stage, backend, written = jump(run())
    assert len(written) == 10
    assert backend.now == 0
    assert stage.drained < 2


def test_a_source_hears_of_an_answer_before_its_agent_asks_again(jump):
    async def run():
        source, records = Chatty(), []
        plan = plan_of(Closed(1), 1, 0, requests=3)
        clock = asyncio.get_running_loop().time
        await StageRun("r", plan, clock, records.append, Slots(), source).drive()
        return source.log, records

    log, records = jump(run())
    assert log[:4] == [
        ("asked", 0, 0, ""),
        ("answered", 0, 0, "r-1-0-0"),
        ("asked", 0, 1, ""),
        ("answered", 0, 1, "r-1-0-1"),
    ]
    assert len(log) == 2 * len(records)
    assert {record.asked_tokens for record in records} == {3}


def test_what_was_cut_off_is_answered_as_cancelled(jump):
    async def run():
        source = Chatty()
        plan = plan_of(Closed(2), 2, 0, seconds=0.5, grace=0.2)
        clock = asyncio.get_running_loop().time
        await StageRun("r", plan, clock, lambda _record: None, Slots(seconds=5), source).drive()
        return source.log

    assert sorted(entry[:3] for entry in jump(run())) == [
        ("answered", 0, 0), ("answered", 1, 0), ("asked", 0, 0), ("asked", 1, 0)
    ]  # fmt: skip


def test_an_open_loop_asks_a_source_that_listens_when_a_request_is_due(jump):
    async def run():
        source = Chatty()
        plan = plan_of(Open([0.0, 0.5, 1.0]), 0, 0)
        clock = asyncio.get_running_loop().time
        await StageRun("r", plan, clock, lambda _record: None, Slots(), source).drive()
        return source.log

    assert [entry[0] for entry in jump(run())] == ["asked", "answered"] * 3


def test_think_time_lowers_the_load_as_the_closed_queue_says(jump):
    think = Closed(4, think=lambda _agent, _seq: 0.4)
    stage, _, _ = jump(stage_of(4, load=think, slots=4, seconds=50)())
    # Four places: nobody waits, so X = N / (S + Z).
    assert stage.counts.outcomes["ok"] / 50 == pytest.approx(4 / 0.5, rel=0.02)


def test_an_open_loop_sends_on_time_whatever_the_server_does(jump):
    dues = [0.03 * i for i in range(200)]
    stage, server, records = jump(stage_of(0, load=Open(dues), warmup=0, slots=2)())
    assert stage.complete
    sent = sorted(records, key=lambda record: record.seq)
    assert [record.due - stage.began for record in sent] == pytest.approx(dues)
    assert [record.send_lag for record in records] == pytest.approx([0] * 200, abs=1e-8)
    assert server.most > 10  # 33 a second arrive, 20 are served


def test_with_a_cap_the_wait_for_a_place_counts(jump):
    dues = [0.0] * 10
    _stage, server, records = jump(stage_of(0, load=Open(dues, most=2), warmup=0, slots=2)())
    assert server.most == 2
    latencies = sorted(record.latency for record in records)
    assert latencies == pytest.approx([0.1, 0.1, 0.2, 0.2, 0.3, 0.3, 0.4, 0.4, 0.5, 0.5])
    assert max(record.send_lag for record in records) == pytest.approx(0.4)


def test_what_never_found_a_place_leaves_a_record_too(jump):
    load = Open([0.0] * 50, most=1)
    _stage, server, records = jump(stage_of(0, load=load, warmup=0, seconds=1.05)())
    assert len(records) == 50
    assert len({record.seq for record in records}) == 50
    unsent = [record for record in records if record.sent is None]
    assert {record.outcome for record in unsent} == {"cancelled"}
    assert len(unsent) == 50 - server.calls


def test_too_many_errors_end_a_stage_early(jump):
    stage, server, _ = jump(
        stage_of(0, load=Open([i / 10 for i in range(600)]), warmup=0, outcome="rejected",
                 seconds=60, most_errors=0.5)()
    )  # fmt: skip
    assert not stage.complete
    assert server.calls < 30


def test_warmup_by_time_opens_the_window_at_the_first_completion_after_it(jump):
    stage, _, _ = jump(stage_of(2, warmup=0, warmup_seconds=1.95, seconds=2)())
    assert stage.start == pytest.approx(2.0)
    assert stage.counts.outcomes["ok"] == pytest.approx(20, abs=1)
