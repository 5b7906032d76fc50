"""A whole run: preflight, stages one after the other, files and series, a tidy end.

Whatever happens, what was measured stays: an interrupt, a target that went away and a full
disk end the run early as `partial`, with every finished line readable.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contract.commandline import Interrupted
from contract.errors import DataError, LostError, TargetError
from contract.exporter import Instruments, MetricsServer
from contract.records import Manifest, RequestRecord, RunStatus
from contract.rundir import REQUESTS, RunWriter
from contract.words import number_of
from loadgen.backends.base import Backend, Target
from loadgen.config import RunConfig
from loadgen.engine import Source, StagePlan, StageRun
from loadgen.facts import manifest_of
from loadgen.figures.goodput import parse_goodput
from loadgen.figures.tally import Tally, tallies
from loadgen.journal import Journal
from loadgen.observe import Observer
from loadgen.quiet import quiet, thaw
from loadgen.replies import source_for
from loadgen.signals import handled
from loadgen.stages import Course, Levels
from loadgen.window import Windowed

if TYPE_CHECKING:
    from loadgen.shards.crew import Crew

MANY = 50_000  # records, from which it takes seconds to go through them
SAMPLING = 0.2  # seconds between readings of in-flight and loop lag for the view


@dataclass(slots=True)
class Progress:
    """What a watcher may want to know; the console redraws from it."""

    stage: Windowed | None = None
    number: int = 0
    stages: int = 0  # 0: nobody knows yet

    @property
    def place(self) -> str:
        """`3 of 8`, or `3` where the number of stages is not known."""
        return f"{self.number} of {self.stages}" if self.stages else str(self.number)


@dataclass(slots=True)
class Conduct:
    """One run from preflight to summary. `said` receives one line of progress at a time."""

    config: RunConfig
    backend: Backend
    said: Callable[[str], None] = lambda _line: None
    progress: Progress = field(default_factory=Progress)
    summaries: list[dict[str, Any]] = field(default_factory=list)
    interrupted: int | None = None  # the signal that ended the run early
    path: Path | None = None
    course: Course | None = None  # the configuration's levels where none is given
    _course: Course = field(init=False)
    _source: Source = field(init=False)
    _writer: RunWriter = field(init=False)
    _observer: Observer = field(init=False)
    _server: MetricsServer = field(init=False)
    _reaching: asyncio.Task[Target] = field(init=False)
    _epoch: float = field(init=False, default=0.0)
    _unreset: dict[int, str] = field(init=False, default_factory=dict)  # stage -> why
    _journal: Journal = field(init=False)
    _crew: Crew | None = field(init=False, default=None)
    _whole: bool = field(init=False, default=True)  # whether all that was written is merged
    _aborted: int | None = field(init=False, default=None)  # requests in flight by a second signal
    _answered: bool = field(init=False, default=False)  # a request has ended ok

    def __post_init__(self) -> None:
        self._course = self.course or Levels(self.config)
        if self.config.shards > 1:
            from loadgen.shards.crew import Crew

            self._crew = Crew(self.config.shards, self._say)

    async def run(self) -> Path:
        """Drive every stage; returns the run directory. Raises what ended the run early, after
        the directory was closed."""
        instruments = Instruments("loadgen")
        port = self.config.metrics_port
        self._server = MetricsServer(instruments.registry, self.config.metrics_address, port)
        try:
            with handled(self._interrupt), quiet():
                target = await self._reached()
                self._begin(target, instruments)
                await self._stages(target)
        finally:
            await self.backend.close()
            self._server.close()
        assert self.path is not None
        return self.path

    async def _reached(self) -> Target:
        """The target, open. A signal meanwhile ends it as if nothing had been: Interrupted."""
        self._reaching = asyncio.create_task(self._reach())
        target = None
        try:
            target = await self._reaching
        except asyncio.CancelledError:
            if self.interrupted is None:
                raise
        if target is None or self.interrupted is not None:
            raise Interrupted(128 + (self.interrupted or 0))
        return target

    async def _reach(self) -> Target:
        if self.config.wait_ready:
            from loadgen.backends.fleet import servers
            from loadgen.readiness import wait_all_ready

            await wait_all_ready(servers(self.backend), self.config.wait_ready, self._say)
        return await self.backend.open()

    def _say(self, line: str) -> None:
        self.said(line)  # which changes once a terminal is watched

    @property
    def manifest(self) -> Manifest:
        """The manifest as it stands; there is one once the preflight is over."""
        return self._writer.manifest

    def clock(self) -> float:
        """Seconds since the run's epoch, monotonic, to the nanosecond."""
        return round(time.monotonic() - self._epoch, 9)

    def _begin(self, target: Target, instruments: Instruments) -> None:
        self._epoch, epoch_unix = time.monotonic(), time.time()
        planned = self._course.planned(self.backend.name, target.model)
        manifest = manifest_of(self.config, self.backend.name, target, planned, epoch_unix)
        self._source = source_for(
            self.config, manifest.run, self.backend.tokenizer(), self._keep_reply
        )
        self._writer = RunWriter(Path(self.config.output_dir), manifest)
        self._journal = Journal(self._writer.append_lines, self._unwritable)
        self._observer = Observer(instruments, manifest)
        self.path = self._writer.path
        self.progress.stages = len(planned)
        stages = number_of(len(planned), "stage") if planned else "stages as the search wants them"
        if self._crew is not None:
            stages += f" on {self._crew.shards} shards"
        self.said(
            f"run {manifest.run}: {target.model} on {self.backend.name}, "
            f"{stages}, /metrics on port {self._server.port}"
        )
        for warning in target.warnings:
            self.said(f"warning: {warning}")

    async def _stages(self, target: Target) -> None:
        watcher = asyncio.create_task(self._watch())
        status: RunStatus = "partial"
        note = "the process ended early"
        try:
            if self._crew is not None:
                await self._crew.start(self.config, target, self._writer.path, self._epoch)
            for plan in self._course.plans(self.backend.name, target.model):
                if self.interrupted is None:
                    await self._stage(plan)
                if self.interrupted is not None:
                    note = f"interrupted by {signal.Signals(self.interrupted).name}"
                    if self._aborted is not None:
                        note += f", {_in_flight(self._aborted)} aborted"
                    break
            else:
                status, note = "complete", ""
        except (TargetError, DataError, LostError) as error:
            note = str(error)
            if not self._answered and not isinstance(error, LostError):
                status = "failed"
            raise
        finally:
            watcher.cancel()
            if self._crew is not None:
                await self._crew.close(merged=self._whole)
            self._end(status, note)
            await self._close_files()
            if self.interrupted is None:
                await self._linger()

    def _stage_run(self, plan: StagePlan) -> Windowed:
        """A stage, by whoever sends its requests."""

        def opened(start: float) -> None:
            self._observer.opened(plan.number, plan.key, start)

        run, clock, emit = self.manifest.run, self.clock, self._emit
        if self._crew is None:
            sender = self.backend, self._source, self._epoch
            return StageRun(run, plan, clock, emit, *sender, opened=opened)
        from loadgen.shards.stage import ShardedStage

        seen = self._observer.loop_lag
        return ShardedStage(run, plan, clock, emit, self._crew, seen, opened=opened)

    async def _stage(self, plan: StagePlan) -> None:
        if self._crew is not None:
            self._crew.check()
        self._expect(plan)
        stage, self._whole = self._stage_run(plan), False
        self.progress.stage, self.progress.number = stage, plan.number
        self.said(f"stage {self.progress.place}: {plan.key.level}")
        if self.config.reset_cache:
            await self._reset_cache(plan.number)
        await stage.warm()
        begun = self._writer.written
        driving = asyncio.create_task(stage.drive())
        try:
            await driving
        except asyncio.CancelledError:
            if self.interrupted is None:
                raise
        finally:
            self._answered = self._answered or stage.counts.ok > 0
            self.progress.stage = None  # what the last lines meet ends the run, not the stage
            self._journal.flush()
        if stage.counts.sent > MANY:
            self.said(f"reading {stage.counts.sent} records back")
        tally = await asyncio.to_thread(self._tally, stage, begun)
        self._whole = True
        from loadgen.figures.stage_end import (
            stage_of,  # like the summary nothing a sender has a use for
        )
        from loadgen.figures.summary import stage_summary

        done = stage_of(stage, tally, self.manifest.epoch_unix)
        self._writer.append_stage(done)
        self._observer.closed(done)
        lags, percentiles = stage.counts.loop_lags, self.config.percentiles
        addresses = self.manifest.addresses
        self.summaries.append(stage_summary(done, tally, percentiles, lags, addresses))
        if self.interrupted is not None:
            return
        if self._crew is not None:
            self._crew.check()
        self._course.ended(stage, done, tally)
        thaw()

    async def _reset_cache(self, stage: int) -> None:
        """Empty the server's prefix cache, or say once that it cannot be done."""
        from loadgen.backends.fleet import servers
        from loadgen.backends.surveyed import reset_caches

        if (why := await reset_caches(servers(self.backend))) is not None:
            if not self._unreset:
                self.said(f"warning: the prefix cache is not reset: {why}")
            self._unreset[stage] = why

    def _tally(self, stage: Windowed, begun: int) -> Tally:
        """A stage's records, read back from where it began. DataError when not all are there."""
        objectives = parse_goodput(self.config.goodput) if self.config.goodput else None
        tally = tallies(self._writer.records(begun), objectives)[stage.plan.number]
        if tally.sent != stage.counts.sent:
            raise DataError(
                f"{self._writer.path / REQUESTS}: {tally.sent} records of stage "
                f"{stage.plan.number} found, {stage.counts.sent} were written"
            )
        return tally

    def _expect(self, plan: StagePlan) -> None:
        """Let manifest and view know of a stage that is decided only now."""
        if plan.number > len(self.manifest.planned):
            self._writer.plan(plan.key)
            self._observer.expect(plan.key.agents)

    def _keep_reply(self, document: dict[str, Any]) -> None:
        self._writer.append_reply(document)

    def _emit(self, record: RequestRecord) -> None:
        self._journal.add(record)
        self._observer.record(record)

    def _unwritable(self, error: DataError) -> None:
        """The disk takes no more, in the middle of a stage."""
        assert self.progress.stage is not None
        self.progress.stage.fail(error)

    def _interrupt(self, number: int) -> None:
        """First signal: close the window and drain. Second: abort what is in flight. Before
        there is a run: give up at once."""
        stage = self.progress.stage
        if self.path is None:
            self.interrupted = number
            self._reaching.cancel()
            return
        if self.interrupted is None:
            self.interrupted = number
            if stage is None:
                self.said("stopping: nothing is in flight; what there is is being written")
                return
            self.said(
                f"stopping: draining {_in_flight(stage.in_flight)}, "
                f"{self.config.grace_period:g} s at most; again to abort"
            )
            stage.stop()
        elif stage is not None and self._aborted is None:
            self._aborted = stage.in_flight
            self.said(f"aborting: {_in_flight(self._aborted)}, recorded as cancelled")
            stage.abort()

    async def _watch(self) -> None:
        """Feed the view what no record carries: load now, loop lag."""
        while True:
            due = time.monotonic() + SAMPLING
            await asyncio.sleep(SAMPLING)
            if self._crew is None:  # whose loops are looked at where they send
                self._observer.loop_lag(max(0.0, time.monotonic() - due))
            while self._observer.fold_some():  # noqa: ASYNC110  # there is no event to wait for
                await asyncio.sleep(0)
            stage = self.progress.stage
            self._observer.load(
                stage.plan.key.agents if stage else 0, stage.in_flight if stage else 0
            )

    def _end(self, status: RunStatus, note: str) -> None:
        from loadgen.figures.summary import run_summary

        self._observer.load(0, 0)
        note = "; ".join(part for part in (note, _not_reset(self._unreset)) if part)
        failing = status != "complete" and self.interrupted is None
        # On a disk that is full these raise too: the first cause is already on its way.
        with suppress(DataError) if failing else nullcontext():
            self._writer.write_summary(
                {**run_summary(self.manifest, self.summaries), "status": status}
            )
            self._writer.close(status, time.time(), note or None)

    async def _close_files(self) -> None:
        """Columns, slices and flat tables, while /metrics still answers; none is worth the run."""
        from loadgen.files.close import close_files  # nothing a sender has a use for

        if self.path is None:
            return
        if (sent := sum(each["sent"] for each in self.summaries)) > MANY:
            self.said(f"writing the tables of {sent} requests")
        try:
            warnings = await asyncio.to_thread(close_files, self.path)
        except DataError as error:
            warnings = [str(error)]
        for warning in warnings:
            self.said(f"warning: {warning}")

    async def _linger(self) -> None:
        """Stay until two scrapes saw the last record, if anybody scrapes at all."""
        seen = self._server.scrapes
        give_up = time.monotonic() + self.config.metrics_linger
        if seen == 0:
            return
        # Scrapes are counted on another thread, hence no event to wait for.
        while self._server.scrapes < seen + 2 and time.monotonic() < give_up:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


def _in_flight(requests: int) -> str:
    return f"{number_of(requests, 'request')} in flight" if requests else "nothing in flight"


def _not_reset(stages: dict[int, str]) -> str:
    """The manifest's note on stages that began with what the cache held."""
    why = next(iter(stages.values()), "")
    return f"prefix cache not reset before stage {', '.join(map(str, stages))}: {why}" * bool(why)
