"""What each server family says on pages of its own, beside its list of models. Pure.

A `Family` names the pages and reads them; `loadgen.backends.surveyed` fetches them, before a
run and never during a request.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from loadgen.backends.base import Target
from loadgen.backends.fields import count, entries, mapping, text
from loadgen.backends.preflight import ModelFacts, Survey, absent

_MAGNITUDES = {"K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}


@dataclass(frozen=True, slots=True)
class Page:
    """One page: read with GET, or asked with POST where there is a document to send."""

    path: str
    document: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Reset:
    """The requests that empty a prefix cache, and what a server has to be started with for it to
    take them."""

    pages: Callable[[Target], tuple[Page, ...]]
    wants: str


def _no_pages(_model: str) -> tuple[Page, ...]:
    return ()


def _as_found(target: Target, _documents: Sequence[Any]) -> Target:
    return target


@dataclass(frozen=True, slots=True)
class Family:
    """The pages of one server family; a page that is not there is read as None.

    `telling` is a page that the family alone has, where its list of models is others' too.
    `describe` adds to a target what `pages` say, in their order. `presence` is the page that
    tells whether a model is in memory, `present` reads it (None: it does not say). `unloading`
    is the request that puts a model out of memory, `reset` empties the prefix cache.
    """

    survey: Survey = field(default_factory=Survey)
    telling: Page | None = None
    pages: Callable[[str], tuple[Page, ...]] = _no_pages
    describe: Callable[[Target, Sequence[Any]], Target] = _as_found
    presence: Page | None = None
    present: Callable[[Any, str], bool | None] = lambda _document, _model: None
    unloading: Callable[[str], Page] | None = None
    reset: Reset | None = None


def ollama(num_ctx: int | None = None) -> Family:
    """Ollama; `num_ctx` is the context asked for, None leaves it to the server."""
    return Family(
        survey=Survey("/api/tags", ollama_models, "/api/version", ready_path="/"),
        pages=lambda model: (Page("/api/show", {"model": model}), Page("/api/ps")),
        describe=lambda target, documents: _describe_ollama(target, documents, num_ctx),
        presence=Page("/api/ps"),
        present=lambda document, model: (
            _running(document, model) is not None if isinstance(document, dict) else None
        ),
        unloading=lambda model: Page("/api/generate", {"model": model, "keep_alive": 0}),
    )


def tgi() -> Family:
    """Text Generation Inference: `/info` says everything."""
    return Family(
        survey=Survey("/info", tgi_model, "/info", ready_path="/health"),
        pages=lambda _model: (Page("/info"),),
        describe=_describe_tgi,
    )


def llama_server() -> Family:
    """llama.cpp's llama-server: `/props` says context, slots, and whether it sleeps."""
    return Family(
        survey=Survey(
            version_path="/props",
            version=lambda page: text(_props(page, "build_info")),
            ready_path="/health",
        ),
        telling=Page("/props"),
        pages=lambda _model: (Page("/props"),),
        describe=_describe_llama_server,
        presence=Page("/props"),
        present=_awake,
        reset=Reset(_erasing, "--slot-save-path"),
    )


def vllm() -> Family:
    """vLLM: its list of models says nearly everything; `/is_sleeping` and the reset of its cache
    exist in dev mode only."""
    return Family(
        survey=Survey(ready_path="/health"),
        presence=Page("/is_sleeping"),
        present=_awake,
        reset=Reset(lambda _target: (Page("/reset_prefix_cache", {}),), "VLLM_SERVER_DEV_MODE=1"),
    )


def ollama_models(document: Any) -> list[ModelFacts]:
    """The models of `GET /api/tags`; a list says nothing of the context a model runs with."""
    return [
        ModelFacts(
            name=entry["name"],
            parameters=parameter_count(mapping(entry.get("details")).get("parameter_size")),
            weight_bytes=count(entry.get("size")),
            quantization=text(mapping(entry.get("details")).get("quantization_level")),
        )
        for entry in entries(mapping(document).get("models"))
        if text(entry.get("name"))
    ]


def tgi_model(document: Any) -> list[ModelFacts]:
    """The one model of `GET /info`."""
    info = mapping(document)
    name = text(info.get("model_id"))
    return [ModelFacts(name, context_length=count(info.get("max_total_tokens")))] if name else []


def parameter_count(size: Any) -> int | None:
    """Parameters from Ollama's words: "7.6B", "137M"; anything else is unknown."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([KMBT])", size.strip()) if text(size) else None
    return round(float(found[1]) * _MAGNITUDES[found[2]]) if found else None


def _describe_ollama(target: Target, documents: Sequence[Any], num_ctx: int | None) -> Target:
    """Exact parameters, and the context: asked for, or of the runner at work; else unknown.

    The server chooses by its memory, capped at the trained length, so that length alone says
    only what the context cannot exceed.
    """
    show, ps = documents
    details, info = (mapping(mapping(show).get(name)) for name in ("details", "model_info"))
    trained = count(info.get(f"{info.get('general.architecture')}.context_length"))
    trained = count(details.get("context_length")) if trained is None else trained
    running = mapping(_running(ps, target.model))
    context = num_ctx if num_ctx is not None else count(running.get("context_length"))
    exact = count(info.get("general.parameter_count"))
    size, on_gpu = count(running.get("size")), count(running.get("size_vram")) or 0
    notes = {
        "trained_context_length": trained,
        "gpu_share": on_gpu / size if size else None,
    }
    return replace(
        target,
        parameters=(exact or target.parameters or parameter_count(details.get("parameter_size"))),
        quantization=target.quantization or text(details.get("quantization_level")),
        context_length=min(context, trained) if context and trained else context,
        notes=_noted(target, notes),
    )


def _describe_tgi(target: Target, documents: Sequence[Any]) -> Target:
    _only_these(target)
    info = mapping(documents[0])
    names = ("max_input_tokens", "max_concurrent_requests", "model_sha")
    return replace(target, notes=_noted(target, {name: info.get(name) for name in names}))


def _describe_llama_server(target: Target, documents: Sequence[Any]) -> Target:
    _only_these(target)
    props = documents[0]
    context = count(mapping(_props(props, "default_generation_settings")).get("n_ctx"))
    notes = {"slots": count(_props(props, "total_slots"))}
    return replace(
        target,
        context_length=target.context_length if context is None else context,
        quantization=target.quantization or text(_props(props, "model_ftype")),
        notes=_noted(target, notes),
    )


def _erasing(target: Target) -> tuple[Page, ...]:
    """Every slot forgets what it held."""
    slots = count(target.notes.get("slots")) or 1
    return tuple(Page(f"/slots/{slot}?action=erase", {}) for slot in range(slots))


def _only_these(target: Target) -> None:
    """A server that answers to any name must not be measured under a wrong one."""
    if target.models and target.model not in target.models:
        where = target.address or "the server"
        raise absent(target.model, target.models, where, "it answers to any name")


def _noted(target: Target, notes: Mapping[str, Any]) -> dict[str, Any]:
    return {**target.notes, **{name: value for name, value in notes.items() if value is not None}}


def _running(document: Any, model: str) -> Mapping[str, Any] | None:
    """The entry of a loaded model in `/api/ps`; a name without a tag means `latest`."""
    for entry in entries(mapping(document).get("models")):
        if {entry.get("name"), entry.get("model")} & {model, f"{model}:latest"}:
            return entry
    return None


def _props(document: Any, name: str) -> Any:
    return mapping(document).get(name)


def _awake(document: Any, _model: str) -> bool | None:
    asleep = mapping(document).get("is_sleeping")
    return not asleep if isinstance(asleep, bool) else None
