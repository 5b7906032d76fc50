"""The in-process backend on a CUDA device: half precision, its memory and its own clock."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from loadgen.backends.base import Request, Target
from loadgen.backends.hf import HfBackend
from loadgen.stopwatch import Facts, Stopwatch
from loadgen.workload.words import WORDS

pytestmark = pytest.mark.gpu

PROMPT = " ".join(WORDS[:128])


@pytest.fixture(scope="module", autouse=True)
def cuda(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOADSTONE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest_asyncio.fixture
async def opened() -> AsyncIterator[tuple[HfBackend, Target]]:
    backend = HfBackend("gpt2-25m", device="cuda")
    target = await backend.open()
    await perform(backend, stopwatch(), 8)  # kernels are loaded on their first use
    yield backend, target
    await backend.close()


def stopwatch() -> Stopwatch:
    return Stopwatch(time.monotonic, due=time.monotonic())


async def perform(backend: HfBackend, watch: Stopwatch, tokens: int) -> Facts:
    return await backend.perform(Request(PROMPT, tokens), watch, 60)


@pytest.mark.asyncio
async def test_weights_are_in_half_precision(opened: tuple[HfBackend, Target]) -> None:
    _, target = opened
    assert target.quantization == "fp16"
    assert target.parameters == 25_016_064
    assert target.weight_bytes == 2 * 25_016_064
    assert target.notes["device"].startswith("cuda")
    assert target.notes["threads"] is None


@pytest.mark.asyncio
async def test_every_token_is_a_mark(opened: tuple[HfBackend, Target]) -> None:
    watch = stopwatch()
    facts = await perform(opened[0], watch, 64)
    assert (facts.outcome, facts.output_tokens, len(watch.marks)) == ("ok", 64, 64)
    assert list(watch.marks) == sorted(watch.marks)


@pytest.mark.asyncio
async def test_peak_memory_holds_the_weights_and_little_more(
    opened: tuple[HfBackend, Target],
) -> None:
    backend, target = opened
    server = (await perform(backend, stopwatch(), 64)).server
    assert server is not None
    assert server.peak_memory_bytes is not None
    assert target.weight_bytes is not None
    assert target.weight_bytes < server.peak_memory_bytes < target.weight_bytes + 2**28


@pytest.mark.asyncio
async def test_cuda_events_agree_with_the_wall_clock(opened: tuple[HfBackend, Target]) -> None:
    watch = stopwatch()
    server = (await perform(opened[0], watch, 128)).server
    assert server is not None
    assert server.cuda_ms is not None
    assert server.prefill is not None
    assert server.decode is not None
    wall_ms = 1e3 * (server.prefill + server.decode)
    assert server.cuda_ms == pytest.approx(wall_ms, rel=0.2)


@pytest.mark.asyncio
async def test_cancelling_frees_the_worker(opened: tuple[HfBackend, Target]) -> None:
    backend, _ = opened
    loop, under_way = asyncio.get_running_loop(), asyncio.Event()

    def clock() -> float:
        if len(watch.marks) >= 3:
            loop.call_soon_threadsafe(under_way.set)
        return time.monotonic()

    watch = Stopwatch(clock, due=time.monotonic())
    task = asyncio.create_task(perform(backend, watch, 800))
    await under_way.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    seen = len(watch.marks)
    assert (await perform(backend, stopwatch(), 4)).outcome == "ok"
    assert len(watch.marks) == seen < 800


@pytest.mark.asyncio
async def test_running_out_of_memory_is_recognised(opened: tuple[HfBackend, Target]) -> None:
    import torch

    from loadgen.backends.hf_engine import out_of_memory

    with pytest.raises(torch.OutOfMemoryError) as caught:
        torch.empty(2**45, dtype=torch.uint8, device="cuda")
    assert out_of_memory(caught.value)
    assert (await perform(opened[0], stopwatch(), 4)).outcome == "ok"
