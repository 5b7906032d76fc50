"""A FIFO queue twice: simulated by itself, and as a backend that a load is put on."""

import asyncio
import heapq
import random
import statistics

from loadgen.backends.base import Awaited
from loadgen.engine import StageRun
from loadgen.figures.goodput import wilson
from loadgen.figures.stage_end import stage_of
from loadgen.figures.tally import tallies
from loadgen.stopwatch import Facts
from loadgen.workload.lengths import fixed
from loadgen.workload.prompts import PromptSource


def sojourns(load, rate, slots, draw, count=100_000):
    """Seconds in a FIFO queue of each of `count` requests: `load` agents, or Poisson arrivals."""
    arrivals, now, stays = random.Random(99), 0.0, []
    free = [0.0] * slots
    ready = [0.0] * round(load)
    for _ in range(count):
        if rate:
            now += arrivals.expovariate(load)
        else:
            now = heapq.heappop(ready)
        ended = max(now, heapq.heappop(free)) + draw()
        heapq.heappush(free, ended)
        if not rate:
            heapq.heappush(ready, ended)
        stays.append(ended - now)
    return stays


def attained(stays, limit):
    """The share of them within the limit, and their design effect: how many count for one, as
    those that queue together meet and miss together."""
    mets = [stay <= limit for stay in stays]
    share = statistics.fmean(mets)
    means = [statistics.fmean(mets[i : i + 1000]) for i in range(0, len(mets), 1000)]
    spread = share * (1 - share)
    return share, max(1.0, 1000 * statistics.variance(means) / spread) if spread else 1.0


def widths_from(target, stays, limit, requests):
    """How far the attainment lies above the target, in widths of the 95 % interval that so many
    requests give: of the one around it or around the target, whichever is wider."""
    share, effect = attained(stays, limit)
    independent = requests / effect
    intervals = (wilson(about * independent, independent) for about in (share, target))
    return (share - target) / max(high - low for low, high in intervals)


class Queue(Awaited):
    """A FIFO server of `slots` places with gamma service times, in the loop's own time."""

    name = "queue"

    def __init__(self, slots, draw):
        self.places, self.draw = asyncio.Semaphore(slots), draw

    async def perform(self, request, watch, timeout):
        watch.sent()
        async with self.places:
            await asyncio.sleep(self.draw())
            watch.mark()
        return Facts("ok", output_tokens=1)


async def searched(search, backend):
    """Drive every stage the search wants, and return where it stands."""
    clock = asyncio.get_running_loop().time
    for plan in search.plans("queue", "m"):
        source, records = PromptSource(0, fixed(8), fixed(1)), []
        stage = StageRun("r", plan, clock, records.append, backend, source)
        await stage.drive()
        tally = tallies(records, search.asked.objectives)[plan.number]
        search.ended(stage, stage_of(stage, tally, 0.0), tally)
    return search.standing
