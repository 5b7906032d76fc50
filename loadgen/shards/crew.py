"""The processes that send a run's requests, from their birth to their end."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Collection
from dataclasses import asdict
from functools import partial
from pathlib import Path

from contract.errors import ConfigError, DataError, LabError, LostError, TargetError
from contract.rundir import REPLIES
from contract.shards import replies_of, requests_of
from loadgen.backends.base import Target
from loadgen.config import RunConfig
from loadgen.shards.link import Link, Message, connected
from loadgen.shards.merge import Merge

READY_SECONDS = 60.0  # that a shard may take to begin
LEAVING_SECONDS = 5.0  # and to end


class Crew:
    """So many shards, and what they write. `said` hears what one should know at once.

    `loss` is the first shard that went away unasked; `answered` whether the target ever was
    there.
    """

    path: Path
    merge: Merge

    def __init__(self, shards: int, said: Callable[[str], None]) -> None:
        self.shards = shards
        self.loss: LostError | None = None
        self.answered = False
        self._said = said
        self._processes: list[subprocess.Popen[bytes]] = []
        self._links: dict[int, Link] = {}
        self._heard = asyncio.Queue[tuple[int, Message]]()
        self._leaving = False
        self._reaping: set[asyncio.Task[None]] = set()

    @property
    def living(self) -> frozenset[int]:
        """The shards that are there."""
        return frozenset(self._links)

    async def start(self, config: RunConfig, target: Target, path: Path, epoch: float) -> None:
        """Have all of them ready for the first stage of the run in `path`, whose clock is 0 at
        `epoch`; LabError if they cannot be."""
        self.path = path
        setup = {
            "run": path.name,
            "epoch": epoch,
            "path": os.path.abspath(path),  # noqa: ASYNC240  # asks no disk
            "config": config.model_dump(mode="json"),
            "target": asdict(target),
        }
        for shard in range(self.shards):
            own, theirs = socket.socketpair()
            with theirs:
                self._processes.append(_born(theirs))
            heard, gone = partial(self._hear, shard), partial(self._gone, shard)
            link = self._links[shard] = await connected(own, heard, gone)
            link.say({**setup, "part": [shard, self.shards]})
        try:
            async with asyncio.timeout(READY_SECONDS):
                await self._all_ready()
        except TimeoutError:
            raise LostError(f"not all shards were ready within {READY_SECONDS:g} s", 1) from None
        self.merge = Merge([requests_of(path, shard) for shard in range(self.shards)])

    async def _all_ready(self) -> None:
        for _ in range(self.shards):
            _, message = await self.heard()
            self.check()
            if "error" in message:
                raise error_of(*message["error"])

    def say(self, message: Message) -> None:
        """Tell all that are there."""
        for link in self._links.values():
            link.say(message)

    async def heard(self) -> tuple[int, Message]:
        """The next message of any of them; `lost` where it is gone."""
        return await self._heard.get()

    def check(self) -> None:
        """LostError when one of them went away."""
        if self.loss is not None:
            raise self.loss

    def kill(self, shards: Collection[int]) -> None:
        """End those that do not end by themselves."""
        for shard in shards:
            self._processes[shard].kill()

    async def close(self, *, merged: bool) -> None:
        """End all of them. Their files go where everything in them was `merged`, and stay to be
        read with the run where not."""
        self._leaving = True
        self.say({"end": True})
        for process in self._processes:
            await asyncio.to_thread(_ended, process)
        for link in self._links.values():
            link.close()
        if not hasattr(self, "merge"):
            return
        self.merge.close()
        for shard in range(self.shards):
            if merged:
                requests_of(self.path, shard).unlink(missing_ok=True)
            _append(replies_of(self.path, shard), self.path / REPLIES)

    def _hear(self, shard: int, message: Message) -> None:
        self._heard.put_nowait((shard, message))

    def _gone(self, shard: int) -> None:
        """The line to one of them was cut: by its end, which is awaited."""
        del self._links[shard]
        if not self._leaving:
            reaping = asyncio.create_task(self._reap(shard))
            self._reaping.add(reaping)
            reaping.add_done_callback(self._reaping.discard)

    async def _reap(self, shard: int) -> None:
        process = self._processes[shard]
        code = await asyncio.to_thread(_ended, process)
        error = lost(shard, process.pid, code)
        if self.loss is None:
            self.loss = error
            self._said(f"shard {shard} is lost: draining the others")
        self._hear(shard, {"lost": str(error)})


def lost(shard: int, pid: int, code: int) -> LostError:
    """What is said of a shard that ended with this code, negative for a signal."""
    how = (
        f"was killed by {signal.Signals(-code).name}"
        if code < 0
        else f"ended with exit code {code}"
    )
    kept = "what it had written is kept, what it had in flight is lost"
    return LostError(f"shard {shard} (process {pid}) {how}: {kept}", 128 - code if code < 0 else 1)


def error_of(code: int, line: str) -> LabError:
    """What a shard met, as it would have been met here."""
    for kind in (ConfigError, TargetError):
        if kind.exit_code == code:
            return kind(line)
    return DataError(line)


def _born(theirs: socket.socket) -> subprocess.Popen[bytes]:
    """A new shard, out of reach of the terminal's signals: only its conductor ends it."""
    # What is importable here is so there, and nothing that lies in the working directory.
    paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "loadgen.shards.process", str(theirs.fileno())],
        pass_fds=[theirs.fileno()],
        env={**os.environ, "PYTHONPATH": paths},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        process_group=0,
    )


def _ended(process: subprocess.Popen[bytes]) -> int:
    """Wait for its end, and bring it about if need be; its exit code."""
    try:
        return process.wait(LEAVING_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def _append(part: Path, whole: Path) -> None:
    """Put the lines of a shard's file behind those that are there, and take it away."""
    if not part.exists():
        return
    descriptor = os.open(whole, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with part.open("rb") as lines, os.fdopen(descriptor, "ab") as file:
        shutil.copyfileobj(lines, file)
    part.unlink()
