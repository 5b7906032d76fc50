"""Several servers as one: what is said of them together, and one that refuses at once."""

import asyncio

import pytest

from contract.errors import ConfigError
from contract.records import StageKey
from loadgen.backends.base import Awaited, Target
from loadgen.backends.fleet import Fleet, alike
from loadgen.engine import StagePlan, StageRun
from loadgen.figures.stamp_stats import StampStats
from loadgen.loops import Closed
from loadgen.stopwatch import Facts
from loadgen.workload.lengths import fixed
from loadgen.workload.prompts import PromptSource


class Server(Awaited):
    """Takes as many seconds as it is told, or refuses at once."""

    name = "server"

    def __init__(self, address, seconds=None):
        self.address, self.seconds = address, seconds
        self.begun = []

    def rendered(self, request):
        return request

    def framed(self, request, _wire):
        return request

    def stamps_taken(self):
        return StampStats()

    def late(self, seconds):
        pass

    async def perform(self, request, watch, timeout):
        self.begun.append(asyncio.get_running_loop().time())
        if self.seconds is None:
            return Facts("unreachable", content=())
        watch.sent()
        await asyncio.sleep(self.seconds)
        watch.mark()
        return Facts("ok", output_tokens=1)


def driven(jump, servers, route, seconds=20.0, agents=4):
    """The records of a stage over these servers, in virtual time."""
    records = []

    async def run():
        clock = asyncio.get_running_loop().time
        key = StageKey("server", "m", agents, 8, 1)
        plan = StagePlan(
            number=1, key=key, load=Closed(agents), warmup=0, seconds=seconds, requests=None,
            timeout=60.0, grace=0.05,
        )  # fmt: skip
        source = PromptSource(0, fixed(8), fixed(1))
        await StageRun("r", plan, clock, records.append, Fleet(servers, route), source).drive()

    jump(run())
    return records


def test_the_least_busy_gets_what_it_can_take(jump):
    """Each agent waits for its own answer: two are always at either server."""
    slow, quick = Server("http://a:1", 0.4), Server("http://b:1", 0.1)
    records = driven(jump, [slow, quick], "least-busy")
    ok = [sum(r.address == place and r.outcome == "ok" for r in records) for place in (0, 1)]
    assert ok == pytest.approx([2 * 20 / 0.4, 2 * 20 / 0.1], abs=4)


def test_in_turn_the_slower_one_sets_the_pace(jump):
    slow, quick = Server("http://a:1", 0.4), Server("http://b:1", 0.1)
    records = driven(jump, [slow, quick], "round-robin")
    counts = [sum(r.address == place for r in records) for place in (0, 1)]
    assert abs(counts[0] - counts[1]) <= 1
    assert len(slow.begun) == counts[0]


def test_one_that_refuses_at_once_does_not_draw_everything(jump):
    """Even as the first in order: it gets no more than it would with a second's service."""
    dead, alive = Server("http://a:1"), Server("http://b:1", 0.1)
    records = driven(jump, [dead, alive], "least-busy")
    assert {r.outcome for r in records if r.address == 0} == {"unreachable"}
    assert 20 <= len(dead.begun) <= 4 * 21  # the last begin as the window closes
    assert sum(r.outcome == "ok" for r in records) > 20 / 0.1 / 2
    assert max(alive.begun) > 19.5


def test_what_is_cut_off_says_where_it_was(jump):
    records = driven(jump, [Server("http://a:1", 30.0), Server("http://b:1", 30.0)], "round-robin")
    assert [(r.outcome, r.address) for r in records].count(("cancelled", 0)) == 2
    assert [(r.outcome, r.address) for r in records].count(("cancelled", 1)) == 2


def test_connections_are_shared_out_and_one_that_is_away_does_not_keep_the_others(jump):
    class Warm(Server):
        async def warm(self, connections):
            self.warmed = connections
            if self.seconds is None:
                raise ConnectionError

    servers = [Warm("http://a:1"), Warm("http://b:1", 1.0), Warm("http://c:1", 1.0)]
    with pytest.raises(ConnectionError):
        jump(Fleet(servers).warm(10))
    assert [server.warmed for server in servers] == [4, 4, 4]


def test_what_servers_agree_on_is_said_once_and_the_rest_by_address():
    common = {"model": "m", "parameters": 7, "context_length": 2048}
    one = Target(
        **common, models=("m", "x"), version="1", address="http://a:1", quantization="Q4_K_M",
        notes={"slots": 4, "gpu_share": 1.0},
    )  # fmt: skip
    other = Target(
        **common, models=("y", "m"), version="2", address="http://b:1",
        notes={"slots": 4, "gpu_share": 0.5},
    )  # fmt: skip
    assert alike([one, other]) == Target(
        **common, models=("m",), addresses=("http://a:1", "http://b:1"),
        notes={
            "slots": 4,
            "differ": {
                "version": ["1", "2"], "quantization": ["Q4_K_M", None], "gpu_share": [1.0, 0.5]
            },
        },
        warnings=(
            "the servers differ in version: 1, 2",
            "the servers differ in quantization: Q4_K_M, unknown",
        ),
    )  # fmt: skip
    assert alike([one, one]).notes == one.notes


def test_one_server_given_twice_is_refused():
    addresses = ["http://h:1", "http://h:2", "http://h:1"]
    with pytest.raises(ConfigError, match="--base-url: http://h:1 is given twice, allowed: each"):
        Fleet([Server(address) for address in addresses])
