"""What `loadgen run` says about tokens, against what a server of known token times wrote.

Every line with a limit is judged; so is, in every shape, what the run says of its own error: it
must not be below the true one. docs/bench.md says how to read it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from bench import harness
from bench.errors import Array, Errors, errors_of, lateness_of, percentile
from bench.harness import Repetition, Task, measured

RATE = 1000  # requests/s of the open loop
WARMUP = 200  # its requests before the window
ARRIVAL_LIMIT, FLOOR_SHARE, SEND_LIMIT = 0.5, 1.5, 0.2  # ms, of the floor's, ms
ATTEMPTS = 3  # repetitions tried until one is undisturbed
BLOCKED = ("-m", "bench.blocked")


@dataclass(frozen=True)
class Check:
    """One line of a judgement: a figure against its limit."""

    name: str
    value: float
    limit: float
    at_least: bool = False
    unit: str = "ms"

    @property
    def ok(self) -> bool:
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def __str__(self) -> str:
        side = "at least" if self.at_least else "at most"
        verdict = "ok" if self.ok else "missed"
        return f"{self.name:32} {self.value:9.3f} {self.unit}, {side} {self.limit:.3g}: {verdict}"


@dataclass(frozen=True)
class Declared:
    """What a run says of its own error: the bound in seconds, the rest beside it, and the names
    of the verdicts that failed."""

    error: float | None
    details: dict[str, Any]
    failed: list[str]

    @classmethod
    def of(cls, run: Path) -> Declared:
        """As its last stage line has it."""
        stage = json.loads((run / "stages.jsonl").read_text().splitlines()[-1])
        said = stage.get("generator") or {}
        failed = [v["name"] for v in stage["verdicts"] if v.get("checked") and not v["ok"]]
        return cls(said.get("declared"), said, failed)

    @property
    def doubted(self) -> bool:
        """Whether the run doubts its own instants."""
        return "generator" in self.failed


@dataclass(frozen=True)
class Shape:
    """Streams paced by the server; limits are milliseconds, by the name of a figure. In a
    `doubted` one the run has to doubt itself."""

    name: str
    streams: int
    most: dict[str, float] = field(default_factory=dict)
    least: dict[str, float] = field(default_factory=dict)
    doubted: bool = False
    jitter: float = 0.0
    tokens: int = 32
    launcher: tuple[str, ...] = ("-m", "loadgen")
    flags: tuple[str, ...] = ()

    @property
    def server(self) -> dict[str, Any]:
        return {"ttft": 50, "gap": 10, "jitter": self.jitter}


SHAPES = (
    Shape("64 x 10 ms", 64, {"TTFT p50": 0.1, "TTFT p99": 0.5, "declared": 0.5}),
    Shape("512 x 10 ms, 20 % jitter", 512, {"gap p99": 0.5}, jitter=0.2),
    Shape("1,024 x 10 ms", 1024),
    Shape("1,024 x 10 ms, stamped by the process", 1024, flags=("--stamps", "user"), doubted=True),
    Shape("2,048 x 10 ms", 2048),
    Shape("2,048 x 10 ms, more than the general way can read", 2048,
          flags=("--client", "general"), doubted=True),
    Shape("loop held 8 ms of 10", 64, {"gap p99": 1.0}, launcher=BLOCKED),
    Shape("loop held 8 ms of 10, stamped by the process", 64, least={"gap p99": 2.0},
          launcher=BLOCKED, flags=("--stamps", "user"), doubted=True),
)  # fmt: skip


class Measured(Protocol):
    """A repetition; `foreign` is what others took of the machine meanwhile, in cores."""

    @property
    def foreign(self) -> float: ...


@dataclass(frozen=True)
class Outcome:
    """One shape measured."""

    errors: Errors
    declared: Declared
    foreign: float

    def checks(self, shape: Shape) -> Iterator[Check]:
        """All that is asked of a shape."""
        figures = self.errors.figures()
        error = self.declared.error
        figures["declared"] = float("nan") if error is None else 1e3 * error
        for limits, at_least in ((shape.most, False), (shape.least, True)):
            for name, limit in limits.items():
                yield Check(name, figures[name], limit, at_least)
        yield honest(self.errors, self.declared)
        if shape.doubted:
            yield Check("verdict generator failed", float(self.declared.doubted), 1, True, "")


def honest(errors: Errors, declared: Declared) -> Check:
    """What is declared against what is true."""
    said = float("nan") if declared.error is None else 1e3 * declared.error
    return Check("declared, against the true p99", said, 1e3 * errors.worst, at_least=True)


@dataclass(frozen=True)
class Lateness:
    """An open loop beside a bare timer: seconds late, of every request of the window."""

    bare: Array
    arrival: Array
    sent: Array
    errors: Errors
    declared: Declared
    foreign: float

    def checks(self) -> Iterator[Check]:
        """All that is asked of it."""
        bare, arrival, sent = (
            1e3 * percentile(each, 99) for each in (self.bare, self.arrival, self.sent)
        )
        limit = max(ARRIVAL_LIMIT, FLOOR_SHARE * bare)
        yield Check("arrival - due p99", arrival, limit)
        yield Check("sent - due p99", sent, SEND_LIMIT)
        yield honest(self.errors, self.declared)


M = TypeVar("M", bound=Measured)


def calmest(once: Callable[[], M], foreign: float) -> tuple[M, int]:
    """Measure until a repetition is undisturbed, at most ATTEMPTS times: that one, or the calmest
    of them all; and how many were discarded."""
    tried: list[M] = []
    while len(tried) < ATTEMPTS and not any(each.foreign <= foreign for each in tried):
        tried.append(once())
    return min(tried, key=lambda each: each.foreign), len(tried) - 1


def run_shape(shape: Shape, seconds: float, flags: tuple[str, ...]) -> Outcome:
    """One repetition of a shape."""
    client = harness.loadgen(*shape.flags, *flags, launcher=shape.launcher)
    span = 0.05 + 0.01 * (shape.tokens - 1)
    work = {
        "streams": shape.streams,
        "requests": int(shape.streams * max(2.0, seconds / span)),
        "tokens": shape.tokens,
    }
    repetition: Repetition
    task: Task
    with measured(client, work, shape.server) as (repetition, task):
        run = task.run_directory
        found = errors_of(run, repetition.truth)
        return Outcome(found, Declared.of(run), repetition.foreign)


def run_open_loop(seconds: float, flags: tuple[str, ...]) -> Lateness:
    """Poisson arrivals at RATE, and a bare timerfd that sends as many."""
    work = {"streams": 64, "requests": int(RATE * seconds), "tokens": 8}
    server = {"ttft": 5, "gap": 1}
    with measured(harness.bare_timer(RATE), work, server) as (floor, task):
        due = np.fromfile(task.folder / "due", np.int64)
        numbers = floor.truth.requests["nonce"] - 10**8
        bare = (floor.truth.requests["arrival"].astype(np.int64) - due[numbers]) * 1e-9
    client = harness.loadgen("--warmup-requests", str(WARMUP), *flags, rate=RATE)
    with measured(client, work, server) as (ours, task):
        run = task.run_directory
        arrival, sent = lateness_of(run, ours.truth)
        found = errors_of(run, ours.truth)
        most = max(floor.foreign, ours.foreign)
        return Lateness(bare, arrival, sent, found, Declared.of(run), most)


def report(shape: Shape, outcome: Outcome, discarded: int, foreign: float) -> bool:
    """Print one shape; False when a limit is missed or nothing can be said."""
    errors = outcome.errors
    print(f"\n{shape.name}: {errors.requests} requests, {errors.matched} found in the log, "
          f"{errors.merged} gaps of tokens read together")  # fmt: skip
    for name, value in errors.figures().items():
        print(f"  {name:32} {value:9.3f} ms")
    _say(outcome.declared)
    if errors.early:
        print(f"  {errors.early} first tokens stamped before they were sent: the clocks disagree")
    return _judge(outcome.checks(shape), errors, (outcome.foreign, foreign), discarded)


def report_open_loop(outcome: Lateness, discarded: int, foreign: float) -> bool:
    """The same for the open loop."""
    print(f"\nPoisson {RATE:,} requests/s, replies of 8 tokens: {len(outcome.arrival)} requests")
    for name, late in (
        ("bare timerfd, arrival - due", outcome.bare),
        ("arrival - due", outcome.arrival),
        ("sent - due", outcome.sent),
    ):
        print(f"  {name:32} p50 {1e3 * percentile(late, 50):7.3f}, "
              f"p99 {1e3 * percentile(late, 99):7.3f} ms")  # fmt: skip
    _say(outcome.declared)
    return _judge(outcome.checks(), outcome.errors, (outcome.foreign, foreign), discarded)


def _say(declared: Declared) -> None:
    details = {
        name: round(value, 6) if isinstance(value, float) else value
        for name, value in declared.details.items()
    }
    print(f"  declared: {details}; failed verdicts: {', '.join(declared.failed) or 'none'}")


def _judge(
    checks: Iterator[Check], errors: Errors, foreign: tuple[float, float], discarded: int
) -> bool:
    """Print what was asked, and whether any of it counts."""
    taken, limit = foreign
    print(f"  others took {taken:.2f} cores, {discarded} repetitions discarded")
    if not errors.comparable:
        print("  void: too few requests found in the server's log, or not a chunk per token")
        return False
    judged = list(checks)
    for check in judged:
        print(f"  {check}")
    if taken > limit:
        print(f"  void: disturbed, others took more than {limit:g} cores in every repetition")
        return False
    return all(check.ok for check in judged)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=5.0, help="of each shape")
    parser.add_argument("--shape", type=int, choices=range(len(SHAPES) + 1), action="append",
                        help="only this one; the last is the open loop")  # fmt: skip
    parser.add_argument("--flags", default="", help="further flags of loadgen run")
    parser.add_argument("--foreign", type=float, default=harness.FOREIGN_LIMIT, metavar="CORES",
                        help="what others may take (default %(default)s)")  # fmt: skip
    arguments = parser.parse_args()
    foreign, flags = arguments.foreign, tuple(arguments.flags.split())
    asked = arguments.shape or range(len(SHAPES) + 1)
    good = True
    for number, shape in enumerate(SHAPES):
        if number in asked:
            found = calmest(lambda s=shape: run_shape(s, arguments.seconds, flags), foreign)  # type: ignore[misc]
            good = report(shape, *found, foreign) and good
    if len(SHAPES) in asked:
        late = calmest(lambda: run_open_loop(arguments.seconds, flags), foreign)
        good = report_open_loop(*late, foreign) and good
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
