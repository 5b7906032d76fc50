"""Work in portions: in order, none lost, and the event loop gets its turn between two of them."""

import asyncio

import pytest

from loadgen.wire.turns import PORTION, Turns


class Ending:
    """Work of a fixed length on a clock of its own."""

    def __init__(self, seconds):
        self.now, self.seconds, self.done = 1.0, seconds, []

    def clock(self):
        return self.now

    def work(self, what):
        self.done.append(what)
        self.now += self.seconds


def test_what_exceeds_a_portion_waits_for_the_next_turns_in_order(jump):
    ending = Ending(0.4 * PORTION)

    async def burst():
        turns, seen = Turns(ending.work, ending.clock), []
        for number in range(10):
            turns.take(number)
        while len(ending.done) < 10:
            seen.append(len(ending.done))
            await asyncio.sleep(0)
        return seen

    assert jump(burst()) == [3, 6, 9]
    assert ending.done == list(range(10))


def test_what_comes_while_others_wait_comes_after_them(jump):
    ending = Ending(2 * PORTION)

    async def burst():
        turns = Turns(ending.work, ending.clock)
        for number in range(3):
            turns.take(number)
        await asyncio.sleep(0)
        turns.take(3)
        for _ in range(5):
            await asyncio.sleep(0)

    jump(burst())
    assert ending.done == [0, 1, 2, 3]


def test_one_at_a_time_is_worked_on_at_once(jump):
    ending = Ending(2 * PORTION)

    async def apart():
        turns = Turns(ending.work, ending.clock)
        for number in range(3):
            turns.take(number)
            assert ending.done[-1] == number
            await asyncio.sleep(0)
            await asyncio.sleep(0)

    jump(apart())


def test_what_is_dropped_is_not_worked_on(jump):
    ending = Ending(2 * PORTION)

    async def burst():
        turns = Turns(ending.work, ending.clock)
        for number in range(4):
            turns.take(number)
        turns.drop(2)
        turns.drop(0)  # too late
        for _ in range(5):
            await asyncio.sleep(0)

    jump(burst())
    assert ending.done == [0, 1, 3]


def test_work_that_raises_does_not_stop_what_waits(jump):
    ending = Ending(2 * PORTION)

    def work(what):
        ending.work(what)
        if what == 1:
            raise OSError("disk full")

    async def burst():
        asyncio.get_running_loop().set_exception_handler(lambda _loop, _context: None)
        turns = Turns(work, ending.clock)
        for number in range(4):
            turns.take(number)
        for _ in range(6):
            await asyncio.sleep(0)

    jump(burst())
    assert ending.done == [0, 1, 2, 3]
    with pytest.raises(OSError, match="disk full"):
        jump(raising(work))


async def raising(work):
    Turns(work, lambda: 1.0).take(1)
