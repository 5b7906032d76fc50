"""CPU per token and per request of `loadgen run`, against the floor that bench/bare.py is.

Pairs of runs, floor and client in turns, on the same core; the figure is the median of the
pairs' ratios of CPU seconds, from the first send to the last byte over all of the client's
processes. docs/bench.md says how to read it.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from bench import harness
from bench.harness import Client, Repetition, measure
from bench.truth import TruthServer

SPREAD_LIMIT = 0.15
WRK_SHARE = 0.5
START_LIMIT = 1.6
HEAVY = "import aiohttp, pydantic, uvloop"


@dataclass(frozen=True)
class Shape:
    """One load: `requests` is what the floor is asked; `limit` the ratio allowed, None: shown."""

    name: str
    says: str
    tokens: int
    requests: int
    unit: str
    limit: float | None
    server: dict[str, Any] = field(default_factory=dict)

    def cost(self, repetition: Repetition) -> float:
        """CPU microseconds per token or per request."""
        truth = repetition.truth
        done = truth.tokens if self.unit == "token" else len(truth.requests)
        return 1e6 * repetition.cpu / done


SHAPES = (
    Shape("flood8", "8 tokens per write, 128 per reply, one HTTP chunk per write",
          128, 20_000, "token", 1.2, {"per_write": 8}),
    Shape("flood8 events", "the same, one HTTP chunk per token",
          128, 20_000, "token", None, {"per_write": 8, "chunk_per_event": True}),
    Shape("tok1", "replies of one token", 1, 150_000, "request", 1.8),
)  # fmt: skip
STREAMS = 64


@dataclass(frozen=True)
class Pair:
    """The floor and the client, one right after the other."""

    floor: Repetition
    client: Repetition

    @property
    def foreign(self) -> float:
        """Cores that others took in the worse half."""
        return max(self.floor.foreign, self.client.foreign)


def pairs(shape: Shape, client: Client, wanted: int, foreign: float) -> list[Pair]:
    """Pairs until `wanted` are undisturbed, at most three times as many. The client's run is
    sized to take about the CPU that the floor's takes."""
    work = {"streams": STREAMS, "requests": shape.requests, "tokens": shape.tokens}
    trial = {**work, "requests": max(shape.requests // 20, 4 * STREAMS)}
    slower = shape.cost(measure(client, trial, shape.server)) / shape.cost(
        measure(harness.bare(), trial, shape.server)
    )
    asked = {**work, "requests": max(int(shape.requests / max(1.0, slower)), 4 * STREAMS)}
    tried: list[Pair] = []
    while len(tried) < 3 * wanted and sum(p.foreign <= foreign for p in tried) < wanted:
        floor = measure(harness.bare(), work, shape.server)
        tried.append(Pair(floor, measure(client, asked, shape.server)))
    return tried


def report(shape: Shape, client: Client, wanted: int, foreign: float) -> bool:
    """Print one shape; False when its limit is missed or nothing can be said."""
    print(f"\n{shape.name}: {shape.says}; {STREAMS} streams", flush=True)
    tried = pairs(shape, client, wanted, foreign)
    kept = [pair for pair in tried if pair.foreign <= foreign]
    calm = len(kept) >= wanted
    shown = kept if calm else tried
    floor = [shape.cost(pair.floor) for pair in shown]
    theirs = [shape.cost(pair.client) for pair in shown]
    for name, costs in (("bare", floor), (client.name, theirs)):
        print(f"  {name:24} {median(costs):8.3f} us/{shape.unit} "
              f"[{min(costs):.3f}..{max(costs):.3f}], {1e6 / median(costs):,.0f} a CPU second"
        )  # fmt: skip
    ratio = [mine / least for mine, least in zip(theirs, floor, strict=True)]
    spread = (max(floor) - min(floor)) / median(floor)
    valid = calm and spread <= SPREAD_LIMIT
    missed = shape.limit is not None and median(ratio) > shape.limit
    limit = "no limit" if shape.limit is None else f"limit {shape.limit:g}"
    verdict = ("missed" if missed else "ok") if valid else "void"
    print(f"  {'ratio':24} {median(ratio):8.2f} [{min(ratio):.2f}..{max(ratio):.2f}], {limit}: "
          f"{verdict}; floor spread {spread:.0%} (void above {SPREAD_LIMIT:.0%})"
    )  # fmt: skip
    discarded = f"{len(tried) - len(kept)} of {len(tried)} pairs disturbed"
    print(f"  {discarded} and discarded" if calm else f"  void: {discarded}, all are shown")
    start([pair.client for pair in shown])
    return valid and not missed


def start(runs: list[Repetition]) -> None:
    """CPU before the first request, and what was loaded while requests flowed."""
    before = min(run.cpu_before for run in runs)
    imports = min(cpu_of([sys.executable, "-c", HEAVY]) for _ in range(5))
    loaded = sorted(set().union(*(run.libraries for run in runs)))
    print(f"  {'before the first request':24} {1e3 * before:8.0f} ms CPU, "
          f"{before / imports:.2f} x `{HEAVY}` ({1e3 * imports:.0f} ms), limit {START_LIMIT}; "
          f"heavy libraries loaded until the last byte: {', '.join(loaded) or 'none'}"
    )  # fmt: skip


def cpu_of(command: list[str]) -> float:
    """CPU seconds of a command, children included."""
    import resource

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def floor_against_wrk(repeats: int) -> bool:
    """The floor's 1-token rate against that of wrk on the same route, both per CPU second of
    one core: a slow floor proves nothing. True where wrk is absent, and said so."""
    wrk = shutil.which("wrk")
    if wrk is None:
        print("floor against wrk: skipped, wrk is not installed (apt-get install wrk)")
        return True
    work = {"streams": STREAMS, "requests": 150_000, "tokens": 1}
    rates = []
    for _ in range(repeats):
        floor = measure(harness.bare(), work, {})
        rates.append((len(floor.truth.requests) / floor.cpu, wrk_rate(wrk)))
    shares = [ours / theirs for ours, theirs in rates]
    ok = median(shares) >= WRK_SHARE
    print(f"floor against wrk, 1-token replies per CPU second: {median(r[0] for r in rates):,.0f} "
          f"and {median(r[1] for r in rates):,.0f}, share {median(shares):.2f} "
          f"[{min(shares):.2f}..{max(shares):.2f}] (at least {WRK_SHARE}): "
          f"{'ok' if ok else 'the floor is too slow, no ratio below counts'}"
    )  # fmt: skip
    return ok


def wrk_rate(wrk: str) -> float:
    """Requests per CPU second of wrk with one thread and the floor's request."""
    server_cores, client_cores = harness.cores()
    _, _, body = harness.rendered(1).partition(b"\r\n\r\n")
    script = (
        'wrk.method = "POST"\nwrk.path = "/v1/completions"\n'
        'wrk.headers["Content-Type"] = "application/json"\n'
        f"wrk.body = [[{body.decode()}]]\n"
    )
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(script)
        file.flush()
        with TruthServer(cores=server_cores) as server:
            pinned = ["taskset", "-c", str(min(client_cores)), wrk, "-t1", f"-c{STREAMS}", "-d2s"]
            took = cpu_of([*pinned, "-s", file.name, server.url])
        assert server.truth is not None
    return len(server.truth.requests) / took


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--shape", choices=[s.name for s in SHAPES], action="append")
    parser.add_argument("--client", metavar="COMMAND", help="another client, e.g. 'tool {url}'")
    parser.add_argument("--flags", default="", help="further flags of loadgen run")
    parser.add_argument("--foreign", type=float, default=harness.FOREIGN_LIMIT, metavar="CORES",
                        help="what others may take (default %(default)s)")  # fmt: skip
    arguments = parser.parse_args()
    client = harness.loadgen(*arguments.flags.split())
    if arguments.client:
        client = harness.other(arguments.client)
    good = floor_against_wrk(min(3, arguments.pairs))
    for shape in SHAPES:
        if not arguments.shape or shape.name in arguments.shape:
            good = report(shape, client, arguments.pairs, arguments.foreign) and good
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
