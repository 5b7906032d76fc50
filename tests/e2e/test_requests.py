"""What requests say and what is kept of them, through the commands against the emulators."""

import json
from itertools import groupby, pairwise

import pytest

from contract.rundir import Run, find_run

QUICK = ("--isl", "12", "--osl", "6", "--metrics-port", "0", "--agents", "2")


@pytest.fixture
def run(cli, serve, log_of, tmp_path):
    """`run(protocol, …)` drives an emulator: the run, the server's log, and the summary."""

    def run(protocol, *words, served=()):
        _, url = serve(protocol, "--step-seconds", "0.002", *served)
        done = cli("loadgen", "run", "--backend", protocol, "--base-url", url, *QUICK, "--json",
                   "--request-count", "20", *words)  # fmt: skip
        assert done.returncode == 0, done.stderr
        found = Run.open(find_run(tmp_path / "runs", "latest"))
        return found, log_of(url)["requests"], json.loads(done.stdout)

    return run


def replies_of(found):
    return [json.loads(line) for line in (found.path / "replies.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("protocol", ["vllm", "ollama"])
def test_a_conversation_goes_on_from_what_was_said_and_is_kept(run, protocol):
    found, log, _ = run(protocol, "--endpoint", "chat", "--turns", "3", "--shared-prefix", "4",
                        "--save-text")  # fmt: skip
    replies = replies_of(found)
    assert len(replies) == len(log)
    by_agent = sorted(replies, key=lambda reply: (reply["agent"], reply["seq"]))
    for _agent, own in groupby(by_agent, lambda reply: reply["agent"]):
        turns = list(own)
        for before, after in pairwise(turns):
            if before["seq"] % 3 < 2:  # the same conversation goes on
                said = {"role": "assistant", "content": before["text"]}
                assert after["messages"][:-1] == [*before["messages"], said]
    assert {len(reply["text"].split()) for reply in replies} == {6}
    assert {message["role"] for message in replies[0]["messages"]} == {"system", "user"}


def test_a_record_and_a_servers_log_are_joined_by_the_id(run):
    found, log, _ = run("tgi")
    assert not (found.path / "replies.jsonl").exists()
    records = {f"{r.run}-{r.stage}-{r.agent}-{r.seq}": r for r in found.records()}
    seen = {visit["request_id"]: visit for visit in log}
    assert records.keys() == seen.keys()
    assert {record.asked_tokens for record in records.values()} == {6}
    for name, record in records.items():
        assert record.prompt_tokens == seen[name]["prompt_tokens"]


WORDS = ("--temperature", "0.7", "--top-p", "0.9", "--extra-body", '{"user": "x"}')


@pytest.mark.parametrize("protocol", ["vllm", "openai", "ollama", "tgi", "llama-server"])
def test_answers_in_one_piece_have_an_end_and_counts(run, protocol):
    found, log, summary = run(protocol, "--no-streaming", *WORDS, "--goodput", "e2el:30000")
    (stage,) = summary["stages"]
    assert stage["outcomes"] == {"ok": 20}
    assert stage["output_tokens_mean"] == 6
    assert stage["goodput"]["share"] == 1
    assert (stage["ttft"], stage["tpot"], stage["icl"]) == (None, None, None)
    served = min(visit["end"] - visit["arrival"] for visit in log)
    assert stage["e2e"]["mean"] >= served
    assert all(record.first_token is None for record in found.records())
    assert found.manifest.config["backend"]["extra_body"] == {"user": "x"}


def test_a_reply_may_end_by_itself(run):
    found, _, summary = run("vllm", "--no-ignore-eos", served=("--stop-after", "3"))
    assert summary["stages"][0]["output_tokens_mean"] == 3
    assert {record.finish_reason for record in found.records()} == {"stop"}


@pytest.mark.parametrize("protocol", ["vllm", "ollama"])
def test_the_time_to_the_answer_stands_beside_that_to_the_first_token(run, cli, protocol):
    found, _, summary = run(protocol, "--endpoint", "chat", "--save-text",
                            served=("--reasoning", "4"))  # fmt: skip
    (stage,) = summary["stages"]
    assert stage["ttft_answer"]["n"] == stage["ttft"]["n"] == 20
    # Four steps of 2 ms lie between them, but for those that came together.
    assert stage["ttft_answer"]["mean"] > stage["ttft"]["mean"] + 0.004
    assert "ttft_answer" in summary["definitions"]
    assert {len(reply["text"].split()) for reply in replies_of(found)} == {2}
    assert "to answer" in cli("loadgen", "show").stdout


def test_without_reasoning_there_is_no_such_column(run, cli):
    _, _, summary = run("vllm", "--endpoint", "chat")
    assert summary["stages"][0]["ttft_answer"] is None
    assert "to answer" not in cli("loadgen", "show").stdout
