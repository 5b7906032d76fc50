"""What a run holds of stages that did not finish: their records have no window. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from contract.rundir import Run
from contract.words import number_of
from loadgen.figures.tally import Tally


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A planned stage without a line in `stages.jsonl`, and how many records there are of it."""

    stage: int
    level: str
    records: int

    def __str__(self) -> str:
        there = number_of(self.records, "record") if self.records else "no record"
        return f"stage {self.stage} ({self.level}): {there}"

    def plain(self) -> dict[str, Any]:
        """As `loadgen show --json` has it."""
        return {"stage": self.stage, "level": self.level, "records": self.records}


def unfinished(run: Run, found: Mapping[int, Tally]) -> list[Unfinished]:
    """Those of a run, in their order; `found` are the tallies of its records by stage."""
    finished = {stage.stage for stage in run.stages}
    return [
        Unfinished(number, key.level, found[number].sent if number in found else 0)
        for number, key in enumerate(run.manifest.planned, 1)
        if number not in finished
    ]


def held(stages: Sequence[Unfinished]) -> int:
    """How many records there are of them together."""
    return sum(stage.records for stage in stages)
