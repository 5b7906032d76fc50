"""What requests say to llama-server as it is: chats, reasoning, and answers in one piece."""

import json
import re

import pytest

pytestmark = pytest.mark.engine

SHAPE = ("--isl", 24, "--osl", 12, "--agents", "1,2", "--request-count", 20)
# Without a model that reasons, a grammar makes one write as if it did.
TEMPLATE = (
    "{%- for m in messages %}{{ '<|' + m.role + '|>' }}"
    "{%- if m.role == 'assistant' and m.reasoning_content %}"
    "{{ '<think>' + m.reasoning_content + '</think>' }}{%- endif %}"
    "{{ m.content }}{{ '</s>' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<|assistant|>' }}{%- endif %}"
)
GRAMMAR = 'root ::= "<think>" [a-z ]{6,10} "</think>" [a-z ]{6,10}'


def generated(engine):
    text = engine.get("/metrics").decode()
    return float(re.search(r"^llamacpp:tokens_predicted_total (\S+)$", text, re.M)[1])


def replies_of(run):
    lines = (run.path / "replies.jsonl").read_text().splitlines()
    return {(r["stage"], r["agent"], r["seq"]): r for r in map(json.loads, lines)}


@pytest.mark.parametrize("endpoint", ["native", "completions", "chat"])
def test_answers_in_one_piece_are_counted_and_sampled(drive, llama_server, endpoint):
    engine = llama_server("tiny", "-np", 2)
    sampling = ("--temperature", 0.8, "--top-k", 40, "--min-p", 0.01, "--repetition-penalty", 1.1)
    run, records = drive(engine, *SHAPE, "--endpoint", endpoint, "--no-streaming", *sampling)

    assert {record.outcome for record in records} == {"ok"}
    assert sum(record.output_tokens for record in records) == generated(engine) == 12 * len(records)
    assert all(record.first_token is None for record in records)
    assert all(record.latency >= record.server.decode for record in records)
    assert all(stage.complete for stage in run.stages)


def test_a_conversation_goes_on_from_what_it_said(drive, llama_server):
    engine = llama_server("tiny", "-np", 2)
    run, records = drive(engine, *SHAPE, "--endpoint", "chat", "--turns", 3, "--save-text")
    replies = replies_of(run)
    prompts = {(r.stage, r.agent, r.seq): r.prompt_tokens for r in records}

    assert {record.outcome for record in records} == {"ok"}
    for (stage, agent, seq), reply in replies.items():
        later = replies.get((stage, agent, seq + 1))
        if seq % 3 == 2 or later is None:
            continue
        assert later["messages"][:-1] == [
            *reply["messages"], {"role": "assistant", "content": reply["text"]}
        ]  # fmt: skip
        assert prompts[stage, agent, seq + 1] > prompts[stage, agent, seq]


def test_an_answer_after_reasoning_is_told(drive, llama_server, tmp_path):
    template = tmp_path / "think.jinja"
    template.write_text(TEMPLATE)
    engine = llama_server("tiny", "-np", 2, "--jinja", "--chat-template-file", template,
                          "--reasoning-format", "deepseek")  # fmt: skip
    run, records = drive(
        engine, *SHAPE, "--osl", 60, "--endpoint", "chat", "--no-ignore-eos", "--save-text",
        "--extra-body", json.dumps({"grammar": GRAMMAR}),
    )  # fmt: skip

    assert {record.outcome for record in records} == {"ok"}
    # What came in one read has one instant.
    assert all(r.first_token <= r.first_answer <= r.last_token for r in records)
    assert sum(r.first_token < r.first_answer for r in records) > len(records) / 2
    texts = [reply["text"] for reply in replies_of(run).values()]
    assert all(6 <= len(text) <= 10 and "think" not in text for text in texts)
