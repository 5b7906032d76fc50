"""Whatever a server does, its records are in order and nothing is lost or counted twice."""

import asyncio
import random
from collections import Counter
from itertools import pairwise

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.records import OUTCOMES, RequestRecord, StageKey
from loadgen.backends.base import Awaited
from loadgen.engine import StagePlan, StageRun
from loadgen.figures.tally import tallies
from loadgen.loops import Closed
from loadgen.stopwatch import Facts
from loadgen.workload.lengths import fixed
from loadgen.workload.prompts import PromptSource


class Moody(Awaited):
    """Serves with random times, chunk counts and outcomes, all drawn from one seed."""

    name = "moody"

    def __init__(self, seed, failing):
        self.draw = random.Random(seed)
        self.failing = failing
        self.calls = 0

    async def perform(self, request, watch, timeout):
        self.calls += 1
        outcome = self.draw.choice(OUTCOMES) if self.draw.random() < self.failing else "ok"
        watch.sent()
        for _ in range(self.draw.randrange(0 if outcome != "ok" else 1, 4)):
            await asyncio.sleep(self.draw.choice([0, 0.01, 0.3]))
            watch.mark()
        await asyncio.sleep(0.01)
        return Facts(outcome, output_tokens=len(watch.marks), error="a mood")


def phase_fits(record, stage):
    """At the very instant a window opens, several requests may end: before it or inside."""
    if record.phase == "warmup":
        return record.ended <= stage.start
    if record.phase == "drain":
        return record.ended >= stage.end
    return stage.start <= record.ended < stage.end


STOPS = [{"seconds": 3.0, "requests": None}, {"seconds": None, "requests": 25}]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    agents=st.integers(1, 12),
    warmup=st.integers(0, 15),
    failing=st.sampled_from([0.0, 0.1, 0.6]),
    ending=st.tuples(st.sampled_from([0.0, 0.1, 30.0]), st.sampled_from(STOPS)),
)
def test_records_are_ordered_and_sent_equals_the_sum_of_outcomes(
    jump, seed, agents, warmup, failing, ending
):
    grace, stop = ending

    async def run():
        backend, records = Moody(seed, failing), []
        key = StageKey("moody", "m", agents, 8, 1)
        load = Closed(agents)
        plan = StagePlan(1, key, load, warmup, **stop, timeout=9, grace=grace)
        clock = asyncio.get_running_loop().time
        stage = StageRun(
            "r", plan, clock, records.append, backend, PromptSource(0, fixed(8), fixed(1))
        )
        await stage.drive()
        return stage, backend, records

    stage, backend, records = jump(run())
    assert backend.calls == len(records) == stage.counts.sent
    assert len({(r.agent, r.seq) for r in records}) == len(records)
    assert [r.ended for r in records] == sorted(r.ended for r in records)
    for record in records:
        instants = [record.due, record.sent, record.first_token, record.last_token, record.ended]
        known = [instant for instant in instants if instant is not None]
        assert known == sorted(known)
        assert len(record.gaps_us) == max(0, record.chunks - 1)
        line = orjson.loads(orjson.dumps(record))
        known = {name: value for name, value in line.items() if value is not None}
        for read in (line, known):
            assert RequestRecord.from_json(read) == record == RequestRecord.from_own(read)
        assert phase_fits(record, stage)
    measured = Counter(r.outcome for r in records if r.phase == "measured")
    assert measured == stage.counts.outcomes == tallies(records)[1].outcomes
    assert stage.counts.measured == measured.total()
    by_agent = [[r for r in records if r.agent == number] for number in range(agents)]
    for own in by_agent:  # an agent never has two requests at once
        assert all(after.due >= before.ended for before, after in pairwise(own))
