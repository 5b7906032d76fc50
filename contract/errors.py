"""What can go wrong, and how the process ends.

    LabError         exit   raised where             the line says
    ├─ ConfigError     2    cli, config, ranges      field, what was given, what is allowed
    ├─ TargetError     3    preflight, engine        what to start
    ├─ DataError       4    run directory, queries   file or query, found against expected
    ├─ FitError        5    fits                     the points that were there
    ├─ SloError        6    planner                  nearest miss and what to relax
    └─ LostError  128 + n   shards                   which process of ours a signal n ended

Two more never leave the room they are raised in: BackendError(outcome) becomes a record's
outcome inside the load engine, and ProbeError becomes a probe's health inside the sidecar.
What happens to the system under test is data; what the user did wrong is one line; our own
bugs propagate with a traceback and exit 1.
"""

from __future__ import annotations

from collections.abc import Iterable


class LabError(Exception):
    """An expected ending: its text is the one line the user reads, `exit_code` how we exit."""

    exit_code = 1


class ConfigError(LabError):
    """Configuration or usage: names the field, what was given and what is allowed."""

    exit_code = 2


class TargetError(LabError):
    """Server, model, Prometheus or required GPU is not there, or no request succeeded."""

    exit_code = 3


class DataError(LabError):
    """A file or a query result is unreadable or inconsistent."""

    exit_code = 4


class FitError(LabError):
    """The data cannot carry the fit: too few levels, or not identifiable."""

    exit_code = 5


class SloError(LabError):
    """Nothing meets the target; the text holds the nearest miss and what to relax."""

    exit_code = 6


class LostError(LabError):
    """A process of the load generator went away: `exit_code` is 128 + the signal that ended it,
    or 1 after a bug, whose traceback it printed."""

    def __init__(self, text: str, exit_code: int) -> None:
        super().__init__(text)
        self.exit_code = exit_code


class BackendError(Exception):
    """One exchange failed; `outcome` is a member of `contract.records.OUTCOMES`."""

    def __init__(self, outcome: str, detail: str = "") -> None:
        super().__init__(detail or outcome)
        self.outcome = outcome
        self.detail = detail


class ProbeError(Exception):
    """One reading failed; becomes `loadstone_probe_success 0`, and its data stay absent."""


def nearest(given: str, known: Iterable[str], cutoff: float = 0.5) -> str:
    """A clause such as `, did you mean 'vllm'?`, or nothing when no known name is close."""
    from difflib import get_close_matches

    by_folded = {name.casefold(): name for name in known}
    close = get_close_matches(given.casefold(), by_folded, n=1, cutoff=cutoff)
    return f", did you mean '{by_folded[close[0]]}'?" if close else ""
