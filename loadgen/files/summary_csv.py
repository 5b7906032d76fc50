"""`summary.csv`: one row per stage, the numbers of `summary.json` in flat columns. Pure."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

NOT_FLAT = ("verdicts", "slices", "most_often")


def flat(stage: Mapping[str, Any]) -> dict[str, Any]:
    """One stage's summary without nesting: `ttft.p50` becomes `ttft_p50`, failed verdicts become
    one cell of names; what was not seen stays None."""
    row: dict[str, Any] = {}
    for name, value in stage.items():
        if name in NOT_FLAT or isinstance(value, list):
            continue
        if isinstance(value, Mapping):
            row.update({f"{name}_{inner}": cell for inner, cell in flat(value).items()})
        else:
            row[name] = value
    if "verdicts" in stage:
        row["failed_verdicts"] = " ".join(
            verdict["name"]
            for verdict in stage["verdicts"]
            if verdict["checked"] and not verdict["ok"]
        )
    return row


def write(stages: Sequence[Mapping[str, Any]], file: TextIO) -> None:
    """Header and rows; a column that only some stages have is empty in the others."""
    rows = [flat(stage) for stage in stages]
    names = list(dict.fromkeys(name for row in _fullest_first(rows) for name in row))
    # A stage in which nothing was seen has `ttft` alone where the others have `ttft_p50`.
    names = [n for n in names if not any(m.startswith(f"{n}_p") for m in names)]
    writer = csv.DictWriter(file, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


def _fullest_first(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=len, reverse=True)
