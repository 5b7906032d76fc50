"""What the benches share: two cores, clients as processes, and the machine watched meanwhile.

CPU is that of the whole client, children included, by its process CPU clock (nanoseconds),
sampled every few milliseconds and read between two instants of the server's log. What other
processes took of the machine in that time is the foreign load; a repetition with too much of
it, or with stolen time, is disturbed and does not count.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bench.truth import Truth, TruthServer

ROOT = Path(__file__).resolve().parent.parent
EVERY = 0.004  # seconds between samples of the client's CPU clock
SCRAPE = 1.0
FOREIGN_LIMIT = 0.25  # cores taken by others above which a repetition is disturbed
PROMPT_WORDS = 8
_TICK = 1 / os.sysconf("SC_CLK_TCK")


def cores() -> tuple[set[int], set[int]]:
    """The server's core and the client's; the same one when there is no other."""
    usable = sorted(os.sched_getaffinity(0))
    return {usable[0]}, {usable[min(1, len(usable) - 1)]}


def cpu_seconds(pid: int) -> float:
    """CPU seconds of all threads of a process so far, to the nanosecond; 0 once it is gone."""
    try:
        return time.clock_gettime((~pid << 3) | 2)  # CPUCLOCK_SCHED of that process
    except OSError:
        return 0.0


def family(pid: int) -> set[int]:
    """A process and its descendants."""
    found = {pid}
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in children.read_text().split():
                found |= family(int(child))
    return found


def busy_seconds() -> tuple[float, float]:
    """CPU seconds that all processes of this machine took, and those stolen from it."""
    line = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    user, nice, system, _idle, _wait, irq, softirq, steal = (int(n) * _TICK for n in line[:8])
    return user + nice + system + irq + softirq, steal


@dataclass
class Watch:
    """Samples of one client: instants (monotonic ns), its CPU seconds, and the machine's."""

    instants: list[int] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    others: list[tuple[int, float]] = field(default_factory=list)
    libraries: list[tuple[int, set[str]]] = field(default_factory=list)
    processes: int = 1  # most at once
    _seen: dict[int, float] = field(default_factory=dict)

    def sample(self, pids: set[int]) -> None:
        """Add one reading; a process that ended keeps its last one."""
        self.instants.append(time.monotonic_ns())
        for pid in pids:
            self._seen[pid] = max(self._seen.get(pid, 0.0), cpu_seconds(pid))
        self.cpu.append(sum(self._seen.values()))

    def sample_machine(self, server: int) -> None:
        """Add what neither client, server nor this process took, stolen time included."""
        busy, steal = busy_seconds()
        ours = self.cpu[-1] + cpu_seconds(server) + time.process_time()
        self.others.append((time.monotonic_ns(), busy + steal - ours))

    def cpu_between(self, start: int, end: int) -> float:
        """CPU seconds of the client between two instants, interpolated."""
        at = np.interp([start, end], self.instants, self.cpu)
        return float(at[1] - at[0])

    def foreign(self, start: int, end: int) -> float:
        """Cores taken by others between two instants, on average."""
        instants, seconds = zip(*self.others, strict=True)
        at = np.interp([start, end], instants, seconds)
        return float(at[1] - at[0]) / max(1e-9, (end - start) / 1e9)


@dataclass(frozen=True)
class Client:
    """A client under test. `command` makes its arguments from a `Task`; `last_byte` reads when
    its last byte came (monotonic ns, None: the server's word is taken)."""

    name: str
    command: Callable[[Task], list[str]]
    last_byte: Callable[[Task, Truth], int | None] = lambda _task, _truth: None


@dataclass(frozen=True)
class Task:
    """What a client has to do, and the folder it may write to."""

    url: str
    streams: int
    requests: int
    tokens: int
    folder: Path
    metrics: int

    @property
    def run_directory(self) -> Path:
        return (self.folder / "latest").resolve()


@dataclass(frozen=True)
class Repetition:
    """One client run, as seen from outside."""

    truth: Truth
    watch: Watch
    start: int
    end: int
    output: str

    @property
    def cpu(self) -> float:
        return self.watch.cpu_between(self.start, self.end)

    @property
    def seconds(self) -> float:
        return (self.end - self.start) / 1e9

    @property
    def cpu_before(self) -> float:
        """CPU seconds from the client's start to its first request's arrival."""
        return float(np.interp(self.start, self.watch.instants, self.watch.cpu))

    @property
    def seconds_before(self) -> float:
        """From the client's start to its first request's arrival."""
        return (self.start - self.watch.instants[0]) / 1e9

    @property
    def cpu_from_start(self) -> float:
        """CPU seconds from the first request's arrival to the client's end."""
        return self.watch.cpu[-1] - self.cpu_before

    @property
    def foreign(self) -> float:
        """Cores that other processes took meanwhile, stolen time included."""
        return self.watch.foreign(self.start, self.end)

    @property
    def libraries(self) -> set[str]:
        """The heavy ones that were loaded before the last byte came."""
        return set().union(*(seen for at, seen in self.watch.libraries if at <= self.end))


def measure(client: Client, task: dict[str, int], server: dict[str, Any]) -> Repetition:
    """Run a client against a fresh truth server, /metrics scraped once a second.

    `task` holds streams, requests and tokens. RuntimeError, with the client's last words, when
    it fails or sends nothing.
    """
    with measured(client, task, server) as (repetition, _task):
        return repetition


@contextmanager
def measured(
    client: Client, work: dict[str, int], options: dict[str, Any]
) -> Iterator[tuple[Repetition, Task]]:
    """The same, while the folder the client wrote to is still there."""
    server_cores, client_cores = cores()
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        with TruthServer(cores=server_cores, **options) as server:
            task = Task(server.url, folder=folder, metrics=free_port(), **work)
            watch, output, code = _watched(client, task, server.process.pid, client_cores)
        truth = server.truth
        assert truth is not None
        if code != 0 or not len(truth.requests):
            raise RuntimeError(f"{client.name} ended with {code}:\n{output[-2000:]}")
        end = max(truth.last_byte, client.last_byte(task, truth) or 0)
        yield Repetition(truth, watch, truth.first_arrival, end, output), task


def _watched(client: Client, task: Task, server: int, on: set[int]) -> tuple[Watch, str, int]:
    watch, output = Watch(), task.folder / "output"
    with output.open("wb") as sink:
        process = subprocess.Popen(
            client.command(task), cwd=ROOT, stdout=sink, stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": ""},  # compiled, as an installed one is
        )  # fmt: skip
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(process.pid, on)
        os.sched_setaffinity(0, cores()[0])
        over = threading.Event()
        scraper = threading.Thread(target=_scrape, args=(task.metrics, over))
        scraper.start()
        try:
            _sample(watch, process, server)
        finally:
            over.set()
            scraper.join()
            os.sched_setaffinity(0, before)  # the next run looks for two cores again
    return watch, output.read_text(errors="replace"), process.wait()


def _sample(watch: Watch, process: subprocess.Popen[bytes], server: int) -> None:
    pids, round_number = {process.pid}, 0
    # The child is left a zombie until its clock was read for the last time.
    while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        watch.sample(pids)
        if round_number % 10 == 0:
            alive = family(process.pid)
            watch.processes = max(watch.processes, len(alive))
            pids |= alive
            watch.sample_machine(server)
        if round_number % 50 == 49:
            watch.libraries.append((time.monotonic_ns(), mapped_libraries(process.pid)))
        round_number += 1
        time.sleep(EVERY)
    watch.sample(pids)
    watch.sample_machine(server)


def mapped_libraries(pid: int) -> set[str]:
    """Which libraries that a sender has no use for are loaded in a process."""
    with suppress(OSError):
        maps = Path(f"/proc/{pid}/maps").read_text()
        return {n for n in ("numpy", "pyarrow", "torch", "tokenizers") if f"/{n}/" in maps}
    return set()


def _scrape(port: int, over: threading.Event) -> None:
    while not over.wait(SCRAPE):
        with suppress(OSError), urllib.request.urlopen(
            f"http://127.0.0.1:{port}/metrics", timeout=5
        ) as page:  # fmt: skip
            page.read()


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def bare() -> Client:
    """bench/bare.py."""

    def command(task: Task) -> list[str]:
        (task.folder / "request").write_bytes(rendered(task.tokens))
        port = task.url.rpartition(":")[2]
        # a frame per token, the usage and [DONE]
        numbers = [
            port,
            task.streams,
            task.requests - task.streams,
            task.requests * (task.tokens + 2),
        ]
        files = [task.folder / "request", task.folder / "stamps"]
        return [sys.executable, str(ROOT / "bench" / "bare.py"), *map(str, [*numbers, *files])]

    def last_byte(task: Task, _truth: Truth) -> int:
        return int(np.fromfile(task.folder / "stamps", np.int64)[-1])

    return Client("bare", command, last_byte)


def bare_timer(rate: float) -> Client:
    """bench/bare_timer.py at Poisson arrivals of `rate` a second."""

    def command(task: Task) -> list[str]:
        # Room for the seed that each request gets instead of 0.
        head, _, body = rendered(task.tokens).partition(b"\r\n\r\n")
        length = head.rpartition(b": ")[0] + b": %d\r\n\r\n" % (len(body) + 8)
        (task.folder / "request").write_bytes(length + body)
        numbers = [task.url.rpartition(":")[2], task.requests, rate]
        files = [task.folder / "request", task.folder / "due"]
        script = ROOT / "bench" / "bare_timer.py"
        return [sys.executable, str(script), *map(str, [*numbers, *files])]

    return Client("bare timerfd", command)


def rendered(tokens: int) -> bytes:
    """The bytes of a request like those of `loadgen run --backend vllm`."""
    document = {
        "model": "truth",
        "max_tokens": tokens,
        "temperature": 0.0,
        "seed": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
        "ignore_eos": True,
        "min_tokens": tokens,
        "prompt": " ".join(["word"] * PROMPT_WORDS),
    }
    body = json.dumps(document, separators=(",", ":")).encode()
    head = (
        "POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept-Encoding: identity\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def loadgen(
    *more: str, launcher: tuple[str, ...] = ("-m", "loadgen"), rate: float | None = None
) -> Client:
    """`loadgen run` as users start it, records on; `more` are further flags. With a `rate`
    its arrivals are Poisson, else it keeps the task's streams busy."""
    load = ["--request-rate", str(rate), "--arrival", "poisson"] if rate else []

    def command(task: Task) -> list[str]:
        flags = {
            "--backend": "vllm",
            "--base-url": task.url,
            "--isl": PROMPT_WORDS,
            "--osl": task.tokens,
            "--request-count": task.requests,
            "--warmup-requests": 0,
            "--output-dir": task.folder,
            "--metrics-port": task.metrics,
            "--metrics-linger": 0,
        }
        flat = [str(part) for pair in flags.items() for part in pair]
        kind = load or ["--agents", str(task.streams)]
        return [sys.executable, *launcher, "run", *kind, *flat, *more]

    def last_byte(task: Task, truth: Truth) -> int:
        epoch = epoch_of(task.run_directory, truth)
        seen = (record.get("last_token") or 0.0 for record in records_of(task.run_directory))
        return int((epoch + max(seen)) * 1e9)

    return Client(" ".join(["loadgen", *more]), command, last_byte)


def records_of(run: Path) -> Iterator[dict[str, Any]]:
    """The lines of a run's requests.jsonl."""
    import orjson

    with (run / "requests.jsonl").open("rb") as lines:
        for line in lines:
            yield orjson.loads(line)


def epoch_of(run: Path, truth: Truth) -> float:
    """A run's epoch in monotonic seconds, from its wall clock and the log's offset."""
    manifest = json.loads((run / "manifest.json").read_text())
    return float(manifest["epoch_unix"]) - truth.offset[0] / 1e9


def other(template: str, **more: object) -> Client:
    """Any command; `{url}`, `{streams}`, `{requests}`, `{tokens}`, `{folder}`, `{metrics}` and
    what `more` names are filled in."""

    def command(task: Task) -> list[str]:
        return [part.format(**vars(task), **more) for part in template.split()]

    return Client(template.split(maxsplit=1)[0], command)


def flags_of_run() -> str:
    """The help of `loadgen run`: which flags this version has."""
    asked = [sys.executable, "-m", "loadgen", "run", "--help"]
    return subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=True).stdout
