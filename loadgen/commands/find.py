"""`loadgen find`: the largest concurrency or rate that meets service objectives."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from contract.commandline import Parser, integer, number
from contract.errors import ConfigError, SloError
from loadgen.commands import conduct_flags, door, flags
from loadgen.commands import run as run_command
from loadgen.quiet import loading

if TYPE_CHECKING:
    from loadgen.conduct import Conduct
    from loadgen.config import RunConfig
    from loadgen.search.course import Search
    from loadgen.search.find import Grid

UNITS = {"agents": "agents", "rate": "requests/s"}
# By what is searched: the first level, the step, the most.
CUSTOMARY = {"agents": (1.0, 1.0, 1024.0), "rate": (1.0, 0.1, 1000.0)}
FILE = "find.json"


def add_parser(subparsers: argparse._SubParsersAction[Parser]) -> None:
    """The `find` subcommand."""
    parser = subparsers.add_parser(
        "find",
        help="search the largest concurrency or rate that meets service objectives",
        description="Search the most agents, or the highest rate, at which enough requests meet "
        "service objectives: double, then bisect, one stage after the other in one run directory; "
        "a level is driven again while its interval holds the target.",
        epilog="Exit 0: found; 6: no level meets the objectives; 3: the target is not there.",
    )
    parser.set_defaults(command=command)
    parser.add_argument(
        "--config", metavar="FILE", help="YAML as for `run`, without its levels; flags win over it"
    )
    flag = parser.add_argument_group("search").add_argument
    flag("--goodput", nargs="+", metavar="LIMIT",
         help="objectives in ms, required: ttft:200 tpot:50 itl:50 e2el:5000")  # fmt: skip
    flag("--attainment", type=number(above=0, at_most=0.9999), default=0.95, metavar="SHARE",
         help="share of the requests that must meet them (default 0.95)")  # fmt: skip
    flag("--by", choices=tuple(UNITS), default="agents",
         help="what grows: agents of a closed loop (default), or requests/s")  # fmt: skip
    flag("--start", type=number(above=0), metavar="LEVEL", help="the first level (default 1)")
    flag("--step", type=number(at_least=0.001), metavar="LEVEL",
         help="how near the answer has to be (default 1 agent, 0.1 requests/s)")  # fmt: skip
    flag("--max", dest="most", type=number(above=0), metavar="LEVEL",
         help="the most to ask for (default 1024 agents, 1000 requests/s)")  # fmt: skip
    flag("--repeats", dest="looks", type=integer(at_least=1, at_most=100), default=3, metavar="R",
         help="stages of a level before the point estimate decides (default 3)")  # fmt: skip
    flags.add_target_flags(parser)
    flags.add_load_flags(parser)
    flags.add_prompt_flags(parser)
    flags.add_body_flags(parser)
    flags.add_window_flags(parser)
    flags.add_output_flags(parser)
    conduct_flags.add_wait_flag(parser)
    conduct_flags.add_reset_flag(parser)
    conduct_flags.add_dry_run_flag(parser)


def grid_of(arguments: argparse.Namespace) -> Grid:
    """The levels to search among; ConfigError when they are none."""
    from loadgen.search.find import Grid

    by = arguments.by
    given = (arguments.start, arguments.step, arguments.most)
    start, step, most = (
        usual if value is None else value for value, usual in zip(given, CUSTOMARY[by], strict=True)
    )
    for name, value in (("start", start), ("step", step), ("max", most)):
        if by == "agents" and value != int(value):
            raise ConfigError(f"--{name}: {value:g} agents given, allowed: a whole number")
    last = int(most / step + 1e-9)
    if last < 1:
        raise ConfigError(f"--max: {most:g} given, allowed: at least one step of {step:g}")
    if start > most:
        raise ConfigError(f"--start: {start:g} given, allowed: at most --max {most:g}")
    if by == "agents" and most > 100_000:
        raise ConfigError(f"--max: {most:g} agents given, allowed: at most 100000")
    return Grid(min(last, max(1, round(start / step))), last, step)


def resolve(arguments: argparse.Namespace, grid: Grid) -> RunConfig:
    """The configuration of the first level. ConfigError where it brings levels of its own."""
    first = f"{grid.level(grid.start):.12g}"
    setattr(arguments, "request_rate" if arguments.by == "rate" else "agents", first)
    config = run_command.resolve(arguments)
    if config.goodput is None:
        raise ConfigError("--goodput: nothing given to search for, allowed: ttft:200 e2el:5000 …")
    if config.shards > 1:
        raise ConfigError(f"shards: {config.shards} given, a search drives one process: allowed: 1")
    if config.open != (arguments.by == "rate"):
        raise ConfigError(
            f"--by: {arguments.by} given with arrival {config.arrival}, allowed: agents with a "
            "closed loop, rate with arrivals"
        )
    return config


@loading()
def _admitted(arguments: argparse.Namespace, grid: Grid) -> RunConfig:
    """The configuration, where nothing speaks against a search."""
    config = resolve(arguments, grid)
    door.files_there(config)
    door.folder_writable(config)
    if config.open:
        door.connections_fit(config, "--max-concurrency", config.max_concurrency)
    else:
        door.connections_fit(config, "--max", round(grid.level(grid.last)))
    return config


def command(arguments: argparse.Namespace) -> int:
    """Search, print, and say how it ended: 0, or 128 + the signal. SloError: nothing found."""
    grid = grid_of(arguments)
    config = _admitted(arguments, grid)
    from loadgen.figures.goodput import parse_goodput
    from loadgen.search import report as find_report
    from loadgen.search.course import Search
    from loadgen.search.find import Rules

    assert config.goodput is not None
    asked = find_report.Asked(
        parse_goodput(config.goodput), arguments.attainment, UNITS[arguments.by]
    )
    rules = Rules(arguments.attainment, arguments.looks)
    if arguments.dry_run:
        from loadgen.commands.dry_run import show

        search_ahead = find_report.ahead(asked, grid, rules)
        return show(config, as_json=arguments.json, search=search_ahead)
    return _search(config, Search(config, asked, grid, rules), as_json=arguments.json)


def _search(config: RunConfig, search: Search, *, as_json: bool) -> int:
    from loadgen.commands.console import said
    from loadgen.search import report as find_report

    conduct = run_command.conduct_of(config, search)

    def progress(line: str) -> None:
        conduct.said(line)  # which changes once a terminal is watched

    search.said = progress
    try:
        run_command.drive(conduct)
    finally:
        if conduct.path is not None:
            try:
                _write(search, conduct, as_json=as_json)
            finally:
                said(f"run directory: {conduct.path}")
    if conduct.interrupted is not None:
        return 128 + conduct.interrupted
    if search.standing.best is None:
        raise SloError(
            find_report.nothing(search.standing, search.asked, search.grid, search.relaxed)
        )
    return 0


def _write(search: Search, conduct: Conduct, *, as_json: bool) -> None:
    """The table or the document to stdout, and the document beside the run's own files."""
    from contract.rundir import replace_json
    from loadgen.search import report as find_report

    assert conduct.path is not None
    standing, asked, grid, rules = search.standing, search.asked, search.grid, search.rules
    run = {"run": conduct.manifest.run, "path": str(conduct.path)}
    document = find_report.document(standing, asked, grid, rules, run)
    replace_json(conduct.path / FILE, document)
    if as_json:
        print(json.dumps(document), flush=True)
    elif standing.judged:
        print(find_report.table(standing, asked, grid), flush=True)
        if standing.place is None and standing.best is not None:
            print(find_report.found(standing, asked, grid, rules), flush=True)
