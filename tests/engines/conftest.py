"""Real engines as processes, on models made here."""

import subprocess
import urllib.request
from dataclasses import dataclass

import pytest

from tools.build_llama_server import binary
from tools.make_gguf import SHAPES, write_gguf


@dataclass
class Engine:
    """A server that runs, with the address it answers at."""

    process: subprocess.Popen
    url: str

    def get(self, path):
        with urllib.request.urlopen(self.url + path, timeout=10) as answer:
            return answer.read()

    def healthy(self):
        assert self.process.poll() is None, "the engine ended early"
        try:
            return bool(self.get("/health"))
        except OSError:
            return False


@pytest.fixture(scope="session")
def gguf(tmp_path_factory):
    """Our models for llama.cpp, by the name of their shape."""
    folder = tmp_path_factory.mktemp("gguf")
    return {shape: write_gguf(shape, folder / f"{shape}.gguf") for shape in SHAPES}


@pytest.fixture
def llama_server(gguf, free_port, wait_until):
    """`llama_server("small", "-np", 2)` starts one and returns it once it is healthy."""
    if not binary().exists():
        pytest.skip("llama-server is not built: make engines-test")
    running = []

    def start(model, *words):
        at = ("--host", "127.0.0.1", "--port", free_port)
        served = ("--model", gguf[model], "--alias", model, "-c", 4096, "-t", 1, "--offline")
        process = subprocess.Popen(
            [*map(str, (binary(), *at, *served, "--metrics", *words))],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        running.append(process)
        engine = Engine(process, f"http://127.0.0.1:{free_port}")
        wait_until(engine.healthy)
        return engine

    yield start
    for process in running:
        process.kill()
        process.wait()
