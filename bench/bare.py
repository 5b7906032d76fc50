"""The floor: pre-rendered requests on kept-alive streams, frames counted, one stamp per read."""

import array
import asyncio
import sys
import time
from pathlib import Path

import uvloop

port, streams, unasked, all_frames = map(int, sys.argv[1:5])
request, stamp_file = Path(sys.argv[5]).read_bytes(), Path(sys.argv[6])
stamps, frames, over = array.array("q"), 0, asyncio.Event()


class Stream(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        global frames, unasked  # noqa: PLW0603
        stamps.append(time.monotonic_ns())
        frames += data.count(b"data: ")
        if data.endswith(b"0\r\n\r\n"):
            unasked -= 1
            if unasked >= 0:
                self.transport.write(request)
            elif frames == all_frames:
                over.set()


async def main():
    connect = asyncio.get_running_loop().create_connection
    made = [await connect(Stream, "127.0.0.1", port) for _ in range(streams)]
    [transport.write(request) for transport, _ in made]
    await over.wait()


uvloop.run(main())
stamp_file.write_bytes(stamps)
