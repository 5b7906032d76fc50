"""Signals reach a run as calls while it lasts, and whoever had them before afterwards."""

import asyncio
import os
import signal

import pytest
import uvloop

from loadgen.signals import ENDING, handled


@pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_signals_are_calls_while_it_lasts_and_as_before_afterwards(factory):
    heard, news = [], asyncio.Event()

    def hear(whose, number):
        heard.append((whose, number))
        news.set()

    def mine(number, _frame):
        hear("mine", number)

    async def one_more():
        news.clear()
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(news.wait(), 10)

    async def main():
        with handled(lambda number: hear("run", number)):
            assert all(signal.getsignal(number) != before[number] for number in ENDING)
            await one_more()
        assert signal.getsignal(signal.SIGTERM) is mine
        await one_more()

    kept = signal.signal(signal.SIGTERM, mine)
    before = {number: signal.getsignal(number) for number in ENDING}
    try:
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(main())
        assert {number: signal.getsignal(number) for number in ENDING} == before
    finally:
        signal.signal(signal.SIGTERM, kept)
    assert heard == [("run", signal.SIGTERM), ("mine", signal.SIGTERM)]
