"""The measured window of a stage, moved by its completions in the order they end.

The first completions are warm-up. The window [start, end) opens at the last of them and closes
on time, on count, or with its schedule; a completion belongs to the phase in which it ended.
"""

from __future__ import annotations

import asyncio
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from contract.records import Phase, RequestRecord
from loadgen.figures.stamp_stats import StampStats
from loadgen.figures.tally import Counts

if TYPE_CHECKING:
    from loadgen.engine import StagePlan

Clock = Callable[[], float]
# Called with every record as its request ends; what it raises ends the stage.
Emit = Callable[[RequestRecord], None]

# So many completions, before an error share says anything.
FEWEST_FOR_A_SHARE = 20


@dataclass(slots=True)
class Windowed(ABC):
    """A stage under way: its window, its counters, and the order to stop.

    `opened` fires when the window opens, with its start.
    """

    run: str
    plan: StagePlan
    clock: Clock
    emit: Emit
    opened: Callable[[float], None] = field(default=lambda _start: None, kw_only=True)
    counts: Counts = field(default_factory=Counts, kw_only=True)
    began: float = field(default=0.0, init=False)
    start: float = field(default=math.inf, init=False)
    end: float = field(default=math.inf, init=False)
    drained: float = field(default=0.0, init=False)
    closing: asyncio.Event = field(default_factory=asyncio.Event, init=False)
    _failure: BaseException | None = field(default=None, init=False)
    _cut: bool = field(default=False, init=False)

    @abstractmethod
    async def warm(self) -> None:
        """Get ready, before any clock starts."""

    @abstractmethod
    async def drive(self) -> None:
        """Run the stage to the end of its drain. Cancelling aborts what is in flight; each
        request leaves exactly one record either way."""

    @property
    @abstractmethod
    def in_flight(self) -> int:
        """Requests due and not ended."""

    @abstractmethod
    def abort(self) -> None:
        """Close the window and cancel what is in flight."""

    @property
    def over(self) -> bool:
        """Whether no further request is wanted."""
        return self.closing.is_set() or self.clock() >= self.end

    @property
    def complete(self) -> bool:
        """Whether the window closed by itself: on time, on count, or with its schedule."""
        return not self._cut and math.isfinite(self.end)

    def stop(self) -> None:
        """Close the window now; the stage stays incomplete."""
        now = self.clock()
        self._cut = self._cut or now < self.end
        self.close(now)

    def fail(self, error: BaseException) -> None:
        """End the stage; `drive` raises the first such error."""
        self._failure = self._failure or error
        self.abort()

    def begin(self, began: float) -> None:
        """The load begins; where there is no warm-up, so does the window."""
        self.began = began
        warm = self.plan.warmup == 0 and self.plan.warmup_seconds == 0
        if warm and not self.closing.is_set():
            self._open(began)

    def close(self, end: float) -> None:
        """Want no more requests; the window ends by then."""
        if not self.closing.is_set():
            self.start = min(self.start, end)
            self.end = min(self.end, end)
            self.closing.set()

    def close_on_time(self) -> None:
        """Close once the window has ended. Timers of event loops ring up to a millisecond early;
        what is given up then would still be of the window."""
        left = self.end - self.clock()
        if left > 0:
            asyncio.get_running_loop().call_later(left, self.close_on_time)
        else:
            self.closing.set()

    def phase(self, ended: float) -> Phase:
        """Where a completion at that instant belongs, the next in order."""
        if ended >= self.end:
            return "drain"
        return "warmup" if math.isinf(self.start) else "measured"

    def take(self, record: RequestRecord) -> None:
        """Count and pass on one completion, and move the window if it is the one that does."""
        self.counts.add(record)
        self.emit(record)
        if math.isinf(self.start):
            self._perhaps_open(record.ended)
        elif record.phase == "measured":
            self._perhaps_close(record.ended)

    def lagged(self, at: float, seconds: float) -> None:
        """Take one reading of how late an event loop was; those in the window count."""
        if self.start <= at < self.end:
            self.counts.loop_lags.coarse(seconds)

    def stamped(self, stats: StampStats) -> None:
        """Take what the reads of a sender were, from its begin to the end of its drain."""
        so_far = self.counts.stamps
        self.counts.stamps = stats if so_far is None else so_far + stats

    def _perhaps_open(self, ended: float) -> None:
        warm = ended - self.began >= self.plan.warmup_seconds
        if self.counts.sent >= self.plan.warmup and warm:
            self._open(ended)

    def _perhaps_close(self, ended: float) -> None:
        measured = self.counts.measured
        if measured == self.plan.requests:
            self.close(math.nextafter(ended, math.inf))
        most = self.plan.most_errors
        failed = measured - self.counts.outcomes["ok"]
        if most is not None and measured >= FEWEST_FOR_A_SHARE and failed > most * measured:
            self.stop()

    def _open(self, start: float) -> None:
        if self.counts.sent and self.counts.ok == 0:
            self.stop()  # the whole warm-up failed: measuring would only hammer the target
            return
        self.start = start
        self.opened(start)
        if self.plan.seconds is not None:
            self.end = start + self.plan.seconds
            self.close_on_time()
