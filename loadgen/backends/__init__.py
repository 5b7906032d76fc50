"""The backends, by the name the command line knows them by. Adding one: docs in CONTRIBUTING."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loadgen.backends.base import Backend, Dialect
    from loadgen.backends.families import Family
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
    from loadgen.backends.settings import HfSettings

    assert isinstance(config.backend, HfSettings)
    return HfBackend(config.model, device=config.backend.device, threads=config.backend.threads)


def _server(config: RunConfig, dialect: Dialect, family: Family | None = None) -> Backend:
    """The wire client in one dialect, with what its family's own pages add; one for each address.

    ConfigError for an address that is none, or given twice.
    """
    import os

    from loadgen.backends.answering import Answering
    from loadgen.backends.settings import HfSettings
    from loadgen.backends.surveyed import Surveyed
    from loadgen.wire import WireOptions

    settings = config.backend
    assert not isinstance(settings, HfSettings)
    entry = BACKENDS[settings.kind]
    headers = settings.header_values(os.environ)
    options = WireOptions(
        client=settings.client,
        stamps=settings.stamps,
        headers=headers,
        secret=settings.secret_headers,
    )
    if config.keeps_text:
        options = replace(options, kept_budget=options.body_budget)

    def server(url: str) -> Answering:
        model, start = config.model, entry.start
        if family is None:
            return Answering(dialect, url, model, start=start, options=options)
        return Surveyed(dialect, url, model, family=family, start=start, options=options)

    servers = [server(url) for url in settings.base_url or (str(entry.address),)]
    if len(servers) == 1:
        return servers[0]
    from loadgen.backends.fleet import CUSTOMARY, Fleet

    return Fleet(servers, settings.route or CUSTOMARY)


def _openai(config: RunConfig) -> Backend:
    from loadgen.backends.families import vllm
    from loadgen.backends.openai import OpenAiDialect
    from loadgen.backends.settings import OpenAiSettings, VllmSettings

    settings = config.backend
    assert isinstance(settings, OpenAiSettings | VllmSettings)
    dialect = OpenAiDialect(settings.kind, settings.endpoint, settings.body())
    return _server(config, dialect, vllm() if settings.kind == "vllm" else None)


def _ollama(config: RunConfig) -> Backend:
    from loadgen.backends.families import ollama
    from loadgen.backends.ollama import OllamaDialect
    from loadgen.backends.settings import OllamaSettings

    settings = config.backend
    assert isinstance(settings, OllamaSettings)
    body = settings.body()
    dialect = OllamaDialect(settings.endpoint, settings.keep_alive, settings.num_ctx, body)
    return _server(config, dialect, ollama(settings.num_ctx))


def _tgi(config: RunConfig) -> Backend:
    from loadgen.backends.families import tgi
    from loadgen.backends.openai import OpenAiDialect
    from loadgen.backends.settings import TgiSettings
    from loadgen.backends.tgi import TgiDialect

    settings = config.backend
    assert isinstance(settings, TgiSettings)
    if settings.endpoint == "chat":
        return _server(config, OpenAiDialect("tgi", "chat", settings.body()), tgi())
    return _server(config, TgiDialect(settings.body()), tgi())


def _llama_server(config: RunConfig) -> Backend:
    from loadgen.backends.families import llama_server
    from loadgen.backends.llama_server import LlamaServerDialect, LlamaServerOpenAiDialect
    from loadgen.backends.settings import LlamaServerSettings

    settings = config.backend
    assert isinstance(settings, LlamaServerSettings)
    cache, body = settings.cache_prompt, settings.body()
    if settings.endpoint == "native":
        return _server(config, LlamaServerDialect(cache, body), llama_server())
    dialect = LlamaServerOpenAiDialect(settings.endpoint, cache, body)
    return _server(config, dialect, llama_server())


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
    "ollama": Entry(
        _ollama,
        "Ollama: /api/generate or /api/chat, with its load and cold starts",
        "http://127.0.0.1:11434",
        "'ollama serve'",
    ),
    "tgi": Entry(
        _tgi,
        "Text Generation Inference: /generate_stream",
        "http://127.0.0.1:8080",
        "'text-generation-launcher --model-id MODEL'",
    ),
    "llama-server": Entry(
        _llama_server,
        "llama.cpp: /completion or its OpenAI routes, with its timings",
        "http://127.0.0.1:8080",
        "'llama-server -m FILE.gguf'",
    ),
}
