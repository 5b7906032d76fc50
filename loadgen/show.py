"""`loadgen show`: the table of a run printed again, from its records."""

from __future__ import annotations

import json
from pathlib import Path

from contract.commandline import say
from contract.rundir import Run, find_run
from loadgen.files.close import counted
from loadgen.summary import table


def show(name: str, root: str, *, as_json: bool) -> int:
    """Print the table; stages that did not finish are named in warnings."""
    run = Run.open(find_run(Path(root), name))
    document = counted(run)
    for warning in run.warnings:
        say("warning", warning)
    if run.missing:
        levels = ", ".join(key.level for key in run.missing)
        say("warning", f"run {run.manifest.run} ({run.status}) has no finished stage for {levels}")
    if as_json:
        print(json.dumps(document))
    else:
        print(table(document["stages"]))
    return 0
