"""The commands as processes, the scripted server beside them, a Prometheus that scrapes."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FAST = ("--model", "tiny-gpt2", "--isl", "8", "--osl", "4", "--metrics-port", "0")


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


@pytest.fixture
def fake(start):
    """`fake("--slots", 3)` starts the scripted server and returns its URL."""

    def fake(*words):
        process = start("loadgen.fakes.openai_server", "--port", "0", *words)
        found = re.search(r"http://[\d.:]+", process.stdout.readline())
        assert found is not None
        return found[0]

    return fake


@pytest.fixture
def log_of():
    """The scripted server's own log, as JSON."""

    def log_of(url):
        with urllib.request.urlopen(f"{url}/fake/log", timeout=10) as answer:
            return json.load(answer)

    return log_of


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


@pytest.fixture
def wait_until():
    """Wait for a condition another process brings about; fails after a minute."""

    def wait_until(condition):
        give_up = time.monotonic() + 60
        while time.monotonic() < give_up:
            if found := condition():
                return found
            time.sleep(0.02)
        raise AssertionError("waited a minute in vain")

    return wait_until


@pytest.fixture
def free_port():
    """A port nothing listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def scraping(prometheus_binary, tmp_path, wait_until):
    """`with scraping(port, …) as url:` is a real Prometheus that scrapes those ports at 1 s."""

    @contextmanager
    def scraping(*ports):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            own = probe.getsockname()[1]
        folder = tmp_path / f"prometheus-{own}"
        folder.mkdir()
        targets = ", ".join(f"'127.0.0.1:{port}'" for port in ports)
        (folder / "prometheus.yml").write_text(
            "global: {scrape_interval: 1s}\nscrape_configs:\n"
            f"- {{job_name: loadstone, static_configs: [{{targets: [{targets}]}}]}}\n"
        )
        process = subprocess.Popen(
            [prometheus_binary, f"--config.file={folder}/prometheus.yml",
             f"--storage.tsdb.path={folder}/data", f"--web.listen-address=127.0.0.1:{own}"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        url = f"http://127.0.0.1:{own}"

        def ready():
            try:
                return urllib.request.urlopen(f"{url}/-/ready", timeout=2).status == 200
            except OSError:
                return False

        try:
            wait_until(ready)
            yield url
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)

    return scraping
