"""What is dealt to shards is the whole schedule, nothing twice, and each request is the same."""

import asyncio
from collections import Counter
from dataclasses import replace
from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.config import validate
from contract.errors import ConfigError
from contract.shards import Part, shard_of
from loadgen.backends.base import Awaited
from loadgen.config import RunConfig
from loadgen.engine import StageRun
from loadgen.replies import source_for
from loadgen.stages import plans
from loadgen.stopwatch import Facts

SERVER = {"backend": {"kind": "openai"}, "isl": "8..16", "osl": "2..9"}
LOADS = [
    {"agents": [7], "request_count": 10**6, "think": "0.1..0.3", "warmup_requests": 0},
    {"agents": [3], "request_count": 10**6, "turns": 3, "warmup_requests": 0},
    {"rate_stages": "20:1,40:0.5", "arrival": "gamma", "burstiness": 0.5},
    {"rate_stages": "30:1", "arrival": "constant", "max_concurrency": 9},
]
SHARDS = st.integers(1, 9)


class Steady(Awaited):
    """Answers a tenth of a second after it was asked, and knows how many it had at once."""

    name = "steady"

    def __init__(self):
        self.now = self.most = 0

    async def perform(self, request, watch, timeout):
        watch.sent()
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0.1)
        self.now -= 1
        return Facts("ok", text="well")


class Told:
    """A source that knows what it was asked for."""

    def __init__(self, source):
        self.source, self.listens, self.made = source, source.listens, {}
        self.answered = source.answered

    def request(self, stage, agent, seq):
        made = self.source.request(stage, agent, seq)
        self.made[agent, seq] = made.prompt, made.messages, made.output_tokens, made.seed
        return made


async def driven(load, part):
    """What a part sends within two seconds: its instants and its words, by agent and number; and
    how many there were at once."""
    config = validate(RunConfig, SERVER | load)
    loop, backend, records = asyncio.get_running_loop(), Steady(), []
    source = Told(source_for(config, "a-run", None, records.append))
    whole = next(plans(config, "steady", "m"))
    plan = replace(whole, load=whole.load.dealt(part))
    stage = StageRun("a-run", plan, loop.time, records.append, backend, source, due=5.0)
    loop.call_later(7.0, stage.stop)
    await stage.drive()
    assert stage.began == 5.0
    sent = {(r.agent, r.seq): (r.due, *source.made[r.agent, r.seq]) for r in records}
    assert len(sent) == len(records)
    assert {shard_of(record, part.shards) for record in records} <= {part.shard}
    return sent, backend.most


@settings(max_examples=40, deadline=None)
@given(load=st.sampled_from(LOADS), shards=SHARDS)
def test_shards_together_send_what_one_process_sends(jump, load, shards):
    whole, _ = jump(driven(load, Part()))
    parts = [jump(driven(load, Part(shard, shards))) for shard in range(shards)]
    together = Counter(chain.from_iterable(sent for sent, _ in parts))
    assert set(together.values()) <= {1}
    assert together.keys() == whole.keys()
    for sent, _ in parts:
        for name, (due, *said) in sent.items():
            assert due == pytest.approx(whole[name][0])
            assert said == list(whole[name][1:])
    if "max_concurrency" in load:
        assert sum(most for _, most in parts) <= load["max_concurrency"]


@given(total=st.integers(0, 500), shards=SHARDS)
def test_what_is_dealt_is_all_of_it_as_evenly_as_can_be(total, shards):
    parts = [Part(shard, shards) for shard in range(shards)]
    assert sorted(chain.from_iterable(part.numbers(total) for part in parts)) == [*range(total)]
    shares = [part.share(total) for part in parts]
    assert sum(shares) == total
    assert max(shares) - min(shares) <= 1


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"backend": {"kind": "hf"}}, "backend hf serves in one process"),
        ({"request_rate": 5, "turns": 3}, "conversations of an open loop"),
        ({"request_rate": 5, "max_concurrency": 3}, "allowed: 1..3"),
        ({"shards": 65}, "shards"),
        ({"shards": 0}, "shards"),
    ],
)
def test_what_cannot_be_dealt_is_refused(more, says):
    with pytest.raises(ConfigError, match=says):
        validate(RunConfig, SERVER | {"shards": 4} | more)
