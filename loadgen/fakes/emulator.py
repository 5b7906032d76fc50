"""The emulators: a real server's protocol over the step model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from contract.errors import ConfigError, nearest
from loadgen.fakes.llama_server import LlamaServer
from loadgen.fakes.ollama import KEEP_ALIVE, Ollama
from loadgen.fakes.openai import VLLM, OpenAI
from loadgen.fakes.paces import Stepped
from loadgen.fakes.protocol import Front
from loadgen.fakes.script import Script
from loadgen.fakes.server import Server
from loadgen.fakes.steps import StepModel
from loadgen.fakes.tgi import Tgi


@dataclass(frozen=True, slots=True)
class Served:
    """What an emulator pretends to serve; `stop_after` tokens the model stops by itself, and the
    first `reasoning` of those it answers in a chat are reasoning."""

    models: tuple[str, ...] = ("tiny",)
    context: int = 4096
    stop_after: int | None = None
    reasoning: int = 0


@dataclass(frozen=True, slots=True)
class Kind:
    """One protocol: how its front is made, and what its server does by habit."""

    says: str
    front: Callable[[Served], Front]
    prefix_block: int | None = None  # tokens per block of its prefix cache
    idle_seconds: float | None = None
    opens_loaded: bool = False  # its port opens once the model is loaded
    refuses: bool = True  # a full queue refuses


def _openai(kind: type[OpenAI]) -> Callable[[Served], Front]:
    return lambda s: kind(s.models, context=s.context, stop_after=s.stop_after)


PROTOCOLS = {
    "vllm": Kind("vLLM's OpenAI-compatible server", _openai(VLLM), 16, opens_loaded=True),
    "openai": Kind("the OpenAI protocol alone", _openai(OpenAI), None, opens_loaded=True),
    "ollama": Kind(
        "Ollama's /api/generate and /api/chat",
        lambda s: Ollama(s.models, context=s.context, stop_after=s.stop_after),
        1,
        KEEP_ALIVE,
    ),
    "tgi": Kind(
        "Text Generation Inference",
        lambda s: Tgi(s.models[0], context=s.context, stop_after=s.stop_after),
        None,
        opens_loaded=True,
    ),
    "llama-server": Kind(
        "llama.cpp's llama-server",
        lambda s: LlamaServer(s.models, context=s.context, stop_after=s.stop_after),
        1,
        refuses=False,
    ),
}


def protocol(name: str) -> Kind:
    """One of PROTOCOLS, or a ConfigError that names the nearest."""
    if name not in PROTOCOLS:
        text = f"--protocol '{name}'{nearest(name, PROTOCOLS)}; allowed: {', '.join(PROTOCOLS)}"
        raise ConfigError(text)
    return PROTOCOLS[name]


def emulator(
    name: str,
    model: StepModel,
    served: Served | None = None,
    script: Script | None = None,
    port: int = 0,
    host: str = "127.0.0.1",
) -> Server:
    """A server of protocol `name` whose tokens the step model makes; made inside an event loop.

    Of the script only its failures and `split_bytes` count: time and limits are the model's.
    """
    served = served or Served()
    context = min(served.context, model.kv_tokens or served.context)
    front = protocol(name).front(replace(served, context=context))
    if served.reasoning and not front.reasons:
        raise ConfigError(f"--reasoning: {name} has no reasoning apart; the others have, in chats")
    front.reasoning = served.reasoning
    pace = Stepped(model, front.runner, loading_only=front.bounded_while_loading_only)
    return Server(front, pace, script, port, host)
