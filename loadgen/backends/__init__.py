"""The backends, by the name the command line knows them by. Adding one: docs in CONTRIBUTING."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loadgen.backends.base import Backend
    from loadgen.config import RunConfig


@dataclass(frozen=True, slots=True)
class Entry:
    """One backend: how it is built from a configuration, and what `loadgen backends` says."""

    build: Callable[[RunConfig], Backend]
    says: str
    address: str | None  # where such a server customarily listens
    start: str  # how a user starts one


def _hf(config: RunConfig) -> Backend:
    from loadgen.backends.hf import HfBackend
    from loadgen.config import HfSettings

    assert isinstance(config.backend, HfSettings)
    return HfBackend(config.model, device=config.backend.device, threads=config.backend.threads)


def _openai(config: RunConfig) -> Backend:
    from loadgen.backends.openai import OpenAiDialect
    from loadgen.config import ServerSettings
    from loadgen.wire import ServerBackend

    settings = config.backend
    assert isinstance(settings, ServerSettings)
    dialect = OpenAiDialect(flavour=settings.kind, endpoint=settings.endpoint)
    entry = BACKENDS[settings.kind]
    return ServerBackend(
        dialect, settings.base_url or str(entry.address), config.model, start=entry.start
    )


BACKENDS: dict[str, Entry] = {
    "hf": Entry(_hf, "a Hugging Face model in this process, CPU or CUDA", None, "nothing to start"),
    "openai": Entry(
        _openai,
        "any server with /v1/completions or /v1/chat/completions",
        "http://127.0.0.1:8000",
        "an OpenAI-compatible server",
    ),
    "vllm": Entry(
        _openai,
        "vLLM: the same protocol with vLLM's own facts",
        "http://127.0.0.1:8000",
        "'vllm serve MODEL'",
    ),
}
