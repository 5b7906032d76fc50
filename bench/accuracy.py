"""What `loadgen run` says about tokens, against what a server of known token times wrote.

The time to first token is compared as a duration (first_token - sent against the first write -
arrival), gaps one by one, both in microseconds of the same host's clock. docs/bench.md says how
to read it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bench import harness
from bench.harness import Client, Repetition, Task, epoch_of, measured, records_of
from bench.truth import Truth

RATE = 1000  # requests/s of the open loop
ATTEMPTS = 3  # repetitions tried until one is undisturbed
MATCHED = 0.99  # share of records that must be found in the server's log
BLOCKED = ("-m", "bench.blocked")
FIELDS = ("stages.jsonl", "declared", "generator", "own_error", "error")

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Shape:
    """Streams paced by the server; limits are milliseconds, by the name of a figure."""

    name: str
    streams: int
    limits: dict[str, float] = field(default_factory=dict)
    jitter: float = 0.0
    tokens: int = 32
    launcher: tuple[str, ...] = ("-m", "loadgen")
    flags: tuple[str, ...] = ()

    @property
    def server(self) -> dict[str, Any]:
        return {"ttft": 50, "gap": 10, "jitter": self.jitter}


SHAPES = (
    Shape("64 x 10 ms", 64, {"TTFT p50": 0.1, "TTFT p99": 0.5}),
    Shape("512 x 10 ms, 20 % jitter", 512, {"gap p99": 0.5}, jitter=0.2),
    Shape("1,024 x 10 ms", 1024),
    Shape("loop blocked 8 ms of 10", 64, {"gap p99": 1.0}, launcher=BLOCKED),
)


@dataclass(frozen=True)
class Errors:
    """Client minus server of one run, seconds, absolute values; `early` counts stamps before
    the server's send, which no clock allows, and `merged` the gaps of tokens read together."""

    requests: int
    matched: int
    ttft: Array
    gap: Array
    late: Array
    early: int
    merged: int

    def figures(self) -> dict[str, float]:
        """Percentiles in milliseconds."""
        named = (("TTFT", self.ttft), ("gap", self.gap), ("first stamp late by", self.late))
        return {
            f"{name} p{q}": float(1e3 * np.percentile(np.abs(values), q))
            for name, values in named
            if len(values)
            for q in (50, 99)
        }


def errors_of(run: Path, truth: Truth) -> Errors:
    """Match the records of a run with the log by the seed each request carried."""
    epoch, index = epoch_of(run, truth), unique(truth)
    seconds, ttft, gap, late = 1e-9, [], [], []
    requests = matched = 0
    for record, nonce in finished(run):
        requests += 1
        place = index.get(nonce)
        if place is None or record["chunks"] != truth.requests["tokens"][place]:
            continue
        matched += 1
        times = truth.token_times(place)
        arrival = int(truth.requests["arrival"][place])
        ttft.append(record["first_token"] - record["sent"] - (times[0] - arrival) * seconds)
        late.append(epoch + record["first_token"] - times[0] * seconds)
        gaps = np.asarray(record.get("gaps_us", []), float) * 1e-6
        gap.append(gaps - np.diff(times) * seconds)
    gaps = np.concatenate(gap) if gap else np.zeros(0)
    merged = sum(record.get("gaps_us", []).count(0) for record in records_of(run))
    return Errors(
        requests=requests,
        matched=matched,
        ttft=np.asarray(ttft),
        gap=gaps,
        late=np.asarray(late),
        early=int(np.sum(np.asarray(late) < -50e-6)),
        merged=merged,
    )


def unique(truth: Truth) -> dict[int, int]:
    """Where in the log each nonce stands that came exactly once."""
    nonces, first, count = np.unique(truth.requests["nonce"], return_index=True, return_counts=True)
    chosen = (count == 1) & (nonces >= 0)
    return dict(zip(nonces[chosen].tolist(), first[chosen].tolist(), strict=True))


def finished(run: Path) -> Iterator[tuple[dict[str, Any], int]]:
    """Records that ended ok with content, and the seed that their request carried."""
    for record in records_of(run):
        if record["outcome"] == "ok" and record.get("first_token") is not None:
            number = _pair(_pair(record["stage"], record["agent"]), record["seq"])
            yield record, number % 2**31


def _pair(a: int, b: int) -> int:
    """Cantor's pairing, by which loadgen numbers its requests."""
    return (a + b) * (a + b + 1) // 2 + b


def declared(run: Path) -> dict[str, Any]:
    """What the run says of its own error, as its stage lines have it; {} when nothing."""
    lines = (run / FIELDS[0]).read_text().splitlines()
    stage = json.loads(lines[-1]) if lines else {}
    said = {name: stage[name] for name in FIELDS[1:] if stage.get(name) is not None}
    failed = [v["name"] for v in stage.get("verdicts", []) if v.get("checked") and not v["ok"]]
    return {**said, "failed verdicts": failed}


@dataclass(frozen=True)
class Outcome:
    """One shape measured; `foreign` is what others took of the machine, in cores."""

    errors: Errors
    declared: dict[str, Any]
    foreign: float
    discarded: int


def run_shape(shape: Shape, seconds: float, foreign: float, flags: tuple[str, ...]) -> Outcome:
    """Measure until a repetition is undisturbed, at most ATTEMPTS; the calmest one counts."""
    client = harness.loadgen(*shape.flags, *flags, launcher=shape.launcher)
    span = 0.05 + 0.01 * (shape.tokens - 1)
    work = {
        "streams": shape.streams,
        "requests": int(shape.streams * max(2.0, seconds / span)),
        "tokens": shape.tokens,
    }
    tried: list[Outcome] = []
    for attempt in range(ATTEMPTS):
        tried.append(_once(client, work, shape.server, attempt))
        if tried[-1].foreign <= foreign:
            return tried[-1]
    return min(tried, key=lambda outcome: outcome.foreign)


def _once(client: Client, work: dict[str, int], server: dict[str, Any], discarded: int) -> Outcome:
    repetition: Repetition
    task: Task
    with measured(client, work, server) as (repetition, task):
        run = task.run_directory
        found = errors_of(run, repetition.truth)
        return Outcome(found, declared(run), repetition.foreign, discarded)


def report(shape: Shape, outcome: Outcome, foreign: float) -> bool:
    """Print one shape; False when a limit is missed or nothing can be said."""
    errors, figures = outcome.errors, outcome.errors.figures()
    disturbed = outcome.foreign > foreign
    print(f"\n{shape.name}: {errors.requests} requests, {errors.matched} found in the log, "
          f"{errors.merged} gaps of tokens read together, "
          f"others took {outcome.foreign:.2f} cores, "
          f"{outcome.discarded} repetitions discarded")  # fmt: skip
    if not errors.requests or errors.matched < MATCHED * errors.requests:
        print("  void: too few requests found in the server's log, or not a chunk per token")
        return False
    good = True
    for name, value in figures.items():
        limit = shape.limits.get(name)
        verdict = (
            "" if limit is None else f", limit {limit:g}: {'ok' if value <= limit else 'missed'}"
        )
        good = good and (limit is None or value <= limit)
        print(f"  {name:28} {value:9.3f} ms{verdict}")
    if errors.early:
        print(f"  {errors.early} first tokens stamped before they were sent: the clocks disagree")
    for name, value in outcome.declared.items():
        print(f"  declared: {name} {value}")
    if disturbed:
        print(f"  void: disturbed, others took more than {foreign:g} cores in every repetition")
    return good and not disturbed


def open_loop(seconds: float, foreign: float, flags: tuple[str, ...]) -> bool:
    """Poisson arrivals at RATE: how late requests reach the server, beside a bare timerfd."""
    work = {"streams": 64, "requests": int(RATE * seconds), "tokens": 8}
    server = {"ttft": 5, "gap": 1}
    print(f"\nPoisson {RATE:,} requests/s, replies of 8 tokens")
    with measured(harness.bare_timer(RATE), work, server) as (floor, task):
        due = np.fromfile(task.folder / "due", np.int64)
        numbers = floor.truth.requests["nonce"] - 10**8
        bare = (floor.truth.requests["arrival"].astype(np.int64) - due[numbers]) * 1e-9
    with measured(harness.loadgen(*flags, rate=RATE), work, server) as (ours, task):
        arrival, sent = lateness_of(task.run_directory, ours.truth)
    limit = max(0.5, 1.5 * _p99(bare))
    good = True
    for name, late, most in (
        ("bare timerfd, arrival - due", bare, None),
        ("arrival - due", arrival, limit),
        ("sent - due", sent, 0.2),
    ):
        held = most is None or (len(late) > 0 and _p99(late) <= most)
        verdict = "" if most is None else f", limit {most:.3g}: {'ok' if held else 'missed'}"
        good = good and held
        print(f"  {name:28} p50 {1e3 * np.median(late):7.3f}, p99 {_p99(late):7.3f} ms{verdict}")
    taken = max(floor.foreign, ours.foreign)
    print(f"  {len(arrival)} requests; others took {taken:.2f} cores{': void' * (taken > foreign)}")
    return good and taken <= foreign


def lateness_of(run: Path, truth: Truth) -> tuple[Array, Array]:
    """Seconds from due to arrival at the server, and from due to sent, of matched records."""
    epoch, index = epoch_of(run, truth), unique(truth)
    arrivals, sends = [], []
    for record, nonce in finished(run):
        if (place := index.get(nonce)) is not None:
            arrival = int(truth.requests["arrival"][place]) * 1e-9
            arrivals.append(arrival - epoch - record["due"])
            sends.append(record["sent"] - record["due"])
    return np.asarray(arrivals), np.asarray(sends)


def _p99(seconds: Array) -> float:
    """In milliseconds."""
    return float(1e3 * np.percentile(seconds, 99)) if len(seconds) else float("nan")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=5.0, help="of each shape")
    parser.add_argument("--shape", type=int, choices=range(len(SHAPES)), action="append")
    parser.add_argument("--flags", default="", help="further flags of loadgen run")
    parser.add_argument("--foreign", type=float, default=harness.FOREIGN_LIMIT, metavar="CORES",
                        help="what others may take (default %(default)s)")  # fmt: skip
    arguments = parser.parse_args()
    good = True
    for number, shape in enumerate(SHAPES):
        if not arguments.shape or number in arguments.shape:
            flags = tuple(arguments.flags.split())
            outcome = run_shape(shape, arguments.seconds, arguments.foreign, flags)
            good = report(shape, outcome, arguments.foreign) and good
    if arguments.shape:
        return 0 if good else 1
    if "--request-rate" in harness.flags_of_run():
        flags = tuple(arguments.flags.split())
        good = open_loop(arguments.seconds, arguments.foreign, flags) and good
    else:
        print("\nPoisson: not measured, this loadgen has no --request-rate")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
