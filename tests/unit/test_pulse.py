"""A timer that does not wait for the loop: every expiration counts, with its own delay."""

import asyncio
import os
import sys
import time
from itertools import pairwise

import pytest
import uvloop

from loadgen.pulse import INTERVAL, LOOP_INTERVAL, MOST, Pulse, spread

linux = pytest.mark.skipif(sys.platform != "linux", reason="timerfd is Linux's")


def test_a_loop_that_is_free_is_not_late(jump):
    seen = []

    async def run():
        loop = asyncio.get_running_loop()
        pulse = Pulse(lambda at, late: seen.extend((at, each) for each in late), loop.time)
        await asyncio.sleep(10.5 * LOOP_INTERVAL)
        pulse.close()
        await asyncio.sleep(1)

    jump(run())
    assert [late for _, late in seen] == pytest.approx([0] * 10, abs=1e-9)
    assert [at for at, _ in seen] == pytest.approx([LOOP_INTERVAL * n for n in range(1, 11)])


def test_what_was_due_while_the_loop_stood_still_counts_with_its_own_delay(jump):
    seen, gone = [], [0.0]

    async def run():
        loop = asyncio.get_running_loop()
        pulse = Pulse(lambda _at, late: seen.extend(late), lambda: loop.time() + gone[0])
        await asyncio.sleep(2.5 * LOOP_INTERVAL)
        gone[0] = 5 * LOOP_INTERVAL  # a standstill of so long
        await asyncio.sleep(3 * LOOP_INTERVAL)
        pulse.close()

    jump(run())
    late = [round(each / LOOP_INTERVAL, 6) for each in seen]
    assert late[:8] == [0, 0, 5, 4, 3, 2, 1, 0]
    assert set(late[8:]) <= {0}


@linux
def test_the_kernels_timer_goes_on_while_the_loop_is_held():
    async def run():
        zero, seen = time.monotonic(), []
        pulse = Pulse(
            lambda at, late: seen.extend((at, each) for each in late),
            lambda: time.monotonic() - zero,
            zero,
        )
        await asyncio.sleep(3 * INTERVAL)
        held = time.monotonic() + 20 * INTERVAL
        while time.monotonic() < held:
            pass
        await asyncio.sleep(3 * INTERVAL)
        pulse.close()
        return seen

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        seen = runner.run(run())
    longest = max(seen, key=lambda each: each[1])
    together = [late for at, late in seen if at == longest[0]]
    assert longest[1] >= 18 * INTERVAL
    assert len(together) >= 19
    assert [a - b for a, b in pairwise(together)] == pytest.approx([INTERVAL] * (len(together) - 1))
    assert all(late >= 0 for _, late in seen)


@linux
def test_it_gives_its_descriptor_back():
    async def run():
        before = len(os.listdir("/proc/self/fd"))
        pulse = Pulse(lambda _at, _late: None, time.monotonic, 0.0)
        during = len(os.listdir("/proc/self/fd"))
        pulse.close()
        pulse.close()
        return before, during, len(os.listdir("/proc/self/fd"))

    before, during, after = asyncio.run(run())
    assert (during, after) == (before + 1, before)


@pytest.mark.parametrize("times", [1, 2, MOST, MOST + 1, 50_000])
def test_of_a_long_standstill_evenly_chosen_beats_are_told(times):
    told = list(spread(times))
    assert told[0] == 0
    assert len(told) <= MOST
    assert len(told) >= min(times, MOST // 2)
    assert len({b - a for a, b in pairwise(told)}) <= 1
    assert times - told[-1] <= -(-times // MOST)
