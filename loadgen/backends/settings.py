"""What each backend can be told: one strict model per kind, joined by `kind`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from contract.config import StrictModel
from contract.errors import ConfigError
from loadgen.backends.body import Body, sendable

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
RESETTABLE = ("vllm", "llama-server")  # whose prefix cache a request can empty
# Headers that frame or authorise a request: the client writes them.
OURS = ("host", "content-length", "content-type", "transfer-encoding", "connection",
        "accept-encoding", "authorization")  # fmt: skip
SAMPLING = ("temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty",
            "repetition_penalty")  # fmt: skip
TopK = Annotated[int, Field(ge=1, le=1_000_000)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Repetition = Annotated[float, Field(gt=0, le=10)]
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}")
_NUMBER = re.compile(r"-?\d+(\.\d+)?", re.ASCII)
_GO_DURATION = re.compile(r"-?([0-9]+(\.[0-9]*)?(ns|us|µs|ms|s|m|h))+")


class HfSettings(StrictModel):
    """The in-process Hugging Face model."""

    kind: Literal["hf"] = "hf"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Annotated[int, Field(ge=1, le=1024)] = 1
    streaming: ClassVar[bool] = True
    exact: ClassVar[bool] = True  # exactly as many tokens come as are asked for


class WireSettings(StrictModel):
    """How requests reach a server, or each of several; `route` chooses among them.

    A header's value of the form `$NAME` is read from the environment when it is used, so that a
    secret stands in no file: not in the configuration, not in the manifest.
    """

    base_url: tuple[str, ...] | None = None
    route: Literal["round-robin", "least-busy"] | None = None
    wait_ready: Annotated[float, Field(ge=0, le=86_400)] = 0.0  # seconds
    client: Literal["wire", "general", "aiohttp"] = "wire"
    stamps: Literal["kernel", "user"] = "kernel"
    headers: dict[str, str] = Field(default_factory=dict)

    @property
    def secret_headers(self) -> frozenset[str]:
        """The names of those that the environment holds."""
        return frozenset(name for name, given in self.headers.items() if given.startswith("$"))

    def header_values(self, environment: Mapping[str, str]) -> dict[str, str]:
        """The headers with what the environment holds; ConfigError names a missing variable."""
        values = {}
        for name, given in self.headers.items():
            variable = given[1:] if name in self.secret_headers else None
            if variable is not None and variable not in environment:
                raise ConfigError(f"--header: {name} wants {variable} from the environment")
            value = given if variable is None else environment[variable]
            if not (value.isascii() and value.isprintable()):
                raise ConfigError(f"--header: {name} holds characters that no header can carry")
            values[name] = value
        return values

    @field_validator("base_url", mode="before")
    @classmethod
    def _one_by_one(cls, given: Any) -> Any:
        """An address, several with commas between them, or a list."""
        if given is None:
            return None
        texts = given if isinstance(given, list | tuple) else [given]
        if not all(isinstance(text, str) for text in texts):
            raise ValueError(f"base_url: a URL or a list of them is wanted, given {given!r}")
        addresses = [address.strip() for text in texts for address in text.split(",")]
        if not addresses or not all(addresses):
            raise ValueError("base_url: an empty address is given, say what is meant or leave it")
        return tuple(addresses)

    @field_validator("route")
    @classmethod
    def _something_to_choose(cls, route: str | None, others: ValidationInfo) -> str | None:
        if route is not None and len(others.data.get("base_url") or ()) < 2:
            raise ValueError(f"route: {route} given, allowed: with several base_url")
        return route

    @field_validator("headers")
    @classmethod
    def _sendable(cls, headers: dict[str, str]) -> dict[str, str]:
        for name in headers:
            if not _TOKEN.fullmatch(name):
                raise ValueError(f"headers: '{name}' is no header name")
            if name.lower() in OURS:
                raise ValueError(f"headers: {name} is set by the client itself")
        return headers


class BodySettings(WireSettings):
    """What all servers can be told with every request; without a temperature it is greedy.

    `extra_body` is merged into the request last, in the server's own words. Without `streaming`
    an answer comes whole, and nobody knows its first token.
    """

    streaming: bool = True
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    extra_body: dict[str, Any] = Field(default_factory=dict)

    @property
    def exact(self) -> bool:
        """Whether exactly as many tokens come as are asked for."""
        return False

    def body(self) -> Body:
        """All of it, as the dialects want it."""
        given = {name: getattr(self, name, None) for name in SAMPLING}
        sampling = {name: value for name, value in given.items() if value is not None}
        return Body(sampling, self.extra_body, self.streaming, self.exact)

    @field_validator("extra_body")
    @classmethod
    def _mergeable(cls, extra: dict[str, Any]) -> dict[str, Any]:
        return sendable(extra)

    @model_validator(mode="after")
    def _sampled_at_all(self) -> Self:
        """A greedy choice leaves nothing to choose from."""
        for name in ("top_p", "top_k", "min_p"):
            if getattr(self, name, None) is not None and not self.temperature:
                raise ValueError(f"{name}: changes nothing without a temperature above 0")
        return self


class Widely(StrictModel):
    """What most servers can be told besides."""

    top_k: TopK | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Repetition | None = None


class OpenAiSettings(BodySettings):
    """A server that speaks the OpenAI protocol, and no more of it than is in it."""

    kind: Literal["openai"]
    endpoint: Literal["completions", "chat"] = "completions"


class VllmSettings(Widely, BodySettings):
    """The same with what vLLM has besides."""

    kind: Literal["vllm"]
    endpoint: Literal["completions", "chat"] = "completions"
    ignore_eos: bool = True

    @property
    def exact(self) -> bool:
        return self.ignore_eos


class OllamaSettings(Widely, BodySettings):
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


class TgiSettings(BodySettings):
    """Text Generation Inference by its own protocol, or by its chat route."""

    kind: Literal["tgi"]
    endpoint: Literal["generate", "chat"] = "generate"
    top_k: TopK | None = None
    repetition_penalty: Repetition | None = None

    @model_validator(mode="after")
    def _of_its_route(self) -> Self:
        chat = self.endpoint == "chat"
        absent = ("top_k", "repetition_penalty") if chat else ("presence_penalty",)
        for name in absent:
            if getattr(self, name) is not None:
                raise ValueError(f"{name}: not on TGI's route for endpoint {self.endpoint}")
        return self


class LlamaServerSettings(Widely, BodySettings):
    """llama.cpp's llama-server. `cache_prompt`: let a slot reuse what it held before."""

    kind: Literal["llama-server"]
    endpoint: Literal["native", "completions", "chat"] = "native"
    cache_prompt: bool = False
    ignore_eos: bool = True

    @property
    def exact(self) -> bool:
        return self.ignore_eos


ServerSettings = OpenAiSettings | VllmSettings | OllamaSettings | TgiSettings | LlamaServerSettings
Settings = Annotated[HfSettings | ServerSettings, Field(discriminator="kind")]
