"""The truth server from Python: build it, start it, stop it, read the log it leaves.

Instants are nanoseconds of CLOCK_MONOTONIC, which `time.monotonic_ns()` reads in every process
of this machine; `offset` moves them to the wall clock.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

HERE = Path(__file__).resolve().parent
SOURCES = tuple(HERE / f"truth_{name}" for name in ("server.c", "frames.h", "requests.h"))
CACHE = HERE.parent / ".cache" / "bench"
MAGIC = 0x314854555254534C  # "LSTRUTH1"
REQUEST = np.dtype(
    [(name, "<u8") for name in ("arrival", "received", "ended")]
    + [("nonce", "<i8"), ("first_write", "<u8")]
    + [
        (name, "<u4")
        for name in ("tokens", "written", "per_write", "connection", "dialect", "stamped")
    ]
)
DIALECTS = ("completions", "chat", "ollama generate", "ollama chat", "tgi")


class NoCompilerError(SystemExit):
    """There is no C compiler, and a bench cannot do without: it ends with one line."""


def build() -> Path:
    """The server's binary, compiled into `.cache/bench` once per state of its sources."""
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in SOURCES)).hexdigest()[:16]
    binary = CACHE / f"truth_server-{digest}"
    if binary.exists():
        return binary
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise NoCompilerError("the truth server is C: apt-get install gcc libc6-dev")
    CACHE.mkdir(parents=True, exist_ok=True)
    beside = binary.with_suffix(f".{os.getpid()}")
    subprocess.run([compiler, "-O2", "-o", str(beside), str(SOURCES[0])], check=True)
    beside.replace(binary)
    return binary


@dataclass(frozen=True)
class Truth:
    """The log: `requests` is an array of REQUEST, `writes` one instant per write of tokens.

    A request cut short has `written` < `tokens` and `ended` 0; `arrival` is the kernel's stamp
    where `stamped`, else equal to `received`. `offset` is wall clock minus monotonic, in
    nanoseconds, at the start and at the end.
    """

    requests: np.ndarray[Any, Any]
    writes: np.ndarray[Any, Any]
    began: int
    stopped: int
    offset: tuple[int, int]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Parse a log; ValueError when it is none, or cut short."""
        raw = path.read_bytes()
        header = np.frombuffer(raw, "<u8", 8)
        magic, size, requests, writes, began, stopped, at_start, at_end = map(int, header)
        if (magic, size) != (MAGIC, REQUEST.itemsize):
            raise ValueError(f"{path} is no log of the truth server")
        table = np.frombuffer(raw, REQUEST, requests, header.nbytes)
        instants = np.frombuffer(raw, "<u8", writes, header.nbytes + table.nbytes)
        return cls(table, instants, began, stopped, (at_start, at_end))

    def token_times(self, index: int) -> np.ndarray[Any, Any]:
        """The instant before the write that carried each token sent of request `index`."""
        request = self.requests[index]
        per_write, written = int(request["per_write"]), int(request["written"])
        first = int(request["first_write"])
        return self.writes[first + np.arange(written) // per_write].astype(np.int64)

    @property
    def tokens(self) -> int:
        """Tokens sent, of all requests."""
        return int(self.requests["written"].sum())

    @property
    def first_arrival(self) -> int:
        return int(self.requests["arrival"].min())

    @property
    def last_byte(self) -> int:
        """When the last write of the last reply was over."""
        return int(self.requests["ended"].max())

    def most_in_flight(self) -> int:
        """The most requests that were between arrival and last write at once.

        The instant before the last write counts: a client can ask again before `ended`.
        """
        done = self.requests[self.requests["ended"] > 0]
        count = -(-done["tokens"].astype(np.int64) // done["per_write"])
        last = self.writes[done["first_write"].astype(np.int64) + count - 1]
        instants = np.concatenate([last, done["arrival"]])
        steps = np.repeat([-1, 1], len(done))
        order = np.lexsort((steps, instants))  # one that ends makes room before the next
        return int(np.cumsum(steps[order]).max(initial=0))


class TruthServer:
    """A truth server under way; options are its own, `ttft=50` for `--ttft 50`.

    `with TruthServer(ttft=50, gap=10) as server: ...`, then `server.truth`. True stands for a
    flag. `cores` pins it.
    """

    def __init__(self, cores: set[int] | None = None, **options: Any) -> None:
        self._log = Path(tempfile.mkdtemp(prefix="truth-")) / "log"
        flags = [f"--{name.replace('_', '-')}" for name in options]
        values = ["" if value is True else f"={value}" for value in options.values()]
        given = [flag + value for flag, value in zip(flags, values, strict=True)]
        self._command = [str(build()), f"--log={self._log}", *given]
        self._cores = cores
        self.truth: Truth | None = None

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)
        if self._cores:
            os.sched_setaffinity(self.process.pid, self._cores)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the truth server did not start: {' '.join(self._command)}")
        self.port = int(line)
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    def __exit__(self, *_exception: object) -> None:
        self.stop()

    def stop(self) -> Truth:
        """End the process; it writes its log on the way, which is read and removed."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.truth = Truth.read(self._log)
        shutil.rmtree(self._log.parent)
        return self.truth
