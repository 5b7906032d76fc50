"""The ticker on asyncio and uvloop, with the kernel's timer and the loop's, and in virtual time.

Nothing here asserts a duration: only order, due instants, and that nothing comes early.
"""

import asyncio
import os
import sys
import time
from pathlib import Path

import pytest
import uvloop

from loadgen.ticker import RESOLUTION, Ticking, tick, timerfd, wait_until

linux = pytest.mark.skipif(sys.platform != "linux", reason="timerfd is Linux's")


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request):
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop

    def go(coroutine):
        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(coroutine)

    return go


@pytest.fixture(params=[pytest.param(True, marks=linux), False], ids=["kernel", "loop"])
def timebase(request):
    """(clock with its zero now, its origin or None)."""
    zero = time.monotonic()
    return lambda: time.monotonic() - zero, zero if request.param else None


def timers():
    """How many timerfds this process holds."""
    links = (entry for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink())
    found = 0
    for link in links:
        try:
            found += os.readlink(link) == "anon_inode:[timerfd]"
        except FileNotFoundError:  # the listing's own
            continue
    return found


def test_calls_come_in_order_each_with_its_due_and_none_early(run, timebase):
    clock, origin = timebase
    dues = [0.0, 0.001, 0.001, 0.0035, 0.00351, 0.02, 0.0201]
    seen = []
    run(tick(enumerate(dues), lambda n, due: seen.append((n, due, clock())), clock, origin))
    assert [(n, due) for n, due, _ in seen] == list(enumerate(dues))
    assert all(now >= due - RESOLUTION for _, due, now in seen)


def test_waiting_until_an_instant_does_not_return_before_it(run, timebase):
    clock, origin = timebase

    async def wait():
        for _ in range(20):
            instant = clock() + 0.0007
            await wait_until(instant, clock, origin)
            assert clock() >= instant - RESOLUTION

    run(wait())


def test_an_instant_that_has_passed_is_called_at_once(run, timebase):
    clock, origin = timebase
    seen = []
    run(tick([(0, -1e9), (1, -5.0)], lambda n, due: seen.append((n, due)), clock, origin))
    assert seen == [(0, -1e9), (1, -5.0)]


def test_a_backlog_leaves_other_callbacks_their_turn(run, timebase):
    clock, origin = timebase

    async def backlog():
        order, loop = [], asyncio.get_running_loop()
        loop.call_soon(order.append, "other")
        await tick(((n, -1.0) for n in range(1000)), lambda n, _: order.append(n), clock, origin)
        return order

    order = run(backlog())
    assert order.index("other") < 999
    assert [entry for entry in order if entry != "other"] == list(range(1000))


def test_what_a_call_raises_ends_the_ticking(run, timebase):
    clock, origin = timebase
    seen = []

    def third_fails(number, _due):
        seen.append(number)
        if number == 2:
            raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        run(tick(((n, 0.001 * n) for n in range(9)), third_fails, clock, origin))
    assert seen == [0, 1, 2]


def test_a_look_between_two_rings_calls_what_is_due_by_then_and_nothing_else(run):
    now, seen = [0.0], []

    async def looked():
        dues = enumerate([0.0, 5.0, 5.0, 1e6])
        ticking = Ticking(dues, lambda number, _due: seen.append(number), lambda: now[0])
        ticking.look()  # it does not run yet
        running = asyncio.ensure_future(ticking.run())
        await asyncio.sleep(0)
        ticking.look()
        before = list(seen)
        now[0] = 5.5
        ticking.look()
        after = list(seen)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        now[0] = 2e6
        ticking.look()  # nor any more
        return before, after

    assert run(looked()) == ([0], [0, 1, 2])
    assert seen == [0, 1, 2]


def test_a_look_from_within_a_call_waits_for_the_calls_end(run, timebase):
    clock, origin = timebase
    order = []

    async def nested():
        def on_due(number, _due):
            order.append(f"begin {number}")
            ticking.look()
            order.append(f"end {number}")

        ticking = Ticking(enumerate([-2.0, -1.0, -1.0]), on_due, clock)
        await ticking.run(origin)

    run(nested())
    assert order == [f"{what} {n}" for n in range(3) for what in ("begin", "end")]


@linux
def test_a_whole_schedule_takes_one_descriptor_and_gives_it_back(run):
    zero = time.monotonic()
    before, during = timers(), []
    run(
        tick(
            ((n, 0.0005 * n) for n in range(20)),
            lambda *_: during.append(timers()),
            lambda: time.monotonic() - zero,
            zero,
        )
    )
    assert set(during) == {before + 1}
    assert timers() == before


@linux
def test_cancelling_stops_the_calls_and_gives_the_descriptor_back(run):
    zero, before, seen = time.monotonic(), timers(), []

    async def cancelled():
        first = asyncio.Event()

        def on_due(number, _due):
            seen.append(number)
            first.set()

        schedule = [(0, 0.0), (1, 3600.0)]
        ticking = asyncio.ensure_future(
            tick(schedule, on_due, lambda: time.monotonic() - zero, zero)
        )
        await first.wait()
        ticking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await ticking

    run(cancelled())
    assert seen == [0]
    assert timers() == before


@linux
def test_linux_has_a_timerfd():
    descriptor = timerfd()
    assert descriptor is not None
    os.close(descriptor)


def test_virtual_time_jumps_from_due_to_due(jump):
    async def play():
        clock, seen = asyncio.get_running_loop().time, []
        dues = [0.0, 0.5, 0.5, 90.25, 3600.0]
        await tick(enumerate(dues), lambda n, due: seen.append((due, clock())), clock)
        return seen

    seen = jump(play())
    assert [due for due, _ in seen] == [0.0, 0.5, 0.5, 90.25, 3600.0]
    assert all(now == pytest.approx(due, abs=1e-9) for due, now in seen)


def test_an_empty_schedule_is_over_at_once(jump):
    async def play():
        await tick([], lambda n, due: pytest.fail("called"), asyncio.get_running_loop().time)
        return asyncio.get_running_loop().time()

    assert jump(play()) == 0.0
