"""Recorded answers of real servers that reason, and that do not stream: text, counts, instants."""

import asyncio

import pytest

from contract.records import ServerFacts
from loadgen.backends.body import Body
from loadgen.backends.llama_server import LlamaServerDialect
from loadgen.backends.openai import OpenAiDialect
from tests.contract.test_transcripts import (
    LLAMA,
    LLAMA_PYTHON,
    TRANSFORMERS,
    VLLM,
    parsed,
    recorded,
    replay,
)

VLLM_REASONS, LLAMA_REASONS = "vllm_0.32.0_reasoning", "llama_server_reasoning"
WHOLE = Body(streaming=False)
# What vLLM says of its queue, its first token less that, and the tokens after it, in seconds.
METRICS = (2.3424999988e-05, (9.081204000040088 - 0.02342499988117197) / 1e3, 0.016323716999977478)

# file, title: content chunks, which of them is the first answer, text
REASONING = {
    (VLLM_REASONS, "chat, stream, reasoning"): (11, 8, " tiga </think> neto"),
    (VLLM_REASONS, "chat, stream, nothing but reasoning"): (12, None, ""),
    (LLAMA_REASONS, "chat, stream, reasoning"): (6, 3, "udu depeum"),
    (VLLM, "chat, stream, include_usage"): (5, None, None),
    (LLAMA, "chat, stream, include_usage"): (4, None, None),
}


@pytest.mark.parametrize(("recording", "known"), REASONING.items(), ids=map(str, REASONING))
def test_where_the_answer_of_a_recorded_stream_begins(recording, known):
    dialect, response = OpenAiDialect("vllm", "chat"), parsed(recorded(*recording))
    chunks, answer, text = known

    facts = dialect.read(response)

    assert (facts.outcome, len(facts.content)) == ("ok", chunks)
    assert facts.answer == (None if answer is None else facts.content[answer])
    if text is not None:
        assert dialect.text(response) == text


@pytest.mark.parametrize("recording", list(REASONING), ids=map(str, REASONING))
def test_the_wire_client_finds_the_same_answer_on_a_socket(recording):
    dialect = OpenAiDialect("vllm", "chat")
    facts, watch = asyncio.run(replay(recorded(*recording), dialect))

    chunks, answer, _ = REASONING[recording]
    assert len(facts.content) == chunks
    assert (facts.answer is None) == (answer is None)
    if answer is not None:
        assert watch.marks[facts.answer] == watch.marks[facts.content[answer]]


# file, title: dialect, text, prompt tokens, output tokens
IN_ONE_PIECE = {
    (VLLM, "completions, no stream "): (OpenAiDialect("vllm"), " Notlow _place", 7, 4),
    (VLLM, "chat, no stream"): (OpenAiDialect("vllm", "chat"), " Notlow _place", 7, 4),
    (VLLM_REASONS, "chat, no stream, reasoning"): (
        OpenAiDialect("vllm", "chat"), " tiga </think> neto", 2, 12,
    ),
    (TRANSFORMERS, "completions, no stream"): (OpenAiDialect(), "urceataataata", 7, 4),
    (TRANSFORMERS, "chat, no stream"): (
        OpenAiDialect(endpoint="chat"), "ADurceurceurce", 7, 4,
    ),
    (LLAMA_PYTHON, "completions, no stream"): (
        OpenAiDialect(), " argsget********sl", 8, 4,
    ),
    (LLAMA_REASONS, "chat, no stream, reasoning"): (
        OpenAiDialect("llama-server", "chat"), "udu depeum", 23, 22,
    ),
    (LLAMA_REASONS, "completions, no stream"): (
        OpenAiDialect("llama-server"), " dene dayiapi depi daki", 6, 5,
    ),
    (LLAMA_REASONS, "native completion, no stream"): (
        LlamaServerDialect(), " dene dayiapi depi daki", 6, 5,
    ),
}  # fmt: skip


def whole(dialect):
    """The same dialect, asking for its answer in one piece."""
    if isinstance(dialect, LlamaServerDialect):
        return LlamaServerDialect(body=WHOLE)
    return OpenAiDialect(dialect.name, dialect.endpoint, WHOLE)


@pytest.mark.parametrize(("recording", "known"), IN_ONE_PIECE.items(), ids=map(str, IN_ONE_PIECE))
def test_a_recorded_answer_in_one_piece(recording, known):
    dialect, text, prompt, output = known
    response = parsed(recorded(*recording))

    facts = whole(dialect).read(response)

    assert (facts.outcome, facts.whole, list(facts.content)) == ("ok", True, [])
    assert (facts.prompt_tokens, facts.output_tokens) == (prompt, output)
    assert facts.finish_reason in ("length", "stop")
    assert whole(dialect).text(response) == text
    assert dialect.read(response).outcome == "bad_stream"  # one that asked for a stream


def test_an_answer_in_one_piece_has_its_servers_times():
    of_vllm = parsed(recorded(VLLM, "completions, no stream, per-request metrics"))
    native = parsed(recorded(LLAMA_REASONS, "native completion, no stream"))

    told = whole(OpenAiDialect("vllm")).read(of_vllm).server
    assert (told.queue, told.prefill, told.decode) == pytest.approx(METRICS)
    assert whole(LlamaServerDialect()).read(native).server == ServerFacts(
        prefill=pytest.approx(0.000368), decode=pytest.approx(0.000871), cached_prompt_tokens=5
    )
