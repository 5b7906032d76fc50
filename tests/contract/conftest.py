"""Commands called inside this process."""

import signal

import pytest


@pytest.fixture
def _own_signals():
    """A command sets handlers of its own, which are not this process's business."""
    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)
