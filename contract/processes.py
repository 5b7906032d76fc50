"""When a process of this machine started: with its id that names it for good."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path


def started(pid: int) -> float | None:
    """Seconds of wall clock, true to a second; None where there is no such process.

    Linux tells it in one line. psutil knows the other systems, and takes long to load.
    """
    if sys.platform == "linux":
        try:
            line = Path(f"/proc/{pid}/stat").read_bytes()
        except OSError:
            return None
        ticks = int(line.rpartition(b")")[2].split()[19])  # since the machine's start
        booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
        return booted + ticks / os.sysconf("SC_CLK_TCK")
    import psutil

    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:
        return None
