"""Progress on stderr: a live line where a terminal is attached, plain lines otherwise."""

from __future__ import annotations

import asyncio
import math
import os
import sys
from contextlib import suppress

from contract.words import one_line
from loadgen.conduct import Conduct

REDRAW = 0.25  # seconds


def said(line: str) -> None:
    """One plain line of progress, whatever signs a server put into its names."""
    with suppress(OSError):  # a run does not end because nobody can be told of it
        print(one_line(line), file=sys.stderr, flush=True)


async def watch(conduct: Conduct) -> None:
    """Redraw one status line until cancelled; does nothing without a terminal."""
    if not sys.stderr.isatty():
        return
    from rich.console import Console

    console = Console(stderr=True, no_color=bool(os.environ.get("NO_COLOR")))
    with console.status("preflight") as status, suppress(asyncio.CancelledError):
        conduct.said = lambda line: console.print(one_line(line), markup=False, highlight=False)
        while True:
            status.update(status_line(conduct))
            await asyncio.sleep(REDRAW)


def status_line(conduct: Conduct) -> str:
    """Where the run is: stage, phase, counts and what is in flight."""
    stage = conduct.progress.stage
    if stage is None:
        return "between stages" if conduct.progress.number else "preflight"
    now = conduct.clock()
    if now < stage.start:
        phase = f"warm-up {stage.counts.sent}/{stage.plan.warmup}"
    elif now < stage.end:
        left = "" if math.isinf(stage.end) else f", {stage.end - now:.0f} s left"
        phase = f"measuring{left}"
    else:
        phase = "draining"
    ok = stage.counts.outcomes["ok"]
    failed = stage.counts.measured - ok
    return (
        f"stage {conduct.progress.place}  {stage.plan.key.level}  "
        f"{phase}  ok {ok}  failed {failed}  in flight {stage.in_flight}"
    )
