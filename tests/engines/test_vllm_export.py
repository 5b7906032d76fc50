"""Our vLLM export beside a file of the real `vllm bench serve`, both on one server.

The server is the one we ship, so that both tools see the same token times.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tools.install_vllm import vllm

REQUESTS, AGENTS, ISL, OSL = 60, 4, 32, 16

pytestmark = pytest.mark.vllm


@pytest.fixture
def server():
    """The URL of a step model behind vLLM's protocol: 16 tokens take some 160 ms."""
    process = subprocess.Popen(
        [sys.executable, "-m", "loadgen", "serve-fake", "--protocol", "vllm", "--no-prefix-cache"],
        stdout=subprocess.PIPE,
        text=True,
    )
    found = re.search(r"http://[\d.:]+", process.stdout.readline())
    yield found[0]
    process.terminate()
    process.communicate()


def run(*words, folder):
    done = subprocess.run(
        [*map(str, words)], cwd=folder, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture
def theirs(server, llamas, tmp_path):
    if not vllm().exists():
        pytest.skip("vLLM is not installed: make engines-test-vllm")
    run(
        *(vllm(), "bench", "serve", "--backend", "vllm", "--base-url", server, "--model", "tiny"),
        *(
            "--tokenizer",
            llamas / "models" / "tiny",
            "--dataset-name",
            "random",
            "--random-input-len",
            ISL,
        ),
        *("--random-output-len", OSL, "--num-prompts", REQUESTS, "--max-concurrency", AGENTS),
        *("--save-result", "--save-detailed", "--result-dir", tmp_path),
        *("--result-filename", "theirs.json", "--disable-tqdm"),
        folder=tmp_path,
    )
    return json.loads((tmp_path / "theirs.json").read_text())


@pytest.fixture
def ours(server, tmp_path):
    loadgen = (sys.executable, "-m", "loadgen")
    run(
        *(*loadgen, "run", "--backend", "vllm", "--base-url", server, "--agents", AGENTS),
        *("--isl", ISL, "--osl", OSL, "--request-count", REQUESTS, "--metrics-port", 0),
        folder=tmp_path,
    )
    exported = (*loadgen, "export", "--format", "vllm", "--save-detailed", "--output", "ours.json")
    run(*exported, folder=tmp_path)
    return json.loads((tmp_path / "ours.json").read_text())


def kind(value):
    return float if type(value) in (int, float) else type(value)


def test_key_for_key_and_within_the_errors_of_both(theirs, ours):
    assert list(ours) == list(theirs)
    assert {k: kind(v) for k, v in ours.items()} == {k: kind(v) for k, v in theirs.items()}
    for name in ("completed", "failed", "num_prompts", "max_concurrency", "total_output_tokens"):
        assert ours[name] == theirs[name], name
    assert ours["max_concurrent_requests"] == AGENTS
    for name in [name for name in theirs if re.match("(mean|median)_.*_ms", name)]:
        assert ours[name] == pytest.approx(theirs[name], rel=0.1, abs=2.0), name
    # Ramp and tail are in their window and not in ours.
    assert ours["request_throughput"] == pytest.approx(theirs["request_throughput"], rel=0.15)
    for name in ("input_lens", "output_lens", "ttfts", "itls", "errors", "generated_texts"):
        assert len(ours[name]) == len(theirs[name]) == REQUESTS, name
    assert {len(gaps) for gaps in ours["itls"]} == {len(gaps) for gaps in theirs["itls"]}
    assert Path(ours["model_id"]).name == "tiny"
