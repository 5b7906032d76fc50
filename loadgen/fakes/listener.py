"""Listening: every connection gets its requests answered one after the other."""

from __future__ import annotations

import asyncio
import socket
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self

from loadgen.fakes.http import HEAD_BUDGET, Call, Line


class Listener(ABC):
    """Accepts connections while entered; subclasses answer in `_route`.

    Once bound, the port refuses connections until `__aenter__`.
    """

    def __init__(self, port: int = 0, host: str = "127.0.0.1", *, split: bool = False) -> None:
        self.connections = 0  # ever accepted
        self._split = split
        self._lines: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._socket: socket.socket | None = None
        self._host, self._port = host, port

    def bind(self) -> None:
        """Take the port; OSError when another has it."""
        self._socket = _bound(self._host, self._port)
        self._host, self._port = self._socket.getsockname()[:2]

    @property
    def url(self) -> str:
        """`http://HOST:PORT`, once bound."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}"

    @property
    def asked(self) -> str:
        """The address as an error names it."""
        return f"--host {self._host} --port {self._port}"

    @property
    def open_connections(self) -> int:
        """Connections open now."""
        return len(self._lines)

    async def __aenter__(self) -> Self:
        if self._socket is None:
            self.bind()
        self._server = await asyncio.start_server(
            self._accept, sock=self._socket, limit=HEAD_BUDGET, backlog=1024
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in tuple(self._lines):
            task.cancel()
        await asyncio.gather(*self._lines, return_exceptions=True)
        await self._server.wait_closed()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.create_task(self._converse(Line(reader, writer, split=self._split)))
        self._lines.add(task)
        task.add_done_callback(self._lines.discard)

    async def _converse(self, line: Line) -> None:
        try:
            while line.open and (call := await line.receive()) is not None:
                await self._route(line, call)
        except ConnectionError:
            line.open = False
        except asyncio.CancelledError:
            line.abort()
            raise
        finally:
            await line.close()

    @abstractmethod
    async def _route(self, line: Line, call: Call) -> None:
        """Answer one call."""


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sets TCP_NODELAY only where the protocol is spelled out.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except OSError:
        bound.close()
        raise
    bound.setblocking(False)
    return bound
