"""Servers without a model: words on a schedule, scripted failures, and a log of their own.

A protocol (`Front`) says what is understood and answered, a `Pace` when tokens are made; the
conduct between them is here. `GET /fake/log` tells what really happened, so that whatever a
client measures can be held against the server's own truth.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Self

from loadgen.fakes.http import Call, Line
from loadgen.fakes.listener import Listener
from loadgen.fakes.openai import OpenAI
from loadgen.fakes.paces import Pace, Scripted, Turn
from loadgen.fakes.protocol import Front, Job, Reply, reply
from loadgen.fakes.script import AT_ONCE, HALF_WAY, REFUSALS, Script
from loadgen.fakes.slots import VisitLog


class Server(Listener):
    """One protocol at one pace: `async with Server(front, pace, script) as server:`."""

    def __init__(
        self,
        front: Front,
        pace: Pace,
        script: Script | None = None,
        port: int = 0,
        host: str = "127.0.0.1",
    ) -> None:
        self.script = script or Script()
        super().__init__(port, host, split=self.script.split_bytes)
        self.front = front
        self.pace = pace
        self.log = VisitLog()
        self._drive: asyncio.Task[None] | None = None

    async def driven(self) -> None:
        """Until the pace fails, which it never should: its exception comes here."""
        assert self._drive is not None
        await asyncio.shield(self._drive)

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        self._drive = asyncio.create_task(self.pace.run())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await super().__aexit__(kind, fault, trace)
        assert self._drive is not None
        self._drive.cancel()
        with suppress(asyncio.CancelledError):
            await self._drive

    async def _route(self, line: Line, call: Call) -> None:
        if self.front.generates(call):
            await self._generate(line, call)
        elif call.method == "GET" and call.path == "/fake/log":
            await self._reply(line, reply(200, {**self.log.to_json(), **self.pace.facts()}))
        else:
            found = self.front.page(call, self.pace)
            await self._reply(line, found or reply(404, {"detail": "Not Found"}))

    async def _reply(self, line: Line, said: Reply) -> None:
        headers = {**self.front.headers, **said.headers}
        await line.answer(said.status, said.body, said.kind, headers)

    async def _generate(self, line: Line, call: Call) -> None:
        visit = self.log.arrive()
        visit.request_id = call.headers.get("x-request-id")
        outcome, at = "gone", None
        try:
            ask = self.front.ask(call, self.pace)
            failure = self.script.failure(visit.index)
            if isinstance(ask, Reply):
                await self._reply(line, ask)
                outcome = "ok" if ask.status < 400 else "rejected"
                return
            visit.prompt_tokens = len(ask.prompt)
            job = Job(ask, visit, failure)
            if failure not in AT_ONCE and self.pace.full(ask):
                failure = "busy"
            if failure in AT_ONCE:
                await self._fail_at_once(line, job, failure)
                outcome = failure
            else:
                outcome, at = await self._serve(line, job)
        finally:
            self.log.depart(visit, outcome, at)

    async def _fail_at_once(self, line: Line, job: Job, failure: str) -> None:
        if failure in REFUSALS:
            await self._reply(line, self.front.refusal(failure, job.ask))
        elif failure == "html":
            await line.answer(200, b"<html><body>Welcome</body></html>", "text/html")
        elif failure == "redirect":
            await line.answer(307, b"", "text/plain", {"Location": "/elsewhere"})
        else:
            line.open = False

    async def _serve(self, line: Line, job: Job) -> tuple[str, float]:
        """The whole turn; the outcome, and the instant at which its place was left."""
        turn = self.pace.take(job.visit, job.ask, lambda: line.gone)
        outcome = "gone"
        try:
            await turn.begin()
            if not line.gone:
                outcome = await (self._stream if job.ask.stream else self._whole)(line, job, turn)
        except ConnectionError:
            line.open = False
        finally:
            left = turn.leave()
        return outcome, left

    async def _whole(self, line: Line, job: Job, turn: Turn) -> str:
        async for made in turn.made():
            if line.gone:
                return "gone"
            if job.failure in HALF_WAY and made > job.ask.output // 2:
                return await self._break(line, job, started=False)
            job.visit.output_tokens = made
        if job.visit.output_tokens < job.ask.output:
            return "gone"
        await self._reply(line, self.front.whole(job))
        return "ok"

    async def _stream(self, line: Line, job: Job, turn: Turn) -> str:
        started = self.front.head_first
        if started:
            await self._open(line, job)
        sent, output = 0, job.ask.output
        breaks = output // 2 if job.failure in HALF_WAY else output
        async for made in turn.made():
            if line.gone:
                return "gone"
            if not started:
                started = True
                await self._open(line, job)
            if (stop := min(made, breaks)) > sent and stop < output:
                await line.chunks(*self.front.tokens(job, sent, stop))
                sent = stop
            job.visit.output_tokens = stop
            if made > breaks:
                return await self._break(line, job, started=True)
        if job.visit.output_tokens < output or not started:
            return "gone"
        await line.chunks(*self.front.ending(job, sent), last=True)
        line.open = line.open and not (
            self.script.close_after_stream or self.front.closes_after_stream
        )
        return "ok"

    async def _open(self, line: Line, job: Job) -> None:
        front = self.front
        headers = {**front.headers, **front.stream_headers(job)}
        await line.start_stream(front.stream_kind, headers)
        if opening := front.opening(job):
            await line.chunks(opening)

    async def _break(self, line: Line, job: Job, *, started: bool) -> str:
        failure = job.failure or ""
        if failure in ("error_event", "not_json"):
            if started:
                broken = self.front.died if failure == "error_event" else self.front.garbage
                await line.chunks(*broken(), last=True)
            else:
                await self._reply(line, self.front.refusal("internal", job.ask))
            return failure
        if failure == "stall":
            await line.until_gone()
        elif failure == "reset":
            line.reset()
        line.open = False
        return failure


class FakeServer(Server):
    """The OpenAI protocol with fixed service times: `async with FakeServer(Script()) as s:`."""

    def __init__(self, script: Script | None = None, *, port: int = 0) -> None:
        script = script or Script()
        front = OpenAI(
            script.models,
            usage=script.usage,
            metrics=script.metrics,
            lists_models=script.lists_models,
        )
        super().__init__(front, Scripted(script), script, port)
