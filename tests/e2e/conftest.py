"""The scripted server beside the commands, a Prometheus that scrapes."""

import json
import re
import signal
import socket
import subprocess
import urllib.request
from contextlib import ExitStack, contextmanager

import pytest

from tests.e2e.byte_server import ByteServer

FAST = ("--model", "tiny-gpt2", "--isl", "8", "--osl", "4", "--metrics-port", "0")


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
def serve(start):
    """`serve("ollama", …)` starts an emulator; the process and its URL come back."""

    def serve(*words):
        process = start("loadgen", "serve-fake", "--protocol", *words)
        found = re.search(r"http://[\d.:]+", process.stdout.readline())
        assert found is not None
        return process, found[0]

    return serve


@pytest.fixture
def log_of():
    """The scripted server's own log, as JSON."""

    def log_of(url):
        with urllib.request.urlopen(f"{url}/fake/log", timeout=10) as answer:
            return json.load(answer)

    return log_of


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


@pytest.fixture
def bytes_server():
    """`bytes_server(answer)` is a server that answers as told; its `url`, and what was `asked`."""
    with ExitStack() as stack:
        yield lambda answer, **more: stack.enter_context(ByteServer(answer, **more))
