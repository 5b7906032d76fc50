"""What a probe is, and what it says: data and health, kept apart.

A probe knows no clock and never guesses: what it cannot measure is None, and a reading that
failed carries no data at all, so that its series end instead of freezing at an old value.
Seconds and bytes throughout.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class HostData:
    """The host; each field is the series `loadstone_host_<field>`."""

    memory_total_bytes: int
    memory_available_bytes: int
    swap_used_bytes: int | None
    cpu_utilization_ratio: float | None
    load1: float | None


@dataclass(frozen=True, slots=True)
class GpuData:
    """One GPU; each measured field is the series `loadstone_gpu_<field>`.

    `gpu` is the driver's index. A name, uuid or driver the GPU does not give is "".
    """

    gpu: str
    name: str
    uuid: str
    driver: str
    memory_total_bytes: int | None
    memory_free_bytes: int | None
    memory_used_bytes: int | None
    utilization_ratio: float | None
    power_watts: float | None


Data = HostData | tuple[GpuData, ...]


@dataclass(frozen=True, slots=True)
class Reading:
    """What one call brought: data, and the parts that failed (a GPU lost among others)."""

    data: Data | None
    faults: tuple[str, ...] = ()


class Probe(Protocol):
    """One thing to watch."""

    name: str

    def sample(self) -> Reading:
        """Take one reading; ProbeError when there is nothing to read."""

    def close(self) -> None:
        """Let go of what the probe holds; a later sample() starts afresh."""


@dataclass(frozen=True, slots=True)
class Health:
    """How a probe fares. Times are Unix seconds; `ok` is None before the first reading."""

    ok: bool | None = None
    error: str | None = None
    duration: float | None = None
    taken: float | None = None
    last_success: float | None = None
    readings: int = 0
    failures: int = 0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The last reading of one probe beside its health."""

    probe: str
    data: Data | None = None
    health: Health = Health()
