"""`analysis fit`: a run, from its directory or from Prometheus, becomes fitted_models.json."""

from __future__ import annotations

import argparse
import errno
import os
import re
import sys
from typing import TYPE_CHECKING, Any

from analysis.names import printable
from contract.commandline import integer, number, say
from contract.errors import ConfigError, DataError, FitError

if TYPE_CHECKING:
    from analysis.table import StageRow, Table

DEFAULT_URL = "http://localhost:9090"
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_FULL = (errno.ENOSPC, errno.EDQUOT)
_ABOUT = """\
Which law does throughput follow as agents are added, how sure is that, and where does it end?
Reads the newest run in ./runs, or with --from-prometheus the newest run Prometheus holds."""


def add_parser(subparsers: Any) -> None:
    """Add `fit` to the subcommands of `analysis`."""
    parser = subparsers.add_parser("fit", help="fit scaling laws to a run", description=_ABOUT)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--run", metavar="RUN", help="a run's folder or id (default: latest)")
    source.add_argument(
        "--from-prometheus",
        metavar="URL",
        nargs="?",
        const=DEFAULT_URL,
        help=f"read from Prometheus (default address: {DEFAULT_URL})",
    )
    parser.add_argument("--runs-dir", metavar="DIR", help="where runs lie (runs)")
    parser.add_argument("--run-id", metavar="ID", help="which run in Prometheus (default: newest)")
    parser.add_argument(
        "--lookback", type=duration, metavar="TIME", help="how far back to look for it (24h)"
    )
    parser.add_argument("--output", metavar="FILE", default="fitted_models.json")
    parser.add_argument(
        "--include-failed-verdicts", action="store_true", help="fit stages that failed a check too"
    )
    parser.add_argument("--seed", type=integer(at_least=0), default=0, help="of the bootstrap (0)")
    parser.add_argument(
        "--resamples",
        type=integer(at_least=100, at_most=100_000),
        default=1000,
        help="bootstrap resamples (1000)",
    )
    parser.add_argument(
        "--timeout",
        type=number(above=0.0),
        default=30.0,
        metavar="SECONDS",
        help="for one Prometheus query (30)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON and nothing else")
    parser.set_defaults(command=fit)


def duration(given: str) -> float:
    """An argparse type: seconds from `90`, `90s`, `30m`, `24h` or `7d`; above zero."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", given, re.ASCII)
    seconds = float(match[1]) * _SECONDS[match[2] or "s"] if match else 0.0
    if not 0.0 < seconds < 1e10:
        raise argparse.ArgumentTypeError(f"'{given}' is not a time such as 90s, 30m, 24h or 7d")
    return seconds


def fit(arguments: argparse.Namespace) -> int:
    """Read, fit, print, write. FitError leaves the points on stdout."""
    from dataclasses import replace

    from analysis import fit_report

    _check_output(arguments.output)
    table = _table(arguments)
    reasons = [reason(row, arguments.include_failed_verdicts) for row in table.levels]
    used = [row for row, why in zip(table.levels, reasons, strict=True) if not why]
    table = replace(table, warnings=[*table.warnings, *_uncounted(used)])
    for warning in table.warnings:
        say("warning", warning)
    if not arguments.json:
        print(fit_report.points(table, reasons))
    try:
        result = _fit(used, arguments)
    except FitError as error:
        if arguments.json:
            print(fit_report.points_json(table, reasons))
        sys.stdout.flush()
        raise FitError(f"{error}{_remedy(table, reasons)}") from error
    entry = _write(table, result, used, reasons, arguments.output)
    show = fit_report.result_json if arguments.json else fit_report.result
    print(show(table, result, entry, arguments.output))
    return 0


def reason(row: StageRow, include_failed: bool) -> str:
    """Why a stage is left out of the fit; empty when it is used."""
    if row.agents < 1:
        return "open loop"
    if row.requests == 0:
        return "no request completed"
    return "" if row.good or include_failed else row.why


def _uncounted(used: list[StageRow]) -> list[str]:
    from analysis.table import weighted_mean

    if not used or weighted_mean(used, "mean_output_tokens"):
        return []
    return [
        "output tokens unknown because the server reported no usage: "
        "`analysis plan` will give figures per request only"
    ]


def _check_output(given: str) -> None:
    """Before the work rather than after it: a file in a folder that is there."""
    if os.path.isdir(given):
        raise ConfigError(f"--output: folder '{given}' given, a file allowed")
    folder = os.path.dirname(given) or "."
    if not os.path.isdir(folder):
        raise ConfigError(f"--output: '{given}' given, there is no folder '{folder}'")


def _table(arguments: argparse.Namespace) -> Table:
    table = _read(arguments)
    for name in ("model", "backend", "hardware", "quantization"):
        printable(f"{table.source}: {name}", getattr(table.key, name))
    return table


def _read(arguments: argparse.Namespace) -> Table:
    if arguments.from_prometheus is not None:
        if arguments.runs_dir is not None:
            raise ConfigError("--runs-dir: given with --from-prometheus, which reads no folder")
        from analysis.from_prometheus import table_from_prometheus
        from analysis.prometheus_api import Prometheus

        return table_from_prometheus(
            Prometheus(arguments.from_prometheus, timeout=arguments.timeout),
            run_id=arguments.run_id,
            lookback=arguments.lookback or duration("24h"),
        )
    for flag, given in (("--run-id", arguments.run_id), ("--lookback", arguments.lookback)):
        if given is not None:
            raise ConfigError(f"{flag}: given without --from-prometheus, which it belongs to")
    return _from_directory(arguments)


def _from_directory(arguments: argparse.Namespace) -> Table:
    from pathlib import Path

    from analysis.from_rundir import table_from_run
    from contract.rundir import Run, find_run

    folder = Path(arguments.runs_dir or "runs")
    return table_from_run(Run.open(find_run(folder, arguments.run or "latest")))


def _fit(used: list[StageRow], arguments: argparse.Namespace) -> Any:
    from analysis.fits.scaling_fit import fit_scaling
    from analysis.fitted import scaling_point

    points = [scaling_point(row) for row in used]
    return fit_scaling(points, seed=arguments.seed, resamples=arguments.resamples)


def _remedy(table: Table, reasons: list[str]) -> str:
    left = [
        str(row.agents)
        for row, why in zip(table.levels, reasons, strict=True)
        if why and row.requests and row.agents
    ]
    if left:
        return f"; agents {', '.join(left)} left out, --include-failed-verdicts takes them in"
    return "; run at more numbers of agents, such as --agents 1..16x2"


def _write(
    table: Table, result: Any, used: list[StageRow], reasons: list[str], output: str
) -> dict[str, Any]:
    import time
    from pathlib import Path

    from analysis.fitted import model_entry, write

    entry = model_entry(table, result, used, reasons)
    try:
        write(Path(output), entry, time.time())
    except DataError as error:
        full = getattr(error.__cause__, "errno", None) in _FULL
        raise (DataError if full else ConfigError)(f"--output: {error}") from error
    return entry
