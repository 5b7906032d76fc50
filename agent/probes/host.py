"""The host, through psutil. Inside a container these are the figures of the whole machine."""

from __future__ import annotations

from typing import Any

import psutil

from agent.probes.base import HostData, Reading
from contract.errors import ProbeError


class HostProbe:
    """Memory, swap, load and processor use.

    Processor use is a difference between two readings: the first reading has none.
    """

    name = "host"

    def __init__(self) -> None:
        self._cpu: Any = None

    def sample(self) -> Reading:
        """One reading of the host; ProbeError when the system does not give it."""
        try:
            return Reading(self._read())
        except (psutil.Error, RuntimeError, ValueError, KeyError) as error:
            raise ProbeError(f"psutil: {type(error).__name__}: {error}") from error

    def close(self) -> None:
        """Forget the processor times, so that a later difference spans no gap."""
        self._cpu = None

    def _read(self) -> HostData:
        memory = psutil.virtual_memory()
        before, self._cpu = self._cpu, psutil.cpu_times()
        return HostData(
            memory_total_bytes=memory.total,
            memory_available_bytes=memory.available,
            swap_used_bytes=psutil.swap_memory().used,
            cpu_utilization_ratio=None if before is None else busy_ratio(before, self._cpu),
            load1=psutil.getloadavg()[0],
        )


def busy_ratio(before: Any, after: Any) -> float | None:
    """Busy share of all processors between two `psutil.cpu_times()`, 0..1.

    None when no time passed. Waiting for disks is idle; guest time is already in user time.
    """
    total = _total(after) - _total(before)
    if total <= 0:
        return None
    return min(1.0, max(0.0, 1.0 - (_idle(after) - _idle(before)) / total))


def _total(times: Any) -> float:
    guests = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
    return float(sum(times)) - guests


def _idle(times: Any) -> float:
    return float(times.idle + getattr(times, "iowait", 0.0))
