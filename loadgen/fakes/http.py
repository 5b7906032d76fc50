"""Just enough HTTP/1.1 for a scripted server, with its framing in the script's own hands."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

HEAD_BUDGET = 64 * 1024  # bytes


@dataclass(frozen=True, slots=True)
class Call:
    """One request as received; header names in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


class Line:
    """One client connection. `split` sends every byte by itself."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, split: bool = False
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._split = split
        self.open = True

    async def receive(self) -> Call | None:
        """The next request, or None when the client has gone."""
        try:
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first, *rest = head.rstrip("\r\n").split("\r\n")
            pairs = (line.partition(":") for line in rest)
            headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
            body = await self._reader.readexactly(int(headers.get("content-length", "0")))
            method, path, _ = first.split(" ", 2)
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError, ValueError):
            return None
        self.open = headers.get("connection", "").lower() != "close"
        return Call(method, path, headers, body)

    @property
    def gone(self) -> bool:
        """Whether the client hung up."""
        return self._reader.at_eof() or self._writer.transport.is_closing()

    async def until_gone(self) -> None:
        """Say nothing until the client hangs up."""
        try:
            while await self._reader.read(2**16):
                pass
        except OSError:
            self.open = False

    async def send(self, data: bytes) -> None:
        """Write; ConnectionError when the client has gone."""
        if not self._split:
            self._writer.write(data)
            await self._writer.drain()
            return
        for byte in data:
            self._writer.write(bytes((byte,)))
            await self._writer.drain()
            await asyncio.sleep(0)

    async def answer(
        self, status: int, body: bytes, kind: str, headers: Mapping[str, str] | None = None
    ) -> None:
        """One whole response."""
        fields = {"Content-Type": kind, "Content-Length": str(len(body)), **(headers or {})}
        await self.send(_head(status, fields) + body)

    async def answer_json(
        self, status: int, document: Any, headers: Mapping[str, str] | None = None
    ) -> None:
        """One whole JSON response."""
        await self.answer(status, json.dumps(document).encode(), "application/json", headers)

    async def start_stream(self, kind: str, headers: Mapping[str, str] | None = None) -> None:
        """The head of a chunked response."""
        fields = {"Content-Type": kind, "Transfer-Encoding": "chunked", **(headers or {})}
        await self.send(_head(200, fields))

    async def chunks(self, *parts: bytes, last: bool = False) -> None:
        """HTTP chunks in one write, with the end of the body after them when `last`."""
        framed = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
        await self.send(framed + (b"0\r\n\r\n" if last else b""))

    def reset(self) -> None:
        """Break the connection off with a TCP reset."""
        raw = self._writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.abort()

    def abort(self) -> None:
        """Drop the connection and whatever is not yet written."""
        self._writer.transport.abort()
        self.open = False

    async def close(self) -> None:
        """Hang up."""
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except OSError:
            self.open = False


def _head(status: int, fields: Mapping[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"]
    lines += [f"{name}: {value}" for name, value in fields.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
