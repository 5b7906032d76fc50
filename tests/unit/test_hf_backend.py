"""The in-process backend with a real model: exact tokens, one queue, and every way to end."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import pytest_asyncio

from loadgen.backends.base import Request
from loadgen.backends.hf import HfBackend
from loadgen.backends.hf_engine import Decoding, Engine, HostMeter, Job, out_of_memory
from loadgen.backends.hf_load import Settings, load
from loadgen.local_models import LocalModel, ensure_built
from loadgen.stopwatch import Facts, Stopwatch
from loadgen.workload.words import WORDS

PROMPT = " ".join(WORDS[:16])
LONG = 900  # tokens: far more than any test waits for


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOADSTONE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest_asyncio.fixture
async def backend() -> AsyncIterator[HfBackend]:
    tiny = HfBackend("tiny-gpt2", device="cpu")
    await tiny.open()
    yield tiny
    await tiny.close()


@pytest.fixture(scope="module")
def engine(cache: None) -> Engine:
    """A model large enough for its logits to differ, on this thread."""
    shape = LocalModel("probe", layers=3, width=48, heads=4, vocabulary=512, context_length=128)
    return load(Settings(str(ensure_built(shape)), "cpu", threads=1, seed=0))


def stopwatch(seen: Callable[[], None] = lambda: None) -> Stopwatch:
    def clock() -> float:
        seen()
        return time.monotonic()

    return Stopwatch(clock, due=time.monotonic())


async def perform(backend: HfBackend, watch: Stopwatch, tokens: int, limit: float = 60) -> Facts:
    return await backend.perform(Request(PROMPT, tokens), watch, limit)


def announced(count: int) -> tuple[Stopwatch, asyncio.Event]:
    """A stopwatch, and an event that fires once `count` marks are in it."""
    loop, event = asyncio.get_running_loop(), asyncio.Event()
    readings = itertools.count()

    def seen() -> None:  # reading 0 is `sent`; the reading of the next mark follows `count` marks
        if next(readings) == count + 1:
            loop.call_soon_threadsafe(event.set)

    return stopwatch(seen), event


@pytest.mark.asyncio
async def test_every_token_is_a_mark_and_the_facts_are_exact(backend: HfBackend) -> None:
    watch = stopwatch()
    facts = await perform(backend, watch, 24)
    assert (facts.outcome, facts.finish_reason, facts.error) == ("ok", "length", None)
    assert (facts.prompt_tokens, facts.prompt_source) == (16, "tokenizer")
    assert (facts.output_tokens, facts.output_source) == (24, "tokenizer")
    assert facts.content is None
    assert len(watch.marks) == 24
    assert watch.sent_at is not None
    instants = [watch.due, watch.sent_at, *watch.marks]
    assert instants == sorted(instants)


@pytest.mark.asyncio
async def test_the_engines_own_account_fits_inside_the_stopwatch(backend: HfBackend) -> None:
    watch = stopwatch()
    server = (await perform(backend, watch, 24)).server
    assert server is not None
    assert server.queue is not None
    assert server.prefill is not None
    assert server.decode is not None
    assert watch.sent_at is not None
    assert min(server.queue, server.prefill, server.decode) > 0
    wall = watch.marks[-1] - watch.sent_at
    # Each of the engine's instants is taken a moment after the stopwatch's.
    assert server.queue + server.prefill + server.decode == pytest.approx(wall, rel=0.5)
    assert server.load is None
    assert server.cuda_ms is None
    assert server.peak_memory_bytes is not None
    assert server.peak_memory_bytes > 50 * 2**20


@pytest.mark.asyncio
async def test_one_token_has_no_decode(backend: HfBackend) -> None:
    facts = await perform(backend, stopwatch(), 1)
    assert facts.output_tokens == 1
    assert facts.server is not None
    assert facts.server.decode is None


@pytest.mark.asyncio
async def test_open_tells_what_was_loaded() -> None:
    backend = HfBackend("tiny-gpt2", device="cpu", threads=1)
    assert backend.tokenizer() is None
    target = await backend.open()
    tokenizer = backend.tokenizer()
    await backend.close()
    assert target.model == "tiny-gpt2"
    assert target.models == ("tiny-gpt2",)
    assert target.quantization == "fp32"
    assert target.parameters == 102_714
    assert target.weight_bytes == 4 * 102_714
    assert target.context_length == 1024
    assert target.notes["load_seconds"] > 0
    assert (target.notes["layers"], target.notes["width"], target.notes["heads"]) == (2, 2, 2)
    assert (target.notes["device"], target.notes["threads"]) == ("cpu", 1)
    assert tokenizer is not None
    assert tokenizer.encode(f"{WORDS[3]} {WORDS[5]}") == [3, 5]


@pytest.mark.asyncio
async def test_the_event_loop_turns_while_a_model_loads() -> None:
    backend = HfBackend("tiny-gpt2", device="cpu")
    loading = asyncio.create_task(backend.open())
    turns = 0
    while not loading.done():
        await asyncio.sleep(0)
        turns += 1
    await backend.close()
    assert turns > 10


def test_cached_decoding_gives_the_logits_of_uncached_forward_passes(engine: Engine) -> None:
    import torch

    tokens = [5, 300, 41, 511, 0, 77]
    with torch.inference_mode():
        decoding = Decoding(engine.network, tokens)
        for _ in range(12):
            chosen = decoding.step()
            whole = engine.network(input_ids=torch.tensor([tokens])).logits[0, -1]
            torch.testing.assert_close(decoding.logits, whole, atol=1e-5, rtol=1e-4)
            assert chosen == int(whole.argmax())
            tokens.append(chosen)


def test_an_end_of_sequence_token_does_not_end_the_output(engine: Engine) -> None:
    first = Job([5, 300, 41], 1, lambda: None)
    engine.generate(first)
    engine.network.config.eos_token_id = first.tokens[0]
    done = engine.generate(Job([5, 300, 41], 9, lambda: None))
    assert done.tokens[0] == engine.network.config.eos_token_id
    assert (done.outcome, len(done.tokens)) == ("ok", 9)


@pytest.mark.asyncio
async def test_requests_are_served_one_after_another_in_one_thread(backend: HfBackend) -> None:
    served: list[tuple[str, str]] = []

    def watch(name: str) -> Stopwatch:
        return stopwatch(lambda: served.append((name, threading.current_thread().name)))

    names = ("first", "second", "third")
    await asyncio.gather(*(perform(backend, watch(name), 10) for name in names))
    marks = [(name, thread) for name, thread in served if thread != "MainThread"]
    assert [name for name, _ in marks] == ["first"] * 10 + ["second"] * 10 + ["third"] * 10
    assert len({thread for _, thread in marks}) == 1


@pytest.mark.asyncio
async def test_the_second_waits_in_the_queue_for_the_first(backend: HfBackend) -> None:
    first, second = await asyncio.gather(
        perform(backend, stopwatch(), 40), perform(backend, stopwatch(), 2)
    )
    assert first.server is not None
    assert second.server is not None
    assert (second.server.queue or 0) > (first.server.decode or 0) > 0


@pytest.mark.asyncio
async def test_cancelling_mid_stream_frees_the_worker(backend: HfBackend) -> None:
    watch, under_way = announced(3)
    task = asyncio.create_task(perform(backend, watch, LONG))
    await under_way.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    seen = len(watch.marks)
    after = await perform(backend, stopwatch(), 5)
    assert after.outcome == "ok"
    assert 3 <= seen < LONG
    assert len(watch.marks) == seen


@pytest.mark.asyncio
async def test_cancelling_in_the_queue_drops_the_request(backend: HfBackend) -> None:
    (running, under_way), waiting = announced(1), stopwatch()
    first = asyncio.create_task(perform(backend, running, 60))
    second = asyncio.create_task(perform(backend, waiting, LONG))
    await under_way.wait()
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    assert (await first).output_tokens == 60
    assert (await perform(backend, stopwatch(), 1)).outcome == "ok"
    assert len(waiting.marks) == 0


@pytest.mark.asyncio
async def test_a_timeout_keeps_the_tokens_so_far(backend: HfBackend) -> None:
    await perform(backend, stopwatch(), 2)
    watch = stopwatch()
    facts = await perform(backend, watch, LONG, limit=0.05)
    seen = len(watch.marks)
    assert (facts.outcome, facts.finish_reason, facts.error) == ("timed_out", None, "over 0.05 s")
    assert facts.prompt_tokens == 16
    assert facts.output_tokens == seen
    assert seen < LONG
    assert (await perform(backend, stopwatch(), 5)).outcome == "ok"
    assert len(watch.marks) == seen


@pytest.mark.asyncio
async def test_a_timeout_in_the_queue_has_no_tokens(backend: HfBackend) -> None:
    (running, under_way), waiting = announced(1), stopwatch()
    first = asyncio.create_task(perform(backend, running, 60))
    await under_way.wait()
    facts = await perform(backend, waiting, LONG, limit=0)
    assert (facts.outcome, facts.output_tokens) == ("timed_out", 0)
    assert (await first).outcome == "ok"
    assert len(waiting.marks) == 0


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("prompt", "tokens", "reason"),
    [
        (PROMPT, 1009, "16 prompt and 1009 output tokens exceed the context of 1024 tokens"),
        (" ", 5, "0 prompt and 5 output tokens: at least one of each is needed"),
        (PROMPT, 0, "16 prompt and 0 output tokens: at least one of each is needed"),
    ],
)
async def test_what_does_not_fit_is_rejected(
    backend: HfBackend, prompt: str, tokens: int, reason: str
) -> None:
    watch = stopwatch()
    facts = await backend.perform(Request(prompt, tokens), watch, 60)
    assert (facts.outcome, facts.error) == ("rejected", reason)
    assert facts.output_tokens is None
    assert len(watch.marks) == 0


@pytest.mark.asyncio
async def test_a_request_may_fill_the_context(backend: HfBackend) -> None:
    words = " ".join(WORDS[:1020])
    facts = await backend.perform(Request(words, 4), stopwatch(), 60)
    assert (facts.outcome, facts.output_tokens) == ("ok", 4)


@pytest.mark.asyncio
async def test_closing_ends_what_runs_and_what_waits() -> None:
    backend = HfBackend("tiny-gpt2", device="cpu")
    await backend.open()
    running, under_way = announced(1)
    tasks = [asyncio.create_task(perform(backend, running, LONG))]
    tasks.append(asyncio.create_task(perform(backend, stopwatch(), LONG)))
    await under_way.wait()
    await backend.close()
    first, second = await asyncio.gather(*tasks)
    assert (first.outcome, second.outcome) == ("cancelled", "cancelled")
    assert first.output_tokens == len(running.marks) < LONG
    assert second.output_tokens == 0
    await backend.close()
    with pytest.raises(RuntimeError, match="after close"):
        await perform(backend, stopwatch(), 1)


def failing_network(real: Any, fail: Callable[[], object], after: int) -> Any:
    """The real network, whose forward pass calls `fail` once it ran `after` times."""
    import torch

    class Failing(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.real, self.config, self.device = real, real.config, real.device
            self.passes = 0

        def forward(self, **inputs: Any) -> Any:
            self.passes += 1
            if self.passes > after:
                fail()
            return self.real(**inputs)

    return Failing()


def exhaust_memory() -> None:
    import torch

    torch.empty(2**55, dtype=torch.uint8)


def test_running_out_of_memory_is_an_outcome(engine: Engine) -> None:
    network = failing_network(engine.network, exhaust_memory, after=2)
    marks: list[int] = []
    job = Job([1, 2, 3], 9, lambda: marks.append(1))
    done = Engine(network, engine.tokenizer, engine.target, HostMeter()).generate(job)
    assert done.outcome == "oom"
    assert len(done.tokens) == len(marks) == 2
    assert "memory" in (done.error or "")


def test_a_bug_propagates(engine: Engine) -> None:
    def bug() -> None:
        raise RuntimeError("size mismatch")

    network = failing_network(engine.network, bug, after=0)
    broken = Engine(network, engine.tokenizer, engine.target, HostMeter())
    with pytest.raises(RuntimeError, match="size mismatch"):
        broken.generate(Job([1], 2, lambda: None))


def test_only_memory_errors_count_as_out_of_memory() -> None:
    assert out_of_memory(MemoryError())
    assert not out_of_memory(RuntimeError("expected all tensors on one device"))
