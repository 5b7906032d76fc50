"""The step model driven by an event loop, in virtual time: throughput and Little's law."""

import asyncio

import pytest

from loadgen.fakes.paces import Stepped
from loadgen.fakes.protocol import Ask
from loadgen.fakes.slots import VisitLog
from loadgen.fakes.steps import StepModel

A, C = 0.008, 0.0007


def ask(output, prompt=("bada",)):
    return Ask("tiny", list(prompt), output, output, "completion", stream=True)


async def closed_loop(model, agents, requests, output=20):
    """`agents` in a closed loop until each made `requests`; the log and the pace."""
    pace = Stepped(model)
    log = VisitLog(clock=asyncio.get_running_loop().time)
    drive = asyncio.create_task(pace.run())

    async def agent():
        for _ in range(requests):
            visit = log.arrive()
            turn = pace.take(visit, ask(output), lambda: False)
            async for made in turn.made():
                visit.output_tokens = made
            log.depart(visit, "ok", turn.leave())

    await asyncio.gather(*(agent() for _ in range(agents)))
    drive.cancel()
    return log, pace


def span(log):
    return max(v.end for v in log.visits) - min(v.arrival for v in log.visits)


@pytest.mark.parametrize("agents", [1, 2, 5, 16, 32])
def test_throughput_is_the_batch_over_the_step(jump, agents):
    model = StepModel(A, C, slots=16)

    log, pace = jump(closed_loop(model, agents, requests=30))

    busy = min(agents, 16)
    tokens = sum(visit.output_tokens for visit in log.visits)
    assert tokens == agents * 30 * 20
    assert tokens / span(log) == pytest.approx(busy / (A + C * busy), rel=0.01)
    assert pace.lag == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("agents", [1, 2, 5, 16])
def test_one_tokens_time_is_the_step(jump, agents):
    log, _ = jump(closed_loop(StepModel(A, C, slots=16), agents, requests=10))

    for visit in log.visits:
        gap = (visit.last - visit.first) / (visit.output_tokens - 1)
        assert gap == pytest.approx(A + C * agents)
        assert visit.arrival == visit.start


@pytest.mark.parametrize(("agents", "slots"), [(4, 8), (24, 8)])
def test_littles_law_holds_in_its_log(jump, agents, slots):
    model = StepModel(A, C, prefill_seconds=0.003, slots=slots, jitter=0.3, seed=2)

    log, _ = jump(closed_loop(model, agents, requests=25))

    edges = [(v.arrival, 1) for v in log.visits] + [(v.end, -1) for v in log.visits]
    area = inside = 0.0
    before = 0.0
    for at, step in sorted(edges):
        area += inside * (at - before)
        before, inside = at, inside + step
    length = area / span(log)
    rate = len(log.visits) / span(log)
    residence = sum(v.end - v.arrival for v in log.visits) / len(log.visits)
    assert length == pytest.approx(rate * residence)
    assert log.in_flight_average() == pytest.approx(length)
    assert log.in_flight_max == agents
    assert 0.93 * agents < length <= agents


def test_in_the_queue_one_waits_in_order_of_arrival(jump):
    log, _ = jump(closed_loop(StepModel(A, C, slots=2), 6, requests=5))

    starts = [visit.start for visit in log.visits]
    assert starts == sorted(starts)
    assert max(sum(v.start <= at < v.end for v in log.visits) for at in starts) == 2
    waits = [v.start - v.arrival for v in log.visits[6:-6]]
    assert waits == pytest.approx([2 * 20 * (A + 2 * C)] * len(waits))
