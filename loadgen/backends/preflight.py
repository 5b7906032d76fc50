"""What a server's own pages say before a run: which models, which version. Pure.

A `Survey` names the pages of one server family; the wire client fetches them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from contract.errors import TargetError, nearest

SHOWN_NAMES = 20


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """One model as the server lists it. Unknown is None."""

    name: str
    context_length: int | None = None
    parameters: int | None = None
    weight_bytes: int | None = None
    quantization: str | None = None


def openai_models(document: Any) -> list[ModelFacts]:
    """The models of `GET /v1/models`, with what vLLM and llama-server add to it."""
    entries = _mapping(document).get("data")
    listed = [_mapping(entry) for entry in entries] if isinstance(entries, list) else []
    return [_openai_model(entry) for entry in listed if isinstance(entry.get("id"), str)]


def version_field(document: Any) -> str | None:
    """The `version` of a JSON object, as vLLM and Ollama answer it."""
    version = _mapping(document).get("version")
    return version if isinstance(version, str) and version else None


@dataclass(frozen=True, slots=True)
class Survey:
    """Where a server family lists its models and tells its version, and how to read both.

    `ready_path` is the page that answers once requests are taken; None: the list of models.
    """

    models_path: str = "/v1/models"
    models: Callable[[Any], list[ModelFacts]] = openai_models
    version_path: str | None = "/version"
    version: Callable[[Any], str | None] = version_field
    ready_path: str | None = None


def only_model(names: Sequence[str], where: str) -> str:
    """The model of a server that has exactly one; TargetError lists the names otherwise."""
    if not names:
        raise TargetError(f"{where} lists no model: name one with --model")
    if len(names) > 1:
        raise TargetError(
            f"{where} has {len(names)} models, choose one with --model: {listed(names)}"
        )
    return names[0]


def absent(model: str, names: Sequence[str], where: str, reason: str) -> TargetError:
    """The line for a model that a one-token probe did not find."""
    if "<html" in reason.lower() or "<!doctype" in reason.lower():
        page = reason.split(":", maxsplit=1)[0]
        return TargetError(f"{where} answers, but not as an LLM server does ({page}, a web page)")
    known = f"; models there: {listed(names)}" if names else ""
    return TargetError(
        f"{where} does not serve model '{model}'{nearest(model, names)} ({reason}){known}"
    )


def listed(names: Sequence[str]) -> str:
    """The names on one line, cut to a length that a terminal bears."""
    more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    return ", ".join(names[:SHOWN_NAMES]) + more


def _openai_model(entry: Mapping[str, Any]) -> ModelFacts:
    meta = _mapping(entry.get("meta"))
    context = _count(entry.get("max_model_len"))
    kind = meta.get("ftype")
    return ModelFacts(
        name=entry["id"],
        context_length=_count(meta.get("n_ctx")) if context is None else context,
        parameters=_count(meta.get("n_params")),
        weight_bytes=_count(meta.get("size")),
        quantization=kind if isinstance(kind, str) and kind else None,
    )


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _count(value: Any) -> int | None:
    return value if type(value) is int and value > 0 else None
