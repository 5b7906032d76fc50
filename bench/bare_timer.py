"""The floor of an open loop: pre-rendered requests sent when a bare timerfd says so.

Requests are due at Poisson instants and carry their number as seed; the instants (monotonic
nanoseconds) go to a file. What a reply holds nobody looks at.
"""

import array
import asyncio
import ctypes
import os
import random
import struct
import sys
import time
from pathlib import Path

import uvloop

port, requests, rate = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
pattern, due_file = Path(sys.argv[4]).read_bytes(), Path(sys.argv[5])
STREAMS = 256
libc = ctypes.CDLL(None, use_errno=True)


class Stream(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport


def set_timer(timer, instant):
    """Ring once at a monotonic instant in nanoseconds (TFD_TIMER_ABSTIME)."""
    libc.timerfd_settime(timer, 1, struct.pack("qqqq", 0, 0, *divmod(instant, 10**9)), None)


async def main():
    loop = asyncio.get_running_loop()
    made = [await loop.create_connection(Stream, "127.0.0.1", port) for _ in range(STREAMS)]
    messages = [pattern.replace(b'"seed":0', b'"seed":%d' % (10**8 + n)) for n in range(requests)]
    draw, due, over = random.Random(0), array.array("q"), asyncio.Event()
    at = time.monotonic_ns() + 10**8
    for _ in range(requests):
        due.append(at)
        at += int(draw.expovariate(rate) * 1e9)
    timer, place = libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK), 0

    def ring():
        nonlocal place
        os.read(timer, 8)
        while place < requests and due[place] <= time.monotonic_ns():
            made[place % STREAMS][0].write(messages[place])
            place += 1
        if place < requests:
            set_timer(timer, due[place])
        else:
            loop.call_later(1, over.set)

    loop.add_reader(timer, ring)
    set_timer(timer, due[0])
    await over.wait()
    return due


due_file.write_bytes(uvloop.run(main()))
