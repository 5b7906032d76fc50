"""`loadgen show`: the table of a run printed again, from its records."""

from __future__ import annotations

import json
from pathlib import Path

from contract.commandline import say
from contract.rundir import Run, find_run
from loadgen.figures.summary import table
from loadgen.files.close import counted, tallied
from loadgen.files.unfinished import Unfinished, held, unfinished


def show(name: str, root: str, *, as_json: bool) -> int:
    """Print the table; stages that did not finish are named, with the records there are of them."""
    run = Run.open(find_run(Path(root), name))
    found = tallied(run)
    document, rest = counted(run, found), unfinished(run, found)
    for warning in run.warnings:
        say("warning", warning)
    if run.manifest.note:
        say("warning", f"run {run.manifest.run} ({run.status}): {run.manifest.note}")
    if run.stages and rest:
        names = "; ".join(map(str, rest))
        so_far = "has yet to finish" if run.status == "running" else "did not finish"
        say("warning", f"run {run.manifest.run} ({run.status}) {so_far} {names}")
    if as_json:
        lacking = {"unfinished": [stage.plain() for stage in rest]} if rest else {}
        print(json.dumps(document | lacking))
    else:
        print(table(document["stages"]) if run.stages else nothing_finished(run, rest))
    return 0


def nothing_finished(run: Run, rest: list[Unfinished]) -> str:
    """What there is of a run without a table, and what to do with it."""
    going = run.status == "running"
    lines = [f"run {run.manifest.run} ({run.status}): no stage {'has ' * going}finished"]
    lines += [f"  {stage}" for stage in rest]
    if going:
        lines.append("it is still going: look again when a stage has ended")
    elif held(rest):
        lines.append(
            "no window was closed, so there are no rates and no fit: run again for them; "
            "`loadgen export --format parquet` (or csv) writes the records as they are"
        )
    else:
        lines.append("nothing was recorded: run again")
    return "\n".join(lines)
