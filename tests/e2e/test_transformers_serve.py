"""A real OpenAI-compatible server, `transformers serve`, on a model made here."""

import asyncio
import json
import os
import subprocess
import sys
import time
import urllib.request

import pytest

from contract.rundir import Run, find_run
from loadgen.backends.base import Request
from loadgen.backends.openai import PATHS, OpenAiDialect
from loadgen.stopwatch import Stopwatch
from loadgen.wire import ServerBackend

TEMPLATE = "{% for m in messages %}{{ m['content'] }} {% endfor %}"


@pytest.fixture(scope="session")
def served_models(tmp_path_factory):
    """A folder with `models/tiny`: a two-layer Llama whose tokenizer knows our words."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from loadgen.workload.words import WORDS

    root = tmp_path_factory.mktemp("served")
    vocabulary = {word: i for i, word in enumerate([*WORDS, "<unk>", "<s>", "</s>"])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unk>", bos_token="<s>", eos_token="</s>",
        pad_token="</s>", model_max_length=512,
    )  # fmt: skip
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(vocabulary), hidden_size=64, intermediate_size=128,
            num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=512,
            bos_token_id=vocabulary["<s>"], eos_token_id=vocabulary["</s>"],
            pad_token_id=vocabulary["</s>"],
        )
    )  # fmt: skip
    model.save_pretrained(root / "models" / "tiny")
    tokenizer.save_pretrained(root / "models" / "tiny")
    return root


@pytest.fixture
def serve(served_models, environment, tmp_path, free_port, wait_until):
    """The address of a `transformers serve` over those models."""
    hub = tmp_path / "hub" / "hub"
    hub.mkdir(parents=True)
    offline = {"HF_HOME": str(hub.parent), "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", "from transformers.cli.transformers import main; main()", "serve",
         "--host", "127.0.0.1", "--port", str(free_port), "--device", "cpu",
         "--dtype", "float32"],
        cwd=served_models, env={**environment, **offline, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    url = f"http://127.0.0.1:{free_port}"

    def healthy():
        assert process.poll() is None, "transformers serve ended early"
        try:
            return urllib.request.urlopen(f"{url}/health", timeout=2).status == 200
        except OSError:
            return False

    try:
        wait_until(healthy)
        yield url
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.engine
@pytest.mark.parametrize("endpoint", ["completions", "chat"])
def test_a_real_server_is_driven_by_one_to_four_agents(cli, serve, tmp_path, endpoint):
    done = cli("loadgen", "run", "--backend", "openai", "--base-url", serve, "--agents", "1..4",
               "--model", "models/tiny", "--endpoint", endpoint, "--isl", "16", "--osl", "12",
               "--duration", "4", "--metrics-port", "0", "--json")  # fmt: skip
    assert done.returncode == 0, done.stderr
    stages = json.loads(done.stdout)["stages"]
    assert [stage["agents"] for stage in stages] == [1, 2, 3, 4]
    run = Run.open(find_run(tmp_path / "runs", "latest"))
    assert run.status == "complete"
    records = list(run.records())
    assert {record.outcome for record in records} == {"ok"}
    assert {record.output_source for record in records} == {"server"}
    assert {record.output_tokens for record in records} <= set(range(1, 13))
    for stage in stages:
        assert stage["outcomes"]["ok"] >= 4
        assert stage["in_flight"] == pytest.approx(stage["agents"], rel=0.1)
        assert stage["ttft"]["p50"] < stage["e2e"]["p50"]
    # It serves one request at a time: with four agents the others wait for their first token.
    assert stages[3]["ttft"]["p50"] > 2 * stages[0]["ttft"]["p50"]
    assert os.path.getsize(run.path / "requests.jsonl") > 0
    assert not any(record.server and record.server.load for record in records)


def posted(url, document):
    """The body of an answer to a JSON document."""
    body = json.dumps(document).encode()
    asked = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(asked, timeout=60) as answer:
        return answer.read()


async def streamed(url, request, endpoint):
    """The facts of one request, streamed."""
    backend = ServerBackend(OpenAiDialect("openai", endpoint), url, "models/tiny")
    backend.connect()
    try:
        return await backend.perform(request, Stopwatch(time.monotonic, time.monotonic()), 60)
    finally:
        await backend.close()


@pytest.mark.engine
def test_its_counts_are_those_it_gives_without_a_stream(serve):
    from loadgen.workload.words import WORDS

    # The first request of all loads the model, and nothing in its answer is evidence of that.
    cold = asyncio.run(streamed(serve, Request("hi", 2), "completions"))
    assert cold.outcome == "ok"
    assert cold.server is None or cold.server.load is None
    loaded = posted(f"{serve}/load_model", {"model": "models/tiny"}).decode()
    assert [json.loads(line[5:])["cached"] for line in loaded.splitlines() if "ready" in line] == [
        True
    ]
    for endpoint in PATHS:
        dialect = OpenAiDialect("openai", endpoint)
        for words in (5, 40):
            request = Request(" ".join(WORDS[:words]), 9)
            facts = asyncio.run(streamed(serve, request, endpoint))
            body = json.loads(dialect.render(request, "models/tiny").body)
            plain = {k: v for k, v in body.items() if k != "stream_options"} | {"stream": False}
            usage = json.loads(posted(serve + PATHS[endpoint], plain))["usage"]
            assert (facts.outcome, facts.output_source) == ("ok", "server")
            assert facts.prompt_tokens == usage["prompt_tokens"] >= words
            assert facts.output_tokens == usage["completion_tokens"]
            assert facts.server is None or facts.server.load is None
