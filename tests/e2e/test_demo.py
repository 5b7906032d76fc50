"""`make demo` without its install: the whole loop, and an interrupted one that leaves nothing."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

DEMO = Path(__file__).parents[2] / "tools" / "demo.py"


@pytest.fixture
def demo(environment, tmp_path):
    """Starts the demo in a folder of its own."""
    running = []

    def start():
        process = subprocess.Popen(
            [sys.executable, DEMO], cwd=tmp_path, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        running.append(process)
        return process

    yield start
    for process in running:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_the_demo_shows_table_fit_plan_and_files(demo, tmp_path):
    process = demo()
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    for shown in ("agents  ok/total", "law: ", "service time", "llama3.2-3b", "small-gpt2",
                  "requests.jsonl", "(prometheus"):  # fmt: skip
        assert shown in out
    folder = (tmp_path / "runs" / "latest").resolve()
    assert (folder / "fitted_models.json").exists()
    assert (folder / "fitted_from_prometheus.json").exists()
    seconds = float(out.rsplit("the work took ", 1)[1].split()[0])
    assert seconds < 120


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_no_process_behind(demo, wait_until, tmp_path, number):
    process = demo()
    requests = tmp_path / "runs" / "latest" / "requests.jsonl"
    wait_until(lambda: requests.exists() and requests.stat().st_size > 0)
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) == 2  # Prometheus and loadgen
    os.kill(process.pid, number)
    process.communicate(timeout=60)
    assert process.returncode == 128 + number
    _, alive = psutil.wait_procs(family, timeout=10)
    assert alive == []
