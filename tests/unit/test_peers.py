"""What other load generators are told, and what their result files say of each request."""

import json
from importlib.metadata import distributions
from pathlib import Path

import pytest

from bench import harness, peers
from bench.harness import Task
from bench.peers import AIPERF, GUIDELLM, PEERS, VLLM, NotInstalledError, Peer, Seen, installed


@pytest.fixture
def task(tmp_path):
    return Task("http://127.0.0.1:9", 4, 12, 32, tmp_path, 9100)


def test_guidellm_tells_the_first_token_and_a_mean(tmp_path):
    body = {"body": {"model": "truth", "prompt": "prompt number 7 word word"}}
    request = {
        "request_args": json.dumps(body),
        "time_to_first_token_ms": 51.5,
        "inter_token_latency_ms": 9.75,
    }
    of_one_token = {**request, "inter_token_latency_ms": None}
    requests = {"successful": [request, of_one_token], "errored": [{}], "incomplete": []}
    (tmp_path / "guidellm.json").write_text(json.dumps({"benchmarks": [{"requests": requests}]}))

    assert list(GUIDELLM.seen(tmp_path)) == [
        Seen(7, pytest.approx(0.0515), pytest.approx(0.00975), None),
        Seen(7, pytest.approx(0.0515), 0.0, None),
    ]


def test_aiperf_tells_every_gap_and_names_requests_by_session(tmp_path):
    at = tmp_path / "aiperf"
    at.mkdir()
    inputs = [
        {"session_id": name, "payloads": [{"prompt": f"prompt number {number} word"}]}
        for name, number in (("a", 3), ("b", 4))
    ]
    (at / "inputs.json").write_text(json.dumps({"data": inputs}))

    def line(session, **metrics):
        said = {name: {"value": value, "unit": "ms"} for name, value in metrics.items()}
        return json.dumps({"metadata": {"conversation_id": session}, "metrics": said}) + "\n"

    whole = line(
        "b", time_to_first_token=60.0, inter_token_latency=10.0, inter_chunk_latency=[12.0, 8.0]
    )
    (at / "profile_export.jsonl").write_text(whole + line("a", time_to_first_token=50.0))

    several, alone = AIPERF.seen(tmp_path)
    assert several == Seen(4, 0.06, 0.01, [pytest.approx(0.012), pytest.approx(0.008)])
    assert alone == Seen(3, 0.05, 0.0, [])


def test_vllm_lists_requests_in_the_order_of_the_prompts_failed_ones_too(tmp_path):
    said = {
        "ttfts": [0.05, 0.0, 0.07],
        "itls": [[0.01, 0.02], [], []],
        "errors": ["", "Connection reset", ""],
    }
    (tmp_path / "vllm.json").write_text(json.dumps(said))

    assert list(VLLM.seen(tmp_path)) == [
        Seen(0, 0.05, pytest.approx(0.015), [0.01, 0.02]),
        Seen(2, 0.07, 0.0, []),
    ]


def test_a_prompt_without_a_number_is_refused():
    with pytest.raises(ValueError, match="no numbered prompt in 'word word'"):
        peers.number_of("word word")


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_a_command_names_all_of_its_task_and_runs_from_its_own_environment(peer, task):
    command = peer.client(Path("/some where/venv")).command(task)

    assert not [part for part in command if "{" in part]
    assert [part for part in command if part.startswith("/some where/venv/bin/")]
    for value in (task.url, task.streams, task.requests, task.tokens):
        assert [part for part in command if str(value) in part], value
    rows = [json.loads(line) for line in (task.folder / "prompts.jsonl").read_text().splitlines()]
    assert [peers.number_of(row[peer.column]) for row in rows] == list(range(task.requests))


def test_prompts_have_the_length_of_every_other_client(task):
    from tokenizers import Tokenizer

    peers.write_prompts(task, "prompt")
    peers.write_tokenizer(task.folder)
    tokenizer = Tokenizer.from_file(str(task.folder / "tokenizer.json"))

    prompt = json.loads((task.folder / "prompts.jsonl").read_text().splitlines()[-1])["prompt"]
    assert len(prompt.split()) == len(tokenizer.encode(prompt)) == harness.PROMPT_WORDS


def test_a_tool_that_pip_refuses_says_why_and_counts_as_not_installed(tmp_path, monkeypatch):
    monkeypatch.setenv("LOADSTONE_PEERS", str(tmp_path))
    nothing = Peer("nothing", "1", ("no/such/requirement",), "", "prompt", lambda _: iter(()))

    with pytest.raises(NotInstalledError, match="Invalid requirement: 'no/such/requirement==1"):
        installed(nothing)
    assert not (tmp_path / nothing.package / ".installed").exists()


def test_an_installed_tool_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("LOADSTONE_PEERS", str(tmp_path))
    venv = tmp_path / GUIDELLM.package
    venv.mkdir()
    (venv / ".installed").touch()

    assert installed(GUIDELLM) == venv
    assert [path.name for path in venv.iterdir()] == [".installed"]


def test_a_distribution_is_found_by_its_alias(tmp_path):
    packages = tmp_path / "lib" / "python3.11" / "site-packages"
    packages.mkdir(parents=True)
    peers.name_it(tmp_path, "alias", "1.2.3")

    (found,) = distributions(name="alias", path=[str(packages)])
    assert found.version == "1.2.3"
