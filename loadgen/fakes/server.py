"""A server that speaks the OpenAI protocol with scripted timing, failures and a log of its own.

It generates words without a model: each request holds one of `slots` for exactly its service
time, tokens leave on an absolute schedule within it, and `GET /fake/log` tells what really
happened, so that whatever a client measures can be held against the server's own truth.

    python -m loadgen.fakes.openai_server --slots 3 --service-seconds 0.1 --port 0 --model tiny
"""

from __future__ import annotations

import asyncio
import time
from types import TracebackType
from typing import Any, Self

from loadgen.fakes.http import HEAD_BUDGET, Call, Line
from loadgen.fakes.openai_answers import DONE, Job, asked, error, event, job
from loadgen.fakes.script import HALF_WAY, Script
from loadgen.fakes.slots import Slots, VisitLog


class FakeServer:
    """The scripted server in this process: `async with FakeServer(Script()) as server:`."""

    def __init__(self, script: Script | None = None, *, port: int = 0) -> None:
        self.script = script or Script()
        self.log = VisitLog()
        self.connections = 0  # ever accepted
        self._port = port
        self._slots = Slots(self.script.slots)
        self._lines: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        """`http://127.0.0.1:PORT`, once entered."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def open_connections(self) -> int:
        """Connections open now."""
        return len(self._lines)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(
            self._accept, "127.0.0.1", self._port, limit=HEAD_BUDGET, backlog=1024
        )
        self._port = self._server.sockets[0].getsockname()[1]
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
        task = asyncio.create_task(
            self._converse(Line(reader, writer, split=self.script.split_bytes))
        )
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

    async def _route(self, line: Line, call: Call) -> None:
        if call.method == "POST" and call.path in ("/v1/completions", "/v1/chat/completions"):
            await self._complete(line, call)
        elif call.method == "GET" and (page := self._page(call.path)) is not None:
            await line.answer_json(200, page)
        else:
            await line.answer_json(404, {"detail": "Not Found"})

    def _page(self, path: str) -> dict[str, Any] | None:
        if path == "/v1/models" and self.script.lists_models:
            listed = [{"id": m, "object": "model", "owned_by": "fake"} for m in self.script.models]
            return {"object": "list", "data": listed}
        if path == "/fake/log":
            return self.log.to_json()
        return {"/version": {"version": "fake-1"}, "/health": {}}.get(path)

    async def _complete(self, line: Line, call: Call) -> None:
        visit = self.log.arrive()
        outcome, at = "gone", None
        try:
            request = asked(call.path, call.body, self.script.models)
            failure = self.script.failure(visit.index)
            if isinstance(request, str):
                await line.answer_json(404 if "exist" in request else 400, error(request))
                outcome = "rejected"
            elif await self._fails_at_once(line, failure):
                outcome = failure or "busy"
            else:
                outcome, at = await self._serve(line, job(visit, request, self.script))
        finally:
            self.log.depart(visit, outcome, at)

    async def _fails_at_once(self, line: Line, failure: str | None) -> bool:
        limit = self.script.queue_limit
        full = limit is not None and self._slots.full and self._slots.waiting >= limit
        if failure == "busy" or full:
            document = error("The engine is busy.", 503, "Service Unavailable")
            await line.answer_json(503, document, {"Retry-After": "1"})
        elif failure == "rate_limit":
            await line.answer_json(429, error("Too many requests.", 429, "RateLimitError"))
        elif failure == "internal":
            await line.answer_json(500, error("The engine failed.", 500, "InternalServerError"))
        elif failure == "html":
            await line.answer(200, b"<html><body>Welcome</body></html>", "text/html")
        elif failure == "redirect":
            await line.answer(307, b"", "text/plain", {"Location": "/elsewhere"})
        elif failure == "drop":
            line.open = False
        else:
            return False
        return True

    async def _serve(self, line: Line, job: Job) -> tuple[str, float]:
        """Hold a slot for the whole answer; the outcome, and the instant the slot was left."""
        start = await self._slots.enter()
        outcome = "gone"
        try:
            if not line.gone:
                job.visit.start = start
                outcome = await (self._stream if job.stream else self._whole)(line, job, start)
        except ConnectionError:
            line.open = False
        finally:
            left = self._slots.leave()
        return outcome, left

    async def _whole(self, line: Line, job: Job, start: float) -> str:
        await _until(start + job.leaves[-1])
        job.visit.output_tokens = len(job.words)
        await line.answer_json(200, job.whole())
        return "ok"

    async def _stream(self, line: Line, job: Job, start: float) -> str:
        await line.start_stream("text/event-stream; charset=utf-8")
        if job.chat:
            await line.chunks(job.role())
        *texts, last = job.texts
        breaks = (len(texts) + 1) // 2 if job.failure in HALF_WAY else None
        for number, leave in enumerate(job.leaves):
            await _until(start + leave)
            if line.gone:
                return "gone"
            if number == breaks:
                return await self._break(line, job.failure or "")
            job.visit.output_tokens = min((number + 1) * job.chunk_words, len(job.words))
            if number < len(texts):
                await line.chunks(job.token(texts[number]))
        await line.chunks(*job.stream_end(last, start - job.visit.arrival), last=True)
        line.open = line.open and not self.script.close_after_stream
        return "ok"

    async def _break(self, line: Line, failure: str) -> str:
        if failure in ("error_event", "not_json"):
            died = event(error("The engine died.", 500, "InternalServerError"))
            broken = died if failure == "error_event" else b"data: {not json\n\n"
            await line.chunks(broken, DONE, last=True)
            return failure
        if failure == "stall":
            await line.until_gone()
        elif failure == "reset":
            line.reset()
        line.open = False
        return failure


async def _until(instant: float) -> None:
    """Sleep to a monotonic instant; never wakes before it."""
    while (left := instant - time.monotonic()) > 0:  # noqa: ASYNC110 - a deadline, not a poll
        await asyncio.sleep(left)
