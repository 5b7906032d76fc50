"""Real engines as processes, on models made here, and runs against them."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from dataclasses import dataclass

import pytest

from contract.rundir import Run, find_run
from tools.build_llama_server import binary
from tools.install_vllm import vllm
from tools.make_gguf import SHAPES, write_gguf
from tools.make_llama import write_llama

OFFLINE = {
    "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "DO_NOT_TRACK": "1",
    "VLLM_NO_USAGE_STATS": "1",
}  # fmt: skip
# A gigabyte of key-value cache, and the pages that put it to sleep.
VLLM = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_SERVER_DEV_MODE": "1"}


@dataclass
class Engine:
    """A server that runs, the address it answers at, and the words of a run against it."""

    process: subprocess.Popen
    url: str
    run: tuple[str, ...]

    def get(self, path):
        with urllib.request.urlopen(self.url + path, timeout=10) as answer:
            return answer.read()

    def post(self, path, body=b""):
        asked = urllib.request.Request(self.url + path, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(asked, timeout=60) as answer:
            return answer.read()

    def healthy(self):
        assert self.process.poll() is None, "the engine ended early"
        try:
            self.get("/health")
        except OSError:
            return False
        return True


@contextlib.contextmanager
def launched(words, backend, wait_until, seconds=60, **more):
    """A server at a free port, once it is healthy; in `words` PORT stands for the port.

    Whatever it started ends with it.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [str(port) if word == "PORT" else str(word) for word in words],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, **more,
    )  # fmt: skip
    try:
        url = f"http://127.0.0.1:{port}"
        run = ("loadgen", "run", "--backend", backend, "--base-url", url, "--metrics-port", "0")
        engine = Engine(process, url, run)
        wait_until(engine.healthy, seconds)
        yield engine
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="session")
def ggufs(tmp_path_factory):
    """Our models for llama.cpp, by the name of their shape."""
    folder = tmp_path_factory.mktemp("gguf")
    return {shape: write_gguf(shape, folder / f"{shape}.gguf") for shape in SHAPES}


@pytest.fixture(scope="session")
def llamas(tmp_path_factory):
    """A folder that holds our models for Hugging Face's library as `models/SHAPE`."""
    root = tmp_path_factory.mktemp("llamas")
    for shape in SHAPES:
        write_llama(shape, root / "models" / shape)
    return root


@pytest.fixture(scope="session")
def start_llama_server(ggufs, wait_until):
    """`start_llama_server("small", "-np", 2)` is a context: llama-server, once it is healthy."""
    if not binary().exists():
        pytest.skip("llama-server is not built: make engines-test")

    def start(model, *words):
        at = ("--host", "127.0.0.1", "--port", "PORT")
        served = ("--model", ggufs[model], "--alias", model, "-c", 4096, "-t", 1, "--offline")
        command = (binary(), *at, *served, "--metrics", *words)
        return launched(command, "llama-server", wait_until)

    return start


@pytest.fixture
def llama_server(start_llama_server):
    """`llama_server("small", "-np", 2)` starts one that ends with the test."""
    with contextlib.ExitStack() as stack:
        yield lambda *words: stack.enter_context(start_llama_server(*words))


@pytest.fixture
def transformers_serve(llamas, environment, tmp_path, wait_until):
    """A `transformers serve` over those models, none of them loaded."""
    hub = tmp_path / "hub"
    (hub / "hub").mkdir(parents=True)  # without it the list of models is an error
    main = "from transformers.cli.transformers import main; main()"
    command = (
        *(sys.executable, "-c", main, "serve", "--host", "127.0.0.1", "--port", "PORT"),
        *("--device", "cpu", "--dtype", "float32"),
    )
    told = {**environment, **OFFLINE, "HF_HOME": str(hub), "OMP_NUM_THREADS": "1"}
    with launched(command, "openai", wait_until, cwd=llamas, env=told) as engine:
        engine.run = (*engine.run, "--model", "models/tiny")
        yield engine


@pytest.fixture(scope="session")
def start_vllm(llamas, environment, tmp_path_factory, wait_until):
    """`start_vllm()` is a context: vLLM on the processor, without a prefix cache."""
    if not vllm().exists():
        pytest.skip("vLLM is not installed: make engines-test-vllm")
    home = tmp_path_factory.mktemp("vllm")

    def start():
        command = (
            *(vllm(), "serve", llamas / "models" / "small", "--served-model-name", "small"),
            *("--host", "127.0.0.1", "--port", "PORT", "--max-model-len", 1024, "--block-size", 32),
            *("--max-num-seqs", 8, "--dtype", "float32", "--enforce-eager"),
            *("--no-enable-prefix-caching", "--enable-prompt-tokens-details"),
        )
        told = {**environment, **OFFLINE, **VLLM, "HF_HOME": str(home), "XDG_CACHE_HOME": str(home)}
        return launched(command, "vllm", wait_until, 300, cwd=home, env=told)

    return start


@pytest.fixture
def drive(cli, tmp_path):
    """`drive(engine, "--agents", 2)` is a finished run against it: the run and its records."""

    def drive(engine, *words):
        done = cli(*engine.run, *words)
        assert done.returncode == 0, done.stderr
        run = Run.open(find_run(tmp_path / "runs", "latest"))
        return run, list(run.records())

    return drive


@pytest.fixture
def broken_off(start, wait_until, error_line, tmp_path):
    """`broken_off(engine, pid, "--agents", 2)` kills that process once eight requests have ended:
    the records of the run, in the order of their ends, of which it says that its target went."""

    def broken_off(engine, pid, *words):
        running = start(*engine.run, *words)
        found = tmp_path / "runs"
        wait_until(
            lambda: any(p.read_text().count("\n") >= 8 for p in found.glob("2*/requests.jsonl"))
        )
        os.kill(pid, signal.SIGKILL)
        out, err = running.communicate(timeout=60)
        done = subprocess.CompletedProcess((), running.returncode, out, err)
        assert "the target went away in stage 1" in error_line(done, 3)
        run = Run.open(find_run(found, "latest"))
        assert run.status == "partial"
        return sorted(run.records(), key=lambda record: record.ended)

    return broken_off
