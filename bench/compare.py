"""`loadgen run` beside other load generators, each driven against the server of known token times.

Every tool runs as its users start it, its whole family of processes on one core and the server
on another: CPU per token and per request, what it says of tokens against what the server wrote,
start-up and memory. docs/bench.md says how to read it; `bench/comparison_page.py` makes a page.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from bench import harness, memory, peers
from bench.comparison_page import is_void, page, table
from bench.errors import MATCHED, finished, unique
from bench.harness import Client, Repetition, Task, measure, measured
from bench.peers import NotInstalledError, Peer, Seen
from bench.truth import Truth

STREAMS = 64
TRIAL = 4 * STREAMS  # requests of a run that sizes the one that counts
BRIEF = 0.02  # CPU seconds below which a trial says too little
KEPT = 1000  # requests of the run whose memory is read
ATTEMPTS = 3  # runs made until one is undisturbed
GIVEN_UP = (RuntimeError, ValueError, KeyError, OSError)  # what a tool's failing looks like

Figures = dict[str, float]


@dataclass(frozen=True)
class Shape:
    """One load: replies of so many tokens, one token per write."""

    tokens: int
    server: dict[str, Any] = field(default_factory=dict)


FLOOD = Shape(128)
ONE = Shape(1)
PACED = Shape(32, {"ttft": 50, "gap": 10})
PACED_SECONDS = 0.05 + 0.01 * (PACED.tokens - 1)


@dataclass(frozen=True)
class Tool:
    """A client, how its requests are found in the server's log, and how it tells of them."""

    client: Client
    seen: Callable[[Task], Iterable[Seen]] | None
    server: dict[str, Any] = field(default_factory=dict)
    command: str = ""

    def run(self, shape: Shape, requests: int) -> tuple[dict[str, int], dict[str, Any]]:
        """What the harness asks of the client, and of the server."""
        work = {"streams": STREAMS, "requests": requests, "tokens": shape.tokens}
        return work, {**shape.server, **self.server}


def bare() -> Tool:
    return Tool(harness.bare(), None)


def loadgen() -> Tool:
    """`loadgen run`, and its command line with the names of a task's fields."""
    client = harness.loadgen()
    names: dict[str, Any] = {f.name: f"{{{f.name}}}" for f in fields(Task)}
    template = Task(**{**names, "folder": Path(names["folder"])})
    command = ["loadgen", *client.command(template)[3:]]
    return Tool(client, lambda task: seen_by_loadgen(task.run_directory), command=" ".join(command))


def of(peer: Peer, venv: Path) -> Tool:
    """An installed peer."""
    client = peer.client(venv)
    return Tool(client, lambda task: peer.seen(task.folder), {"nonce": peers.NUMBERED},
                peer.command.partition("{venv}/bin/")[2])  # fmt: skip


def seen_by_loadgen(run: Path) -> Iterator[Seen]:
    """The records of a run directory; a request's number is its seed."""
    for record, nonce in finished(run):
        gaps = [1e-6 * gap for gap in record.get("gaps_us", [])]
        mean = fmean(gaps) if gaps else 0.0
        yield Seen(nonce, record["first_token"] - record["sent"], mean, gaps)


def errors(seen: Iterable[Seen], truth: Truth) -> Figures:
    """What a tool says of its requests minus what the server wrote of the same ones: quantiles of
    absolute milliseconds. Gap by gap only where nearly all requests have them all."""
    index, ttft, mean_gap, gaps, whole = unique(truth), [], [], [], 0
    for request in seen:
        place = index.get(request.number)
        if place is None:
            continue
        times = truth.token_times(place)
        waited = int(times[0]) - int(truth.requests["arrival"][place])
        ttft.append(request.ttft - 1e-9 * waited)
        true = 1e-9 * np.diff(times)
        mean_gap.append(request.mean_gap - float(true.mean()) if len(true) else 0.0)
        if request.gaps is not None and len(request.gaps) == len(true):
            whole += 1
            gaps.append(np.asarray(request.gaps) - true)
    figures: Figures = {"found": len(ttft)}
    named: dict[str, Any] = {"ttft": ttft, "mean_gap": mean_gap}
    if whole >= MATCHED * len(ttft) > 0:
        named["gap"] = np.concatenate(gaps)
    for name, values in named.items():
        if len(values):
            for q in (50, 99):
                figures[f"{name}_p{q}_ms"] = 1e3 * float(np.percentile(np.abs(values), q))
    return figures


def checked(run: Repetition, requests: int) -> int:
    """How many replies were given, which may be more than asked for; RuntimeError when fewer."""
    done = int(np.sum(run.truth.requests["ended"] > 0))
    if done < requests:
        raise RuntimeError(f"{done} replies of the {requests} asked for")
    return done


def flood(tool: Tool, requests: int) -> Figures:
    """CPU per token as fast as the two sides can."""
    run = measure(tool.client, *tool.run(FLOOD, requests))
    tokens = run.truth.tokens
    return {
        "token_us": 1e6 * run.cpu / tokens,
        "token_to_end_us": 1e6 * run.cpu_from_start / tokens,
        "tokens_per_second": tokens / run.seconds,
        "processes": run.watch.processes,
        "connections": len(np.unique(run.truth.requests["connection"])),
        "flood_requests": checked(run, requests),
        "foreign": run.foreign,
    }


def one(tool: Tool, requests: int) -> Figures:
    """CPU per request whose reply is one token."""
    run = measure(tool.client, *tool.run(ONE, requests))
    done = checked(run, requests)
    return {"request_us": 1e6 * run.cpu / done, "one_requests": done, "foreign": run.foreign}


def paced(tool: Tool, requests: int) -> Figures:
    """Errors of the instants while the server keeps its pace."""
    with measured(tool.client, *tool.run(PACED, requests)) as (run, task):
        done = checked(run, requests)
        figures: Figures = {"paced_cores": run.cpu / run.seconds, "foreign": run.foreign}
        if tool.seen is not None:
            figures |= errors(tool.seen(task), run.truth)
            if figures["found"] < MATCHED * requests:
                raise RuntimeError(f"only {figures['found']} requests are in the server's log")
        return {**figures, "paced_requests": done}


def calm(run: Callable[[], Figures], limit: float) -> Figures:
    """Of runs made until others took no more than `limit` cores, the calmest."""
    tried: list[Figures] = []
    while len(tried) < ATTEMPTS:
        tried.append(run())
        if tried[-1]["foreign"] <= limit:
            break
    return min(tried, key=lambda figures: figures["foreign"])


@dataclass(frozen=True)
class Size:
    """How many requests a tool is asked for in each shape."""

    flood: int
    one: int
    paced: int


def sized(tool: Tool, seconds: float) -> tuple[Size, Figures]:
    """Requests for about `seconds` of the tool's CPU, from two short runs. The first also warms
    the disk cache, so that the second tells the start-up."""
    cold, warm = (measure(tool.client, *tool.run(shape, TRIAL)) for shape in (FLOOD, ONE))
    many, more = (
        max(TRIAL, int(checked(run, TRIAL) * seconds / max(BRIEF, run.cpu))) for run in (cold, warm)
    )
    start = {"start_cpu_s": warm.cpu_before, "start_s": warm.seconds_before}
    return Size(many, more, int(STREAMS * max(2.0, seconds / PACED_SECONDS))), start


def once(tool: Tool, size: Size, limit: float) -> Figures:
    """Every figure of a tool, each shape run once."""
    figures: Figures = {"peak_mb": memory.peak(tool.client, *tool.run(FLOOD, KEPT))}
    foreign = []
    for shape, requests in ((flood, size.flood), (one, size.one), (paced, size.paced)):
        found = calm(partial(shape, tool, requests), limit)
        foreign.append(found.pop("foreign"))
        figures |= found
    return {**figures, "foreign": max(foreign)}


def compared(tools: list[Tool], seconds: float, repeats: int, limit: float) -> list[dict[str, Any]]:
    """All tools in turns, `repeats` times; one that fails says why and is asked no more."""
    rows: list[dict[str, Any]] = [
        {"title": tool.client.name, "command": tool.command, "figures": []} for tool in tools
    ]
    for repeat in range(repeats):
        for tool, row in zip(tools, rows, strict=True):
            if "failed" in row:
                continue
            print(f"{tool.client.name}, {repeat + 1} of {repeats}", file=sys.stderr, flush=True)
            try:
                size, start = sized(tool, seconds)
                row["figures"].append({**start, **once(tool, size, limit)})
            except GIVEN_UP as error:
                row["failed"] = f"{error}"
    return rows


def machine() -> dict[str, Any]:
    """What the figures belong to."""
    facts = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(": ")[2] for line in facts if line.startswith("model name")), "?")
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(total / 1e9, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def revision() -> str:
    """The commit measured, with a plus sign when the checkout differs from it."""
    asked = ["git", "describe", "--always", "--dirty=+", "--abbrev=12"]
    told = subprocess.run(asked, cwd=harness.ROOT, capture_output=True, text=True, check=False)
    return told.stdout.strip() or "unknown"


def had(wanted: list[str]) -> tuple[list[Tool], list[dict[str, Any]]]:
    """The tools to run, and rows of those that cannot be installed."""
    tools, absent = [bare(), loadgen()], []
    for peer in peers.PEERS:
        if peer.name not in wanted:
            continue
        print(f"{peer.title}: {peers.folder() / peer.package}", file=sys.stderr, flush=True)
        try:
            tools.append(of(peer, peers.installed(peer)))
        except NotInstalledError as error:
            why = f"not installed: {error}"
            absent.append({"title": peer.title, "command": "", "figures": [], "failed": why})
    return tools, absent


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=10.0, help="of each run")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--peer", choices=[p.name for p in peers.PEERS], action="append",
                        help="only this one, beside bare and loadgen")  # fmt: skip
    parser.add_argument("--foreign", type=float, default=harness.FOREIGN_LIMIT, metavar="CORES",
                        help="what others may take (default %(default)s)")  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    parser.add_argument("--page", type=Path, metavar="FILE", help="write a page of them here")
    parser.add_argument("--from", type=Path, dest="source", metavar="FILE",
                        help="measure nothing: the figures are there")  # fmt: skip
    arguments = parser.parse_args()
    if arguments.source:
        document = json.loads(arguments.source.read_text())
    else:
        tools, absent = had(arguments.peer or [peer.name for peer in peers.PEERS])
        rows = compared(tools, arguments.seconds, arguments.repeats, arguments.foreign)
        document = {
            "date": datetime.now(UTC).date().isoformat(),
            "revision": revision(),
            "machine": machine(),
            "asked": {"streams": STREAMS, "seconds": arguments.seconds, "kept": KEPT,
                      "repeats": arguments.repeats, "foreign": arguments.foreign},
            "tools": [*rows, *absent],
        }  # fmt: skip
    if arguments.json:
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")
    if arguments.page:
        arguments.page.write_text(page(document))
    print(table(document["tools"]))
    failed = [f"{row['title']}: {row['failed']}" for row in document["tools"] if "failed" in row]
    print("\n".join(failed), file=sys.stderr)
    return 1 if failed or is_void(document) else 0


if __name__ == "__main__":
    sys.exit(main())
