"""What conductor and shard say to each other: JSON, one message a line, over a socket pair.

conductor says   setup    who the shard is, and the run it takes part in; once, first
                 stage    the number of the next one: get ready for it
                 go       the instant at which all begin
                 window   [start, end] as far as they are known
                 abort    cancel what is in flight
                 end      close everything and leave
shard says       ready    it has all it needs
                 warm     its connections are open: it can begin
                 beat     [instant, in flight, lags]: all that ended before it is on disk
                 done     [instant, records]: it drained; when its load was over, how many
                          records it has written since its birth; beside it `stamps`, what its
                          reads were
                 error    [exit code, line]: what it met, which ends its part
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any, cast

import orjson

Message = dict[str, Any]


class Link(asyncio.Protocol):
    """One end of the line. `heard` is called with every message, `lost` once the other end is
    gone or this one is closed."""

    def __init__(self, heard: Callable[[Message], None], lost: Callable[[], None]) -> None:
        self._heard = heard
        self._lost = lost
        self._rest = b""
        self._transport: asyncio.WriteTransport | None = None

    def say(self, message: Message) -> None:
        """Send one message; nobody hears it where the other end is gone."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(orjson.dumps(message, option=orjson.OPT_APPEND_NEWLINE))

    def close(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._heard(orjson.loads(line))

    def connection_lost(self, _error: Exception | None) -> None:
        self._transport = None
        self._lost()


async def connected(
    end: socket.socket, heard: Callable[[Message], None], lost: Callable[[], None]
) -> Link:
    """The link over one end of a socket pair."""
    loop = asyncio.get_running_loop()
    _, link = await loop.create_unix_connection(lambda: Link(heard, lost), sock=end)
    return link
