"""What a search found, in words, as a table and as a document. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from contract.text_table import render
from contract.words import number_of
from loadgen.figures.goodput import Objectives
from loadgen.search.find import Grid, Judged, Rules, Standing, doubling, most_levels

HEADER = ["level", "stages", "met/total", "attained", "interval", "decision", "by"]
DECISIONS = {True: "meets", False: "misses", None: "open"}


@dataclass(frozen=True, slots=True)
class Asked:
    """What was searched for: `unit` is `agents` or `requests/s`."""

    objectives: Objectives
    target: float
    unit: str

    def __str__(self) -> str:
        return f"{self.objectives} for {self.target:.4g} of the requests"


def ahead(asked: Asked, grid: Grid, rules: Rules) -> dict[str, Any]:
    """A search before it begins, as plain numbers: the levels it drives while they meet the
    objectives, and the most stages it may take."""
    return {
        "goodput": str(asked.objectives),
        "attainment": asked.target,
        "unit": asked.unit,
        "levels": [grid.level(place) for place in doubling(grid)],
        "step": grid.step,
        "most_stages": most_levels(grid) * rules.repeats,
    }


def line(level: Judged, asked: Asked, grid: Grid) -> str:
    """One level in one line, for those who wait."""
    if not level.stages:
        return f"{name(level, asked, grid)}: the server loaded its model; once more"
    if level.meets is None:
        return f"{name(level, asked, grid)}: {share(level)}; once more"
    return f"{name(level, asked, grid)}: {share(level)}: {DECISIONS[level.meets]} ({level.ground})"


def table(standing: Standing, asked: Asked, grid: Grid) -> str:
    """All levels seen, by size."""
    rows = [
        [
            name(level, asked, grid),
            str(level.stages) + (f" + {level.cold} cold" if level.cold else ""),
            f"{level.met}/{level.total}",
            f"{level.share:.1%}",
            f"{level.low:.1%} to {level.high:.1%}",
            DECISIONS[level.meets],
            level.ground or "-",
        ]
        for level in sorted(standing.judged, key=lambda level: level.place)
    ]
    return render(HEADER, rows)


def found(standing: Standing, asked: Asked, grid: Grid, rules: Rules) -> str:
    """The answer and how sure it is. There has to be one."""
    best, missed = standing.best, standing.missed
    assert best is not None
    says = [f"{name(best, asked, grid)} is the most that meets {asked}: {_how(best, rules)}"]
    if missed is None:
        says.append(f"{name(best, asked, grid)} was the most to be asked: raise --max to go on")
    else:
        says.append(f"{name(missed, asked, grid)} misses: {_how(missed, rules)}")
    return "\n".join(says)


def nothing(
    standing: Standing, asked: Asked, grid: Grid, relaxed: Mapping[int, Objectives | None]
) -> str:
    """The line for a search in which no level met the objectives: nearest miss, what to relax."""
    nearest = max(standing.judged, key=lambda level: (level.share, -level.place))
    ways = []
    if (objectives := relaxed.get(nearest.place)) is not None:
        ways.append(f"--goodput {objectives}")
    if nearest.low >= 0.01:
        ways.append(f"--attainment {int(nearest.low * 100) / 100:g}")
    if asked.unit != "agents":
        ways.append(f"a --step below {grid.step:g}")
    relax = f"relax to {' or '.join(ways)}" if ways else "the requests failed, see requests.jsonl"
    return (
        f"nothing meets {asked}: the nearest is {name(nearest, asked, grid)} with "
        f"{share(nearest)}; {relax}"
    )


def document(
    standing: Standing, asked: Asked, grid: Grid, rules: Rules, run: Mapping[str, Any]
) -> dict[str, Any]:
    """The whole search as plain numbers; `found` is None where nothing meets the objectives."""
    return {
        **run,
        "goodput": str(asked.objectives),
        "attainment": asked.target,
        "unit": asked.unit,
        "step": grid.step,
        "most": grid.level(grid.last),
        "repeats": rules.repeats,
        "confidence": rules.confidence,
        "over": standing.place is None,
        "found": _plain(standing.best, grid),
        "missed": _plain(standing.missed, grid),
        "levels": [_plain(level, grid) for level in standing.judged],
    }


def name(level: Judged, asked: Asked, grid: Grid) -> str:
    """A level as a reader says it: `8 agents`, `2.5 requests/s`."""
    load = grid.level(level.place)
    if asked.unit == "agents":
        return number_of(load, "agent")
    return f"{number_of(load, 'request')}/s"


def share(level: Judged) -> str:
    """What a level attained, with its interval."""
    if not level.total:
        return "no request ended within the window"
    return f"{level.share:.1%} of {level.total} ({level.low:.1%} to {level.high:.1%})"


def _how(level: Judged, rules: Rules) -> str:
    if level.ground == "saturation":
        return (
            f"{share(level)}, and the server was saturated in {level.saturated} of "
            f"{number_of(level.stages, 'stage')}: what it attained tells how long they lasted"
        )
    if level.ground == "interval":
        return f"{share(level)}, decided by the interval"
    wants = f"; a decision takes {number_of(rules.fewest, 'request')} at least"
    return (
        f"{share(level)}, decided by the point estimate after "
        f"{number_of(level.stages, 'stage')}: the interval holds the target"
        f"{wants if level.total < rules.fewest else ''}"
    )


def _plain(level: Judged | None, grid: Grid) -> dict[str, Any] | None:
    return None if level is None else {"level": grid.level(level.place), **asdict(level)}
