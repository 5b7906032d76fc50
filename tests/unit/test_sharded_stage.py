"""The conductor's side of a stage: its window is that of all completions, whoever sent them."""

import asyncio
from collections import Counter

import orjson
import pytest

from contract.errors import DataError
from contract.records import RequestRecord, StageKey
from contract.shards import requests_of
from loadgen.engine import StagePlan
from loadgen.figures.stamp_stats import StampStats
from loadgen.loops import Closed
from loadgen.shards.crew import lost
from loadgen.shards.merge import Merge
from loadgen.shards.stage import PATIENCE, ShardedStage

SHARDS = 2


class Script:
    """A crew whose shards say what is written for them: pairs of an instant and a message, or of
    an instant and a record, which goes to its file."""

    def __init__(self, path, lines, cold):
        self.path, self.shards, self.answered = path, SHARDS, False
        self.living, self.told, self.killed = frozenset(range(SHARDS)), [], set()
        for shard in range(SHARDS):
            requests_of(path, shard).touch()
        self.merge = Merge([requests_of(path, shard) for shard in range(SHARDS)])
        self._queue = asyncio.Queue()
        loop = asyncio.get_running_loop()
        for at, shard, what in lines:
            loop.call_at(at, self._play, shard, what)
        for shard in self.living - set(cold):
            self._queue.put_nowait((shard, {"warm": 1}))

    def _play(self, shard, what):
        if isinstance(what, RequestRecord):
            with requests_of(self.path, shard).open("ab") as file:
                file.write(orjson.dumps(what, option=orjson.OPT_APPEND_NEWLINE))
        else:
            self._queue.put_nowait((shard, what))

    def say(self, message):
        self.told.append(message)

    async def heard(self):
        return await self._queue.get()

    def kill(self, shards):
        self.killed |= set(shards)
        for shard in tuple(shards):
            self._queue.put_nowait((shard, {"lost": "killed"}))


def completions(shard, instants, outcome="ok"):
    """A record of each instant, on disk right then."""
    return [
        (at, shard, RequestRecord("r", 1, shard, seq, 2, "warmup", outcome, due=0.5, ended=at))
        for seq, at in enumerate(instants)
    ]


def beats(shard, until, lags=()):
    return [
        (tenth / 10, shard, {"beat": [tenth / 10, 1, [x for lag in lags for x in lag]]})
        for tenth in range(10, round(until * 10))
    ]


def done(shard, at, written):
    return [(at, shard, {"beat": [at, 0, []]}), (at, shard, {"done": [at, written]})]


@pytest.fixture
def conduct(jump, tmp_path):
    """`conduct(lines, …)` drives a stage by a script; the stage, its records and the crew."""

    def conduct(lines, *, during=None, cold=(), **plan):
        async def run():
            loop, records, seen = asyncio.get_running_loop(), [], []
            crew = Script(tmp_path, sorted(lines, key=lambda line: line[0]), cold)
            given = {"seconds": None, "requests": None, "timeout": 9.0, "grace": 3.0, **plan}
            key = StageKey("s", "m", 2, 8, 1)
            asked = StagePlan(number=1, key=key, load=Closed(2), **{"warmup": 0, **given})
            stage = ShardedStage("r", asked, loop.time, records.append, crew, seen.append)
            if during is not None:
                during(stage, loop)
            await stage.warm()
            try:
                await stage.drive()
            finally:
                crew.merge.close()
            return stage, records, crew

        return jump(run())

    return conduct


def windows(crew):
    return [message["window"] for message in crew.told if "window" in message]


ONE, TWO = [1.1, 1.3, 1.5, 1.7, 1.9, 2.1], [1.2, 1.4, 1.6, 1.8, 2.0, 2.2]
BOTH = [*completions(0, ONE), *completions(1, TWO), *beats(0, 2.3), *beats(1, 2.3),
        *done(0, 2.4, 6), *done(1, 2.5, 6)]  # fmt: skip


def test_a_window_by_count_is_that_of_all_completions_in_their_order(conduct):
    stage, records, crew = conduct(BOTH, warmup=3, requests=5)
    assert [record.ended for record in records] == sorted(ONE + TWO)
    assert [record.phase for record in records] == [
        *["warmup"] * 3, *["measured"] * 5, *["drain"] * 4
    ]  # fmt: skip
    assert stage.complete
    assert stage.start == 1.3
    assert 1.8 < stage.end < 1.8 + 1e-9
    assert windows(crew) == [[1.3, None], [1.3, stage.end]]
    assert stage.counts.outcomes == {"ok": 5}
    assert stage.counts.stamps is None
    assert crew.answered


def test_the_reads_of_all_shards_are_one_statistic(conduct):
    reads = [StampStats(kernel=30, clock=2e-6), StampStats(kernel=10, missing=1)]
    ended = [(2.4 + 0.1 * shard, shard, {"done": [2.4 + 0.1 * shard, 6], "stamps": each.to_json()})
             for shard, each in enumerate(reads)]  # fmt: skip
    lines = [line for line in BOTH if not (isinstance(line[2], dict) and "done" in line[2])]
    stage, _, _ = conduct([*lines, *ended], warmup=3, requests=5)
    stamps = stage.counts.stamps
    assert (stamps.kernel, stamps.missing, stamps.clock) == (40, 1, 2e-6)


def test_a_window_by_time_is_told_as_soon_as_it_opens(conduct):
    stage, records, crew = conduct(BOTH, warmup=2, seconds=0.5)
    assert windows(crew) == [[1.2, 1.7]]
    assert Counter(record.phase for record in records) == {"warmup": 2, "measured": 4, "drain": 6}
    assert stage.complete


def test_without_a_warmup_the_window_opens_at_the_instant_all_begin(conduct):
    stage, records, crew = conduct(BOTH, warmup=0, seconds=1.7)
    (go,) = (message["go"] for message in crew.told if "go" in message)
    assert stage.began == stage.start == go
    assert windows(crew)[0] == [go, go + 1.7]
    assert all((r.phase == "measured") == (r.ended < stage.end) for r in records)


def test_a_schedule_that_ends_by_itself_ends_with_the_last_shard(conduct):
    stage, records, _ = conduct(BOTH, warmup=1)
    assert stage.end == 2.5
    assert stage.complete
    assert Counter(record.phase for record in records) == {"warmup": 1, "measured": 11}


def test_nothing_is_settled_before_the_slowest_shard_has_said_how_far_it_is(conduct):
    late = [line for line in BOTH if not (line[1] == 1 and isinstance(line[2], dict))]
    seen = []

    def during(stage, loop):
        loop.call_at(2.35, lambda: seen.append(stage.counts.sent))

    stage, _, _ = conduct([*late, *done(1, 2.5, 6)], during=during, warmup=1)
    assert seen == [0]
    assert stage.counts.sent == 12


def test_only_lags_inside_the_window_count(conduct):
    lags = [(1.15, 0.001), (1.25, 0.002), (1.75, 0.004), (2.2, 0.008)]
    said = [(2.3, 0, {"beat": [2.3, 0, [x for lag in lags for x in lag]]})]
    stage, _, _ = conduct([*BOTH, *said], warmup=2, seconds=0.6)
    assert len(stage.counts.loop_lags) == 2
    assert stage.counts.loop_lags.mean == pytest.approx(0.003)


def test_an_interrupt_closes_the_window_now_and_waits_for_the_drain(conduct):
    stage, records, crew = conduct(
        BOTH, warmup=1, during=lambda stage, loop: loop.call_at(1.65, stage.stop)
    )
    assert stage.end == 1.65
    assert not stage.complete
    assert windows(crew)[-1] == [1.1, 1.65]
    assert Counter(record.phase for record in records) == {"warmup": 1, "measured": 5, "drain": 6}


def test_a_second_interrupt_is_passed_on(conduct):
    _, _, crew = conduct(BOTH, during=lambda stage, loop: loop.call_at(1.65, stage.abort))
    assert crew.told[-1] == {"abort": True}


def test_a_lost_shard_cuts_the_window_and_what_it_wrote_is_kept(conduct):
    lines = [*completions(0, ONE), *beats(0, 2.3), *done(0, 2.4, 6)]
    lines += [*completions(1, TWO[:3]), *beats(1, 1.5), (1.75, 1, {"lost": "killed"})]
    stage, records, _ = conduct(lines, warmup=1, seconds=1.0)
    assert stage.end == 1.75
    assert not stage.complete
    assert [record.ended for record in records] == sorted(ONE + TWO[:3])


def test_a_shard_that_stays_silent_after_the_drain_is_ended(conduct):
    lines = [*completions(0, ONE), *beats(0, 2.3), *done(0, 2.4, 6)]
    stage, _, crew = conduct(lines, seconds=1.0)
    assert crew.killed == {1}
    assert stage.drained == pytest.approx(1.05 + 3.0 + PATIENCE)


def test_a_shard_that_never_gets_ready_is_ended_once_nobody_wants_it(conduct):
    def during(stage, loop):
        loop.call_at(1.0, stage.stop)
        loop.call_at(2.0, stage.abort)

    stage, records, crew = conduct(done(0, 90.0, 0), cold=[1], during=during)
    assert crew.killed == {0, 1}
    assert not stage.complete
    assert records == []


def test_what_a_shard_met_ends_the_stage(conduct):
    lines = [*BOTH, (1.65, 0, {"error": [4, "disk full"]})]
    with pytest.raises(DataError, match="disk full"):
        conduct(lines, warmup=1)


def test_lines_that_are_missing_are_an_error(conduct):
    with pytest.raises(DataError, match=r"requests\.1\.jsonl: 6 records found, 7 were written"):
        conduct([*BOTH[:-1], (2.5, 1, {"done": [2.5, 7]})], warmup=1)


@pytest.mark.parametrize(
    ("code", "says", "exit_code"),
    [
        (-9, "shard 1 (process 42) was killed by SIGKILL", 137),
        (-15, "shard 1 (process 42) was killed by SIGTERM", 143),
        (1, "shard 1 (process 42) ended with exit code 1", 1),
    ],
)
def test_how_a_shard_was_lost_is_said_and_is_the_exit_code(code, says, exit_code):
    error = lost(1, 42, code)
    assert str(error).startswith(says)
    assert error.exit_code == exit_code
