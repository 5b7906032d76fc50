"""What each backend can be told: one strict model per kind, joined by `kind`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, field_validator

from contract.config import StrictModel
from contract.errors import ConfigError

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
# Headers that frame or authorise a request: the client writes them.
OURS = ("host", "content-length", "content-type", "transfer-encoding", "connection",
        "accept-encoding", "authorization")  # fmt: skip
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}")
_NUMBER = re.compile(r"-?\d+(\.\d+)?")
_GO_DURATION = re.compile(r"-?(\d+(\.\d*)?(ns|us|µs|ms|s|m|h))+")


class HfSettings(StrictModel):
    """The in-process Hugging Face model."""

    kind: Literal["hf"] = "hf"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Annotated[int, Field(ge=1, le=1024)] = 1


class WireSettings(StrictModel):
    """How requests reach a server.

    A header's value of the form `$NAME` is read from the environment when it is used, so that a
    secret stands in no file: not in the configuration, not in the manifest.
    """

    base_url: str | None = None
    wait_ready: Annotated[float, Field(ge=0, le=86_400)] = 0.0  # seconds
    client: Literal["wire", "aiohttp"] = "wire"
    stamps: Literal["kernel", "user"] = "kernel"
    headers: dict[str, str] = Field(default_factory=dict)

    def header_values(self, environment: Mapping[str, str]) -> dict[str, str]:
        """The headers with what the environment holds; ConfigError names a missing variable."""
        values = {}
        for name, given in self.headers.items():
            variable = given[1:] if given.startswith("$") else None
            if variable is not None and variable not in environment:
                raise ConfigError(f"--header: {name} wants {variable} from the environment")
            value = given if variable is None else environment[variable]
            if not (value.isascii() and value.isprintable()):
                raise ConfigError(f"--header: {name} holds characters that no header can carry")
            values[name] = value
        return values

    @field_validator("headers")
    @classmethod
    def _sendable(cls, headers: dict[str, str]) -> dict[str, str]:
        for name in headers:
            if not _TOKEN.fullmatch(name):
                raise ValueError(f"headers: '{name}' is no header name")
            if name.lower() in OURS:
                raise ValueError(f"headers: {name} is set by the client itself")
        return headers


class ServerSettings(WireSettings):
    """A server that speaks the OpenAI protocol; `vllm` adds what only vLLM has."""

    kind: Literal["openai", "vllm"]
    endpoint: Literal["completions", "chat"] = "completions"


class OllamaSettings(WireSettings):
    """Ollama by its own protocol. `keep_alive`: seconds, or a Go duration; negative is for ever,
    0 unloads after every request. `num_ctx`: the context in tokens."""

    kind: Literal["ollama"]
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


class TgiSettings(WireSettings):
    """Text Generation Inference by its own protocol."""

    kind: Literal["tgi"]


class LlamaServerSettings(WireSettings):
    """llama.cpp's llama-server. `cache_prompt`: let a slot reuse what it held before."""

    kind: Literal["llama-server"]
    endpoint: Literal["native", "completions", "chat"] = "native"
    cache_prompt: bool = False


Settings = Annotated[
    HfSettings | ServerSettings | OllamaSettings | TgiSettings | LlamaServerSettings,
    Field(discriminator="kind"),
]
