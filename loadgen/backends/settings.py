"""What each backend can be told: one strict model per kind, joined by `kind`."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator

from contract.config import StrictModel

# Per backend kind: stage seconds, input tokens, output tokens when nothing was asked.
_SERVER = (30.0, 256, 128)
CUSTOMARY = {
    "hf": (5.0, 64, 32),
    "openai": _SERVER,
    "vllm": _SERVER,
    "ollama": _SERVER,
    "tgi": _SERVER,
    "llama-server": _SERVER,
}
_NUMBER = re.compile(r"-?\d+(\.\d+)?")
_GO_DURATION = re.compile(r"-?(\d+(\.\d*)?(ns|us|µs|ms|s|m|h))+")


class HfSettings(StrictModel):
    """The in-process Hugging Face model."""

    kind: Literal["hf"] = "hf"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Annotated[int, Field(ge=1, le=1024)] = 1


class ServerSettings(StrictModel):
    """A server that speaks the OpenAI protocol; `vllm` adds what only vLLM has."""

    kind: Literal["openai", "vllm"]
    base_url: str | None = None
    endpoint: Literal["completions", "chat"] = "completions"


class OllamaSettings(StrictModel):
    """Ollama by its own protocol. `keep_alive`: seconds, or a Go duration; negative is for ever,
    0 unloads after every request. `num_ctx`: the context in tokens."""

    kind: Literal["ollama"]
    base_url: str | None = None
    endpoint: Literal["generate", "chat"] = "generate"
    keep_alive: str | float | None = None
    num_ctx: Annotated[int, Field(ge=4, le=100_000_000)] | None = None

    @field_validator("keep_alive")
    @classmethod
    def _as_ollama_reads_it(cls, given: str | float | None) -> str | float | None:
        """Ollama takes a number for seconds, but refuses digits in a string."""
        if not isinstance(given, str) or _GO_DURATION.fullmatch(given):
            return given
        if _NUMBER.fullmatch(given):
            return float(given)
        raise ValueError("seconds or a duration such as 10m, 1h30m or -1 is wanted")


class TgiSettings(StrictModel):
    """Text Generation Inference by its own protocol."""

    kind: Literal["tgi"]
    base_url: str | None = None


class LlamaServerSettings(StrictModel):
    """llama.cpp's llama-server. `cache_prompt`: let a slot reuse what it held before."""

    kind: Literal["llama-server"]
    base_url: str | None = None
    endpoint: Literal["native", "completions", "chat"] = "native"
    cache_prompt: bool = False


Settings = Annotated[
    HfSettings | ServerSettings | OllamaSettings | TgiSettings | LlamaServerSettings,
    Field(discriminator="kind"),
]
