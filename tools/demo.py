"""The main job on the embedded default: load a small local model, fit, plan, show the files.

With `prometheus` on the PATH it scrapes the run and shows the fit from there as well. Every
process started here is ended here, also on Ctrl-C and SIGTERM.
"""

from __future__ import annotations

import contextlib
import json
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

RUNS = Path("runs")
PLAN = ["--model-size", "3b", "--request-rate", "2", "--budget", "50"]


class Stopped(BaseException):
    """A signal asked us to end; children have been or will be ended on the way out."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def on_signal(number: int, _frame: object) -> None:
    raise Stopped(128 + number)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def end(process: subprocess.Popen[bytes], number: int = signal.SIGTERM) -> None:
    """Ask a child to stop, wait, and insist."""
    if process.poll() is None:
        process.send_signal(number)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


NOT_FITTABLE = 5


def explain(title: str, command: Sequence[str]) -> None:
    """Fit; on a machine too busy for three undoubted points, fit the doubted ones too, aloud."""
    try:
        run(title, command)
    except Stopped as stopped:
        if stopped.code != NOT_FITTABLE:
            raise
        run("again, with the points its verdicts doubt", [*command, "--include-failed-verdicts"])


def run(title: str, command: Sequence[str]) -> None:
    """Run one of our own commands, shown as a user would type it."""
    print(f"\n$ {' '.join(command)}    # {title}", flush=True)
    child = subprocess.Popen([sys.executable, "-m", *command])
    try:
        code = child.wait()
    except BaseException:
        end(child, signal.SIGINT)
        raise
    if code != 0:
        raise Stopped(code if code > 0 else 128 - code)


@contextlib.contextmanager
def prometheus(target: int) -> Iterator[str | None]:
    """A Prometheus that scrapes `target` every second; None when there is no such program."""
    program = shutil.which("prometheus")
    if program is None:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="loadstone-demo-") as folder:
        port, config = free_port(), Path(folder) / "prometheus.yml"
        config.write_text(
            "global: {scrape_interval: 1s}\nscrape_configs:\n"
            f"- {{job_name: loadgen, static_configs: [{{targets: ['127.0.0.1:{target}']}}]}}\n"
        )
        child = subprocess.Popen(
            [program, f"--config.file={config}", f"--storage.tsdb.path={folder}/data",
             f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"],
            start_new_session=True,
        )  # fmt: skip
        try:
            url = f"http://127.0.0.1:{port}"
            wait_ready(url)
            yield url
        finally:
            end(child)


def wait_ready(url: str) -> None:
    give_up = time.monotonic() + 30
    while time.monotonic() < give_up:
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            urllib.request.urlopen(f"{url}/-/ready", timeout=2).close()
            return
        time.sleep(0.1)
    raise Stopped(3)


def work() -> None:
    port = free_port()
    with prometheus(port) as url:
        run("load: stages of 1, 2, 4 and 8 agents", ["loadgen", "run", "--metrics-port", str(port)])
        folder = f"{RUNS}/{(RUNS / 'latest').resolve().name}"
        fitted = f"{folder}/fitted_models.json"
        explain(
            "explain: the run directory", ["analysis", "fit", "--run", folder, "--output", fitted]
        )
        if url is not None:
            again = f"{folder}/fitted_from_prometheus.json"
            explain(
                "explain: the same run, from Prometheus alone",
                ["analysis", "fit", "--from-prometheus", url, "--output", again],
            )
    run("decide: catalog and measured model", ["analysis", "plan", *PLAN, "--models", fitted])
    files(Path(folder))


def files(folder: Path) -> None:
    """Where everything lies."""
    says = {
        "manifest.json": "what was run, on what, and how it ended",
        "requests.jsonl": "every request, one line each",
        "stages.jsonl": "every stage: its window and its verdicts",
        "summary.json": "the table above, with the definitions of its numbers",
        "fitted_models.json": "the fit, for `analysis plan --models`",
        "fitted_from_prometheus.json": "the fit made from Prometheus",
    }
    print(f"\nFiles in {RUNS}/{folder.name}/ (also {RUNS}/latest):")
    for name, meaning in says.items():
        file = folder / name
        if file.exists():
            print(f"  {name:28} {file.stat().st_size:>9,} bytes  {meaning}")
    status = json.loads((folder / "manifest.json").read_text())["status"]
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"\nrun {status}; the work took {used.ru_utime + used.ru_stime:.0f} s of CPU")


def main() -> int:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, on_signal)
    try:
        work()
    except Stopped as stopped:
        return stopped.code
    return 0


if __name__ == "__main__":
    sys.exit(main())
