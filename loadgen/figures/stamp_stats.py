"""Who stamped the reads of a client, and how late it read: small, and it adds up. Pure."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self

from loadgen.figures.durations import Durations

SAMPLES = 4096  # delays kept one by one; beyond, every second, then every fourth …


@dataclass(slots=True)
class StampStats:
    """Who stamped the reads of one or of several clients, and how late bytes were read.

    `delays` are seconds from the kernel's stamp until this process had the bytes, of the reads
    at which answers begin and end. `waits` bound those of each read that this process stamped
    itself, by a timer seen before and after it, `first_waits` those of each first read.
    `clock` is how far the wall clock was seen to move against ours, with the width of looking.
    """

    kernel: int = 0
    user: int = 0
    missing: int = 0  # of the kernel's: stamps that did not come with their bytes
    firsts: int = 0
    clock: float = 0.0
    delays: Durations = field(default_factory=Durations)
    waits: Durations = field(default_factory=Durations)
    first_waits: Durations = field(default_factory=Durations)
    skip: int = 0  # samples to pass over before the next is kept
    _samples: array[float] = field(default_factory=lambda: array("d"))
    _stride: int = 1
    _timed: tuple[int, int] = (0, 0)  # reads and first reads when the timer was seen last
    _longest: float = 0.0  # how late it was then

    def sample(self, seconds: float) -> None:
        """Keep the delay of one read; call it where `skip` has come down to 0."""
        self.skip = self._stride
        self._samples.append(seconds)
        if len(self._samples) >= SAMPLES:
            del self._samples[::2]
            self._stride *= 2

    def late(self, seconds: float) -> None:
        """A timer was seen so late. What was read since the last time has its turn of the loop
        elsewhere in it: it may have waited through parts of this one and of the last, and no
        longer than both together."""
        reads, firsts = self._timed
        self._timed = self.user, self.firsts
        longest, self._longest = seconds + self._longest, seconds
        if self.user > reads:
            self.waits.coarse(longest, self.user - reads)
        if self.firsts > firsts:
            self.first_waits.coarse(longest, self.firsts - firsts)

    def take(self) -> StampStats:
        """What came since the last time; none of it stays."""
        taken, fresh = self + StampStats(), StampStats()
        for each in fields(self):
            setattr(self, each.name, getattr(fresh, each.name))
        return taken

    def __add__(self, other: StampStats) -> StampStats:
        delays = self.delays + other.delays
        for stats in (self, other):
            for seconds in stats._samples:
                delays.coarse(seconds, stats._stride)
        return StampStats(
            kernel=self.kernel + other.kernel,
            user=self.user + other.user,
            missing=self.missing + other.missing,
            firsts=self.firsts + other.firsts,
            clock=max(self.clock, other.clock),
            delays=delays,
            waits=self.waits + other.waits,
            first_waits=self.first_waits + other.first_waits,
        )

    @property
    def reads(self) -> int:
        """All of them."""
        return self.kernel + self.user

    @property
    def kernel_share(self) -> float | None:
        """Share of the reads that the kernel stamped."""
        return (self.kernel - self.missing) / self.reads if self.reads else None

    def to_json(self) -> dict[str, Any]:
        """As a plain dict, for another process."""
        whole = self + StampStats()
        plain = {name: getattr(whole, name) for name in _PLAIN}
        return plain | {name: getattr(whole, name).pairs() for name in _LASTING}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """What `to_json` gave."""
        plain = {name: document[name] for name in _PLAIN}
        lasting = {name: Durations.of(document[name]) for name in _LASTING}
        return cls(**plain | lasting)


_PLAIN = ("kernel", "user", "missing", "firsts", "clock")
_LASTING = ("delays", "waits", "first_waits")


def summed(every: Iterable[StampStats]) -> StampStats:
    """The statistics of several clients as one's."""
    return sum(every, start=StampStats())
