"""One shard: a process that drives what it is dealt of every stage, and writes its records.

`python -m loadgen.shards.process FD` is started by the conductor, with its end of the line as
that descriptor, and leaves when the line is cut.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from contract.errors import DataError, LabError
from contract.jsonl import LineFile
from contract.records import RequestRecord
from contract.shards import Part, replies_of, requests_of
from loadgen.backends import BACKENDS
from loadgen.backends.base import Target
from loadgen.backends.fleet import join, servers
from loadgen.config import RunConfig
from loadgen.engine import StageRun
from loadgen.event_loop import runner
from loadgen.journal import Journal
from loadgen.quiet import thaw
from loadgen.replies import source_for
from loadgen.shards.link import Link, Message, connected
from loadgen.stages import plans

BEAT = 0.05  # seconds between two words about how far it is


@dataclass(slots=True)
class Share(StageRun):
    """A shard's part of a stage: the conductor alone says when the window opens and ends."""

    lags: list[float] = field(default_factory=list)  # instant and seconds, in turn

    def lagged(self, at: float, seconds: float) -> None:
        """Keep a reading: the conductor knows whether the window was open."""
        self.lags += (at, seconds)

    def told(self, start: float | None, end: float | None) -> None:
        """What is known of the window now."""
        if start is not None:
            self.start = start
        if end is not None and end < self.end:
            self.end = end
            self.close_on_time()


class Shard:
    """What a shard is and has, for a whole run."""

    def __init__(self, setup: Message, link: Link, tasks: asyncio.TaskGroup) -> None:
        self._link = link
        self._tasks = tasks  # what they do not expect ends the process
        self._run: str = setup["run"]
        self._epoch: float = setup["epoch"]
        self._part = Part(*setup["part"])
        config = RunConfig.model_validate(setup["config"])
        target = Target(**setup["target"])
        backend = BACKENDS[config.backend.kind].build(config)
        self._backend = backend
        join(backend, target)
        self._plans = plans(config, backend.name, target.model)
        path = Path(setup["path"])
        self._requests = LineFile(requests_of(path, self._part.shard))
        self._requests.append([])
        self._written = 0
        self._replies = LineFile(replies_of(path, self._part.shard), 0o600)
        self._source = source_for(
            config, self._run, backend.tokenizer(), lambda reply: self._replies.append([reply])
        )
        self._stage: Share
        self._journal: Journal

    def clock(self) -> float:
        """Seconds since the run's epoch, the same in all its processes."""
        return round(time.monotonic() - self._epoch, 9)

    async def hear(self, message: Message) -> None:
        """Do what the conductor says. LabError when it cannot be done."""
        match message:
            case {"stage": number, "answered": answered}:
                if answered:
                    for server in servers(self._backend):
                        server.answered("ok")
                await self._get_ready(number)
            case {"go": instant}:
                self._stage.due = instant
                self._tasks.create_task(self._drive())
            case {"window": [start, end]}:
                self._stage.told(start, end)
            case {"abort": _}:
                self._stage.abort()

    async def close(self) -> None:
        """Leave nothing open."""
        await self._backend.close()
        for file in (self._requests, self._replies):
            file.close()

    async def _get_ready(self, number: int) -> None:
        plan = next(self._plans)
        assert plan.number == number, "every process plans the same stages"
        # The conductor counts, and says when it is enough.
        driven = replace(
            plan, load=plan.load.dealt(self._part), warmup=sys.maxsize, warmup_seconds=0.0,
            seconds=None, requests=None, most_errors=None,
        )  # fmt: skip
        self._stage = Share(
            self._run, driven, self.clock, self._emit, self._backend, self._source, self._epoch
        )
        self._journal = Journal(self._append, self._stage.fail)
        await self._stage.warm()
        self._link.say({"warm": plan.number})

    async def _drive(self) -> None:
        stage = self._stage
        beating = asyncio.create_task(self._beats())
        try:
            await stage.drive()
            self._beat()
            stamps = stage.counts.stamps
            reads = {} if stamps is None else {"stamps": stamps.to_json()}
            self._link.say({"done": [stage.end, self._written], **reads})
        except LabError as error:
            self._link.say({"error": [error.exit_code, str(error)]})
        finally:
            beating.cancel()
            thaw()

    async def _beats(self) -> None:
        while True:
            await asyncio.sleep(BEAT)
            try:
                self._beat()
            except DataError as error:
                self._stage.fail(error)

    def _beat(self) -> None:
        """All that ended before this instant is on disk."""
        self._journal.flush()
        stage = self._stage
        lags, stage.lags = stage.lags, []
        self._link.say({"beat": [self.clock(), stage.in_flight, lags]})

    def _emit(self, record: RequestRecord) -> None:
        self._journal.add(record)

    def _append(self, lines: bytes) -> None:
        self._requests.append_lines(lines)
        self._written += lines.count(b"\n")


async def serve(end: socket.socket) -> None:
    """Take part in one run. With its conductor gone a shard has nobody to be stopped by."""
    heard, ended = asyncio.Queue[Message](), asyncio.Event()

    def cut() -> None:
        if not ended.is_set():
            os._exit(1)

    link = await connected(end, heard.put_nowait, cut)
    async with asyncio.TaskGroup() as tasks:
        try:
            await _take_part(Shard(await heard.get(), link, tasks), heard, link)
        except LabError as error:
            link.say({"error": [error.exit_code, str(error)]})
            while "end" not in await heard.get():
                pass
        ended.set()


async def _take_part(shard: Shard, heard: asyncio.Queue[Message], link: Link) -> None:
    link.say({"ready": os.getpid()})
    try:
        while "end" not in (message := await heard.get()):
            await shard.hear(message)
    finally:
        await shard.close()


def main() -> None:
    """Entry point of the process."""
    end = socket.socket(fileno=int(sys.argv[1]))
    with runner() as loop:
        loop.run(serve(end))


if __name__ == "__main__":
    main()
