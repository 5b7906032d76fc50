"""The in-process backend: a Hugging Face model in a worker thread of this very process.

One worker takes requests first come, first served, so N agents on it see a queue of one
server. Its tokens are pushed into the same stopwatch that times bytes from a socket.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from contract.errors import ConfigError, nearest
from loadgen.backends.base import Awaited, Request, Target, Tokenizer
from loadgen.backends.hf_engine import Engine, Generation, Job
from loadgen.backends.hf_load import Settings, load
from loadgen.local_models import DEFAULT_MODEL
from loadgen.stopwatch import Facts, Stopwatch

DEVICES = ("cpu", "cuda", "auto")
# Torch's first passes are several times slower than the rest: they are nobody's request.
WARM_UP_PASSES, WARM_UP_TOKENS = 5, 16


class HfBackend(Awaited):
    """A known local model, or a folder with a config.json, decoded greedily with a KV cache.

    `device` is cpu, cuda or auto (cuda where there is one); weights are fp32 on a CPU, fp16 on
    CUDA. `threads` are torch's on a CPU: one by default, so that the load generator keeps the
    other cores. Raises ConfigError for a device or a thread count that does not exist.
    """

    name = "hf"

    def __init__(
        self,
        model: str | None = None,
        *,
        device: str = "auto",
        threads: int = 1,
        seed: int = 0,
    ) -> None:
        if device not in DEVICES:
            raise ConfigError(
                f"device: {device!r}, allowed: {', '.join(DEVICES)}{nearest(device, DEVICES)}"
            )
        if threads < 1:
            raise ConfigError(f"threads: {threads}, allowed: 1 or more")
        self._settings = Settings(model or DEFAULT_MODEL, device, threads, seed)
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="hf-engine")
        self._engine: Engine | None = None
        self._jobs: set[Job] = set()

    async def open(self) -> Target:
        """Load the model and run it a few times, as servers do before they call themselves ready;
        the event loop stays free. TargetError or ConfigError say what to do."""
        self._engine = await asyncio.wrap_future(self._worker.submit(load, self._settings))
        await asyncio.wrap_future(self._worker.submit(_warm_up, self._engine))
        return self._engine.target

    def tokenizer(self) -> Tokenizer | None:
        """The model's own tokenizer; None before `open`."""
        return None if self._engine is None else self._engine.tokenizer

    async def warm(self, connections: int) -> None:
        """Nothing to connect to."""

    async def perform(self, request: Request, watch: Stopwatch, timeout: float) -> Facts:
        """Generate exactly `output_tokens` tokens, each of them a mark.

        A request that does not fit the context is `rejected`; past `timeout` seconds it is
        `timed_out` with the tokens so far. Cancelling drops it, or ends it at its next token.
        """
        engine = self._opened()
        watch.sent()
        prompt = engine.tokenizer.encode(request.prompt)
        if refusal := _refusal(len(prompt), request.output_tokens, engine.target.context_length):
            return _facts("rejected", prompt, None, error=refusal)
        job = Job(prompt, request.output_tokens, watch.mark)
        self._jobs.add(job)
        try:
            async with asyncio.timeout(timeout):
                done = await asyncio.wrap_future(self._worker.submit(engine.generate, job))
        except TimeoutError:
            job.stop()  # from here on the marks stand still
            return _facts("timed_out", prompt, len(watch.marks), error=f"over {timeout:g} s")
        finally:
            job.stop()
            self._jobs.discard(job)
        facts = _ended(prompt, done)
        if request.wants_text:
            facts.text = engine.tokenizer.decode(done.tokens)
        return facts

    async def close(self) -> None:
        """Stop what runs, drop what waits, let go of the weights; may be called twice."""
        engine, self._engine = self._engine, None
        for job in self._jobs:
            job.stop()
        if engine is not None:
            await asyncio.wrap_future(self._worker.submit(engine.unload))
        self._worker.shutdown(wait=False)

    def _opened(self) -> Engine:
        if self._engine is None:
            raise RuntimeError("HfBackend.perform before open or after close")
        return self._engine


def _refusal(prompt: int, output: int, context: int | None) -> str | None:
    if prompt < 1 or output < 1:
        return f"{prompt} prompt and {output} output tokens: at least one of each is needed"
    if context is not None and prompt + output > context:
        return f"{prompt} prompt and {output} output tokens exceed the context of {context} tokens"
    return None


def _ended(prompt: list[int], done: Generation) -> Facts:
    return _facts(done.outcome, prompt, len(done.tokens), done=done, error=done.error)


def _facts(
    outcome: str,
    prompt: list[int],
    output_tokens: int | None,
    *,
    done: Generation | None = None,
    error: str | None = None,
) -> Facts:
    return Facts(
        outcome=outcome,
        finish_reason="length" if outcome == "ok" else None,
        prompt_tokens=len(prompt),
        prompt_source="tokenizer",
        output_tokens=output_tokens,
        output_source=None if output_tokens is None else "tokenizer",
        error=error,
        server=None if done is None else done.server,
    )


def _warm_up(engine: Engine) -> None:
    for _ in range(WARM_UP_PASSES):
        engine.generate(Job([0] * WARM_UP_TOKENS, WARM_UP_TOKENS, lambda: None))
