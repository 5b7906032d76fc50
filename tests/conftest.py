"""Fixtures shared between test folders: virtual time, synthetic runs, our commands as processes."""

from __future__ import annotations

import asyncio
import os
import random
import selectors
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import pytest

from contract.records import Manifest, RequestRecord, Stage, StageKey, Verdict
from contract.rundir import RunWriter

ROOT = Path(__file__).parents[1]
INSTALL = "apt-get install -y --no-install-recommends prometheus"
WARMUP = 2.0
LITTLE = Verdict("little", True, 0.01, 0.05, "1", "N = X R")


@dataclass
class SyntheticRun:
    """A run whose stages complete X(N) = min(N, M)/(M S) requests per second, evenly.

    One stage per entry of `levels`; those in `failing` carry a failed verdict, those from
    `finished` on never finish. Stage i's window is [100 i + 2, 100 i + 2 + seconds).
    """

    levels: Sequence[int] = (1, 2, 3, 4, 5, 6)
    name: str = "20261120T104500-1a2b"
    epoch_unix: float = 1_795_171_200.0
    seconds: float = 20.0
    knee: float = 2.5
    service: float = 0.1
    failing: Sequence[int] = ()
    finished: int | None = None
    status: str = "complete"
    quantization: str = "fp32"
    edit: Callable[[RequestRecord], RequestRecord] = field(default=lambda record: record)

    def keys(self) -> list[StageKey]:
        return [
            StageKey("hf", "gpt2-25m", n, 16, 32, repeat=list(self.levels[:i]).count(n))
            for i, n in enumerate(self.levels)
        ]

    def rate(self, agents: int) -> float:
        return min(agents, self.knee) / (self.knee * self.service)

    def window(self, place: int) -> tuple[float, float]:
        start = 100.0 * place + WARMUP
        return start, start + self.seconds

    def instants(self, place: int) -> list[float]:
        """When each measured request of a stage completes: even spacing with some jitter."""
        start, _ = self.window(place)
        count = round(self.rate(self.levels[place]) * self.seconds)
        step, draw = self.seconds / max(1, count), random.Random(place).random
        return [start + (i + 0.05 + 0.9 * draw()) * step for i in range(count)]

    def records(self, place: int) -> list[RequestRecord]:
        agents = self.levels[place]
        latency = agents / self.rate(agents)
        start, end = self.window(place)
        phases = [("warmup", start - 0.5), *(("measured", t) for t in self.instants(place))]
        return [
            RequestRecord(
                run=self.name,
                stage=place + 1,
                agent=seq % agents,
                seq=seq,
                agents=agents,
                phase=phase,
                outcome="ok",
                due=ended - latency,
                sent=ended - latency,
                first_token=ended - latency / 2,
                last_token=ended,
                ended=ended,
                prompt_tokens=16,
                prompt_source="tokenizer",
                output_tokens=30 + seq % 3,
                output_source="tokenizer",
                chunks=30,
                gaps_us=[int(latency / 2 / 29 * 1e6)] * 29,
            )
            for seq, (phase, ended) in enumerate([*phases, ("drain", end + latency)])
        ]

    def stage(self, place: int) -> Stage:
        agents = self.levels[place]
        start, end = self.window(place)
        failed = agents in self.failing
        verdict = replace(LITTLE, ok=False, seen=0.2) if failed else LITTLE
        return Stage(
            run=self.name,
            stage=place + 1,
            key=self.keys()[place],
            began=start - WARMUP,
            start=start,
            end=end,
            drained=end + 5,
            start_unix=self.epoch_unix + start,
            end_unix=self.epoch_unix + end,
            steady_start=start,
            outcomes={"ok": len(self.instants(place))},
            sent=len(self.instants(place)) + 2,
            verdicts=[verdict],
        )

    def manifest(self) -> Manifest:
        return Manifest(
            schema=1,
            run=self.name,
            status="running",
            epoch_unix=self.epoch_unix,
            config={},
            config_sha256="0" * 64,
            planned=self.keys(),
            model={"name": "gpt2-25m", "quantization": self.quantization},
            server={"backend": "hf"},
            host={"name": "no-such-host", "cpu": "Test CPU"},
            gpus=[],
            versions={},
            pid=1,
            pid_started=0.0,
        )

    def write(self, root: Path) -> Path:
        """The run as a directory under `root`; left `running` unless its status says closed."""
        writer = RunWriter(root, self.manifest())
        stop = len(self.levels) if self.finished is None else self.finished
        for place in range(min(stop + 1, len(self.levels))):
            for record in self.records(place):
                writer.append_requests([self.edit(record)])
            if place < stop:
                writer.append_stage(self.stage(place))
        if self.status != "running":
            writer.close(self.status, self.epoch_unix + 1000)
        return writer.path


@pytest.fixture
def synthetic_run() -> type[SyntheticRun]:
    """The class: `synthetic_run(levels=…).write(tmp_path)`."""
    return SyntheticRun


@pytest.fixture(scope="session")
def prometheus_binary() -> str:
    """The path of `prometheus`; a failure with the install line where it is absent."""
    return _binary("prometheus")


@pytest.fixture(scope="session")
def promtool_binary() -> str:
    """The path of `promtool`, which comes with Prometheus."""
    return _binary("promtool")


def _binary(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.fail(f"{name} is not installed: {INSTALL}")
    return path


class Certificate(NamedTuple):
    """A self-signed certificate for 127.0.0.1, and a context that serves with it."""

    path: Path
    server: ssl.SSLContext


@pytest.fixture(scope="session")
def certificate(tmp_path_factory) -> Certificate:
    """One that nobody trusts unless told to."""
    folder = tmp_path_factory.mktemp("tls")
    key, path = folder / "key.pem", folder / "crt.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", path,
         "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(path, key)
    return Certificate(path, server)


class JumpingSelector(selectors.DefaultSelector):
    """Never waits: it hands the time it was asked to wait to the loop's clock."""

    waited = 0.0

    def select(self, timeout=None):
        if timeout is None:
            raise AssertionError("everything waits and no timer is set: a deadlock")
        self.waited += timeout
        return super().select(0)


class JumpingLoop(asyncio.SelectorEventLoop):
    def __init__(self):
        self.jumping = JumpingSelector()
        super().__init__(self.jumping)

    def time(self):
        return self.jumping.waited


@pytest.fixture(scope="session")
def jump():
    """`jump(coroutine)` runs it in virtual time and returns its result."""

    def run(coroutine):
        with asyncio.Runner(loop_factory=JumpingLoop) as runner:
            return runner.run(coroutine)

    return run


@pytest.fixture(scope="session")
def environment(tmp_path_factory):
    """The environment of every command: a model cache of this test run's own."""
    return os.environ | {
        "LOADSTONE_CACHE": str(tmp_path_factory.mktemp("models")),
        "PYTHONPATH": str(ROOT),
        "NO_COLOR": "1",
    }


@pytest.fixture
def start(environment, tmp_path):
    """`start("loadgen", …)` starts one of our modules in `tmp_path`; all end with the test."""
    running = []

    def start(*words, **more):
        process = subprocess.Popen(
            [sys.executable, "-m", *map(str, words)],
            cwd=tmp_path, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more,
        )  # fmt: skip
        running.append(process)
        return process

    yield start
    for process in running:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def cli(start):
    """`cli("loadgen", …)` runs it to its end; returncode, stdout and stderr come back."""

    def cli(*words, **more):
        process = start(*words, **more)
        out, err = process.communicate(timeout=240)
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    return cli


@pytest.fixture(scope="session")
def wait_until():
    """Wait for a condition another process brings about; fails after a minute, unless told."""

    def wait_until(condition, seconds=60):
        give_up = time.monotonic() + seconds
        while time.monotonic() < give_up:
            if found := condition():
                return found
            time.sleep(0.02)
        raise AssertionError(f"waited {seconds} s in vain")

    return wait_until


@pytest.fixture
def free_port():
    """A port nothing listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def error_line():
    """The text of the one `error:` line a command ended with; asserts there is exactly one."""

    def error_line(done, code):
        assert done.returncode == code, done.stderr
        errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
        assert len(errors) == 1, done.stderr
        assert "Traceback" not in done.stderr
        assert "usage:" not in done.stderr
        return errors[0]

    return error_line
