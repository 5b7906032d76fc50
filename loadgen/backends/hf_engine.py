"""The engine behind the in-process backend: decodes one request after another.

It is the server of its own exchange, so it may time itself; what it says travels beside the
stopwatch's instants, never instead. Everything here that touches torch runs in one worker
thread; `Job.stop` may come from any thread.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from contract.records import ServerFacts
from loadgen.backends.base import Target, Tokenizer


class Job:
    """One request in the worker's queue: marks its tokens until it is stopped."""

    def __init__(self, prompt: list[int], output_tokens: int, mark: Callable[[], None]) -> None:
        self.prompt = prompt
        self.output_tokens = output_tokens
        self.tokens: list[int] = []
        self.queued = perf_counter()
        self.began = self.first = self.last = self.queued
        self._mark = mark
        self._stopped = False
        self._lock = threading.Lock()

    def stop(self) -> None:
        """Drop the job, or end it at its next token; no mark is made once this returns."""
        with self._lock:
            self._stopped = True

    @property
    def stopped(self) -> bool:
        return self._stopped

    def take(self, token: int) -> bool:
        """Mark a token the moment it is known; False when the job was stopped."""
        with self._lock:
            if self._stopped:
                return False
            self._mark()
        self.last = perf_counter()
        if not self.tokens:
            self.first = self.last
        self.tokens.append(token)
        return True

    def facts(self, peak_memory_bytes: int | None, cuda_ms: float | None) -> ServerFacts:
        """The worker's own account; prefill ends with the first token, decode with the last."""
        count = len(self.tokens)
        return ServerFacts(
            queue=self.began - self.queued,
            prefill=self.first - self.began if count else None,
            decode=self.last - self.first if count > 1 else None,
            peak_memory_bytes=peak_memory_bytes,
            cuda_ms=cuda_ms,
        )


@dataclass(frozen=True, slots=True)
class Generation:
    """How a job ended: `outcome` is ok, cancelled or oom, `server` the worker's own account."""

    outcome: str
    tokens: Sequence[int] = ()
    server: ServerFacts | None = None
    error: str | None = None


class Decoding:
    """Greedy decoding of one sequence with a KV cache: the first step is the prefill.

    `logits` (vocabulary,) are those the latest token was chosen from. End-of-sequence tokens
    are tokens like any other, so that the number of steps is the caller's alone.
    """

    def __init__(self, network: Any, prompt: Sequence[int]) -> None:
        import torch
        from transformers import DynamicCache

        self.logits: Any = None
        self._network = network
        self._input = torch.tensor([list(prompt)], device=network.device)
        self._options: dict[str, Any] = {
            "past_key_values": DynamicCache(config=network.config),
            "use_cache": True,
        }
        if "logits_to_keep" in inspect.signature(network.forward).parameters:
            self._options["logits_to_keep"] = 1

    def step(self) -> int:
        """One forward pass and the token it gives, known on the host (CUDA has synchronised)."""
        self.logits = self._network(input_ids=self._input, **self._options).logits[0, -1]
        token = self.logits.argmax()
        self._input = token.view(1, 1)
        return int(token.item())


@dataclass(slots=True)
class Engine:
    """A loaded model and its tokenizer; `generate` and `unload` belong to the worker thread."""

    network: Any
    tokenizer: Tokenizer
    target: Target
    meter: HostMeter | CudaMeter

    def generate(self, job: Job) -> Generation:
        """Decode until `output_tokens` are there or the job is stopped; no early end.

        Running out of memory is an outcome; every other failure is ours and propagates.
        """
        job.began = perf_counter()
        if job.stopped:
            return Generation("cancelled", server=ServerFacts(queue=job.began - job.queued))
        self.meter.start()
        try:
            self._decode(job)
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            self.meter.relieve()
            text = str(error).partition("\n")[0] or "out of memory"
            return Generation("oom", tuple(job.tokens), job.facts(None, None), text)
        outcome = "ok" if len(job.tokens) == job.output_tokens else "cancelled"
        return Generation(outcome, tuple(job.tokens), job.facts(*self.meter.read()))

    def unload(self) -> None:
        """Let go of the weights."""
        self.network = None
        self.meter.relieve()

    def _decode(self, job: Job) -> None:
        import torch

        with torch.inference_mode():
            decoding = Decoding(self.network, job.prompt)
            while len(job.tokens) < job.output_tokens and job.take(decoding.step()):
                pass


def out_of_memory(error: BaseException) -> bool:
    """CUDA has a class for it; the CPU allocator only says so in the text of a RuntimeError."""
    import torch

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error)
    return "DefaultCPUAllocator" in text and "memory" in text


class HostMeter:
    """Peak memory on a CPU: the process's highest resident set so far, in bytes."""

    def start(self) -> None:
        pass

    def read(self) -> tuple[int | None, float | None]:
        """(peak memory in bytes, no CUDA milliseconds)."""
        import resource
        import sys

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return (peak if sys.platform == "darwin" else peak * 1024), None  # Linux counts KiB

    def relieve(self) -> None:
        pass


@dataclass(slots=True)
class CudaMeter:
    """Peak memory of one request in torch's allocator, and its span on the GPU's own clock."""

    device: Any
    _begin: Any = field(default=None, repr=False)

    def start(self) -> None:
        """Forget the previous peak and record the opening event."""
        import torch

        torch.cuda.reset_peak_memory_stats(self.device)
        self._begin = torch.cuda.Event(enable_timing=True)
        self._begin.record()

    def read(self) -> tuple[int | None, float | None]:
        """(peak allocated bytes, milliseconds between the events: prefill and decode)."""
        import torch

        end = torch.cuda.Event(enable_timing=True)
        end.record()
        end.synchronize()
        return int(torch.cuda.max_memory_allocated(self.device)), float(
            self._begin.elapsed_time(end)
        )

    def relieve(self) -> None:
        """Give cached blocks back to the device."""
        import torch

        torch.cuda.empty_cache()
