"""`loadgen show`: the table of a run printed again, from its records."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

from contract.commandline import say
from contract.rundir import Run, find_run
from loadgen.goodput import parse_goodput
from loadgen.summary import run_summary, stage_summary, table
from loadgen.tally import Tally


def show(name: str, root: str, *, as_json: bool) -> int:
    """Print the table; stages that did not finish are named in warnings."""
    run = Run.open(find_run(Path(root), name))
    asked = run.manifest.config.get("goodput")
    objectives = parse_goodput(asked) if asked else None
    tallies: defaultdict[int, Tally] = defaultdict(lambda: Tally(objectives))
    for record in run.records():
        tallies[record.stage].add(record)
    stages = [stage_summary(stage, tallies[stage.stage]) for stage in run.stages]
    for warning in run.warnings:
        say("warning", warning)
    if run.missing:
        levels = ", ".join(key.level for key in run.missing)
        say("warning", f"run {run.manifest.run} ({run.status}) has no finished stage for {levels}")
    if as_json:
        print(json.dumps({**run_summary(run.manifest, stages), "status": run.status}))
    else:
        print(table(stages))
    return 0
