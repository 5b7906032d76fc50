"""When probes are read, and what becomes of a reading that fails.

`Sampler` holds the schedule and the health and knows no thread; `Poller` is the one thread
that drives it. Due times lie on a grid fixed at the start (start + k·interval), so that a slow
reading shifts nothing: grid points that passed meanwhile are left out, never caught up.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from agent.probes.base import Health, Probe, Reading, Snapshot
from contract.errors import LabError, ProbeError

Clock = Callable[[], float]

STALLED_INTERVALS = 5
STALLED_FLOOR = 1.0  # seconds; a busy host delays any thread by less
BACK_OFF_CEILING = 30.0  # seconds between tries while a probe has nothing to read


def next_due(due: float, interval: float, not_before: float) -> float:
    """The first grid point after `due` that is not before `not_before`; all in seconds."""
    return due + interval * max(1, math.ceil((not_before - due) / interval - 1e-9))


def back_off(interval: float, failures: int) -> float:
    """Seconds to wait after the n-th failure in a row: the interval, doubling, to a ceiling."""
    doubled = interval * 2.0 ** min(failures - 1, 30)
    return max(interval, min(doubled, BACK_OFF_CEILING))


@dataclass(slots=True)
class _Slot:
    probe: Probe
    interval: float
    due: float
    snapshot: Snapshot = field(init=False)
    empty_in_a_row: int = 0

    def __post_init__(self) -> None:
        self.snapshot = Snapshot(self.probe.name)

    def overdue(self, now: float) -> float | None:
        """Seconds since the reading was due, once that is too long; else None."""
        late = now - self.due
        limit = max(STALLED_INTERVALS * self.interval, STALLED_FLOOR)
        return late if late > limit else None


class Sampler:
    """Probes, each read at its own interval in seconds."""

    def __init__(
        self,
        probes: Sequence[tuple[Probe, float]],
        *,
        clock: Clock = time.monotonic,
        wall: Clock = time.time,
    ) -> None:
        self._clock = clock
        self._wall = wall
        start = clock()
        self._slots = [_Slot(probe, interval, start) for probe, interval in probes]

    def tick(self) -> float:
        """Take every reading that is due; seconds until the next one."""
        for slot in self._slots:
            if slot.due <= self._clock():
                self._take(slot)
        return max(0.0, min(slot.due for slot in self._slots) - self._clock())

    def snapshots(self) -> list[Snapshot]:
        """The last snapshot of each probe; one whose reading is overdue has lost its data."""
        now = self._clock()
        return [_current(slot, now) for slot in self._slots]

    def ready(self) -> tuple[bool, str]:
        """Whether every probe reported, in health or not, and none is stuck; and why not."""
        snapshots = self.snapshots()
        silent = [s.probe for s in snapshots if s.health.readings == 0]
        if silent:
            return False, f"no reading yet: {', '.join(silent)}"
        now = self._clock()
        stuck = [slot.probe.name for slot in self._slots if slot.overdue(now) is not None]
        if stuck:
            return False, f"poller stalled, overdue: {', '.join(stuck)}"
        return True, "; ".join(f"{s.probe}: {s.health.error or 'ok'}" for s in snapshots)

    def close(self) -> None:
        """Close every probe."""
        for slot in self._slots:
            slot.probe.close()

    def _take(self, slot: _Slot) -> None:
        began = self._clock()
        try:
            reading = slot.probe.sample()
        except (ProbeError, LabError, OSError) as error:
            reading = Reading(None, (str(error) or type(error).__name__,))
        ended = self._clock()
        slot.snapshot = Snapshot(
            slot.probe.name,
            reading.data,
            _health(slot.snapshot.health, reading, ended - began, self._wall()),
        )
        slot.empty_in_a_row = slot.empty_in_a_row + 1 if reading.data is None else 0
        wait = back_off(slot.interval, slot.empty_in_a_row) if slot.empty_in_a_row else 0.0
        slot.due = next_due(slot.due, slot.interval, max(ended, slot.due + wait))


def _health(before: Health, reading: Reading, duration: float, taken: float) -> Health:
    ok = not reading.faults
    return Health(
        ok=ok,
        error=None if ok else "; ".join(reading.faults),
        duration=duration,
        taken=taken,
        last_success=taken if ok else before.last_success,
        readings=before.readings + 1,
        failures=before.failures + (not ok),
    )


def _current(slot: _Slot, now: float) -> Snapshot:
    snapshot, late = slot.snapshot, slot.overdue(now)
    if late is None:
        return snapshot
    ok = False if snapshot.health.readings else None
    health = replace(snapshot.health, ok=ok, error=f"reading overdue for {late:.1f} s")
    return replace(snapshot, data=None, health=health)


class Poller:
    """The one thread that reads probes, so that no two NVML calls ever overlap.

    An error that is no probe's fault ends the thread with its traceback; `wait` then returns.
    """

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler
        self._stop = threading.Event()
        self._turn = threading.Condition()
        self._ended = threading.Event()
        self._crashed = False
        self._thread = threading.Thread(target=self._run, name="poller", daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def wait(self) -> None:
        """Return when the thread has stopped reading.

        Not a join: one that a signal interrupts takes a living thread for a dead one (3.11).
        """
        self._ended.wait()

    def crashed(self) -> bool:
        """Whether the thread ended unasked; its traceback is then on stderr."""
        return self._crashed

    def wait_for(self, readings: int, timeout: float) -> bool:
        """Whether each probe has `readings` readings within `timeout` seconds."""
        with self._turn:
            return self._turn.wait_for(
                lambda: self._ended.is_set() or self._taken() >= readings, timeout
            )

    def stop(self, timeout: float) -> bool:
        """End the thread, which closes its probes; False when a call in it does not return."""
        self._stop.set()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _taken(self) -> int:
        return min(snapshot.health.readings for snapshot in self._sampler.snapshots())

    def _run(self) -> None:
        try:
            while not self._stop.wait(self._turn_once()):
                continue
        finally:
            self._crashed = not self._stop.is_set()
            self._ended.set()
            self._announce()
            self._sampler.close()

    def _turn_once(self) -> float:
        pause = self._sampler.tick()
        self._announce()
        return pause

    def _announce(self) -> None:
        with self._turn:
            self._turn.notify_all()
