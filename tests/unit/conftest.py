"""An event loop whose clock jumps over every wait: hours of load take milliseconds."""

import asyncio
import selectors

import pytest


class JumpingSelector(selectors.DefaultSelector):
    """Never waits: it hands the time it was asked to wait to the loop's clock."""

    waited = 0.0

    def select(self, timeout=None):
        if timeout is None:
            raise AssertionError("everything waits and no timer is set: a deadlock")
        self.waited += timeout
        return super().select(0)


class JumpingLoop(asyncio.SelectorEventLoop):
    def __init__(self):
        self.jumping = JumpingSelector()
        super().__init__(self.jumping)

    def time(self):
        return self.jumping.waited


@pytest.fixture
def jump():
    """`jump(coroutine)` runs it in virtual time and returns its result."""

    def run(coroutine):
        with asyncio.Runner(loop_factory=JumpingLoop) as runner:
            return runner.run(coroutine)

    return run
