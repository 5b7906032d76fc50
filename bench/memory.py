"""Memory of `loadgen run` while requests flow, and with very many of them in flight at once.

PSS (/proc/PID/smaps_rollup) of all of the client's processes: growth is its median around 20 %
of the requests against its median up to 100 %, before any summary is made. A page of a program's
file counts in PSS by how many processes map it, so PSS moves when any other interpreter starts
or ends: what is judged is the growth with such pages counted whole.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from bench import harness
from bench.harness import Client, Task, family, free_port, records_of
from bench.truth import TruthServer

GROWTH_LIMIT = 0.02
RSS_LIMIT = 250.0  # MB
EVERY = 0.1
MB = 1e6


@dataclass(frozen=True)
class Reading:
    """The client's memory in MB when the server had begun `requests`."""

    requests: int
    in_flight: int
    pss: float
    rss: float
    own: float  # PSS, but for pages of files, which count whole


def memory_of(pids: set[int]) -> tuple[float, float, float]:
    """PSS, RSS, and PSS with the pages of files whole, of processes, in MB; those gone count
    nothing."""
    totals: Counter[str] = Counter()
    for pid in pids:
        with suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
                name, _, amount = line.partition(":")
                totals[name] += int(amount.split()[0])
    of_files = totals["Rss"] - totals["Anonymous"]
    own = totals["Pss"] - totals["Pss_File"] + of_files
    pss, rss, own = (kib * 1024 / MB for kib in (totals["Pss"], totals["Rss"], own))
    return pss, rss, own


def watch(work: dict[str, int], options: dict[str, Any]) -> tuple[list[Reading], Counter[str], int]:
    """Readings while requests flow, the outcomes of all records, and the exit code."""
    server_cores, client_cores = harness.cores()
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as name,
        TruthServer(cores=server_cores, **options) as server,
    ):
        task = Task(server.url, folder=Path(name), metrics=free_port(), **work)
        client = harness.loadgen("--timeout", "600")
        process = subprocess.Popen(
            ["taskset", "-c", ",".join(map(str, client_cores)), *client.command(task)],
            cwd=harness.ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        readings = []
        while process.poll() is None:
            with urllib.request.urlopen(f"{server.url}/stats", timeout=30) as page:
                seen = json.load(page)
            if seen["requests"] and (seen["in_flight"] or seen["requests"] < task.requests):
                memory = memory_of(family(process.pid))
                readings.append(Reading(seen["requests"], seen["in_flight"], *memory))
            time.sleep(EVERY)
        assert process.stderr is not None
        if process.returncode != 0:
            print(process.stderr.read()[-1500:])
        outcomes = Counter(record["outcome"] for record in records_of(task.run_directory))
    return readings, outcomes, process.returncode


def peak(client: Client, work: dict[str, int], options: dict[str, Any]) -> float:
    """The most PSS in MB that a client's processes had together, from their start to their end.

    RuntimeError, with the client's last words, when it fails.
    """
    server_cores, client_cores = harness.cores()
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as name,
        TruthServer(cores=server_cores, **options) as server,
        (Path(name) / "output").open("w+", errors="replace") as output,
    ):
        task = Task(server.url, folder=Path(name), metrics=free_port(), **work)
        process = subprocess.Popen(
            ["taskset", "-c", ",".join(map(str, client_cores)), *client.command(task)],
            cwd=harness.ROOT, stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
        most = 0.0
        while process.poll() is None:
            most = max(most, memory_of(family(process.pid))[0])
            time.sleep(EVERY)
        if process.returncode != 0:
            said = Path(output.name).read_text(errors="replace")[-2000:]
            raise RuntimeError(f"{client.name} ended with {process.returncode}:\n{said}")
    return most


def growth(requests: int) -> bool:
    """Memory at 20 % of the requests against that at 100 %."""
    work = {"streams": 64, "requests": requests, "tokens": 8}
    readings, outcomes, code = watch(work, {"per_write": 8})

    def around(low: float, high: float) -> tuple[float, float]:
        within = [r for r in readings if low <= r.requests / requests <= high]
        return median(r.pss for r in within), median(r.own for r in within)

    print(f"\n{requests:,} requests of 8 tokens, 64 streams: {dict(outcomes)}")
    try:
        (early, own_early), (late, own_late) = around(0.17, 0.23), around(0.95, 1.05)
    except ValueError:
        print("  void: too few readings, ask for more requests with --scale")
        return False
    more = own_late - own_early
    grown = more / early
    ok = grown < GROWTH_LIMIT and code == 0
    print(f"  PSS {early:.1f} MB at 20 %, {late:.1f} MB at 100 %; files counted whole "
          f"grown by {grown:.2%} ({more * 1.25e6 / requests:.1f} MB per million requests), "
          f"limit {GROWTH_LIMIT:.0%}: {'ok' if ok else 'missed'}")  # fmt: skip
    return ok


def crowd(streams: int) -> bool:
    """So many requests in flight at once, all answered."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    work = {"streams": streams, "requests": streams, "tokens": 8}
    readings, outcomes, code = watch(work, {"ttft": 2000 + streams, "gap": 100})
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    most = max((reading.in_flight for reading in readings), default=0)
    peak = max((reading.rss for reading in readings), default=0.0)
    errors = sum(outcomes.values()) - outcomes["ok"]
    ok = code == 0 and not errors and most >= streams and peak <= RSS_LIMIT
    print(f"\n{streams:,} requests in flight at once: {most:,} seen together, "
          f"{errors} errors, RSS up to {peak:.0f} MB, limit {RSS_LIMIT:.0f}: "
          f"{'ok' if ok else 'missed'}")  # fmt: skip
    return ok


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--scale", type=float, default=1.0,
                        help="of 200,000 requests and of 10,000 in flight (default 1)")  # fmt: skip
    arguments = parser.parse_args()
    good = [growth(int(200_000 * arguments.scale)), crowd(int(10_000 * arguments.scale))]
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
