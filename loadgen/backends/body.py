"""What every request of a run says besides its prompt and its length. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

import orjson

# Fields that no request may bring along: what is measured depends on them.
OURS = {
    "model": "chosen by --model",
    "stream": "chosen by --no-streaming",
    "prompt": "made by the generator",
    "inputs": "made by the generator",
    "messages": "made by the generator",
    "n": "always 1: one reply is timed",
    "best_of": "always 1: one reply is timed",
    **dict.fromkeys(
        ("max_tokens", "max_completion_tokens", "max_new_tokens", "num_predict", "n_predict"),
        "chosen by --osl",
    ),
}


@dataclass(frozen=True, slots=True)
class Body:
    """`sampling` by our names (without a temperature: greedy), `extra` in the server's own words.

    `ignore_eos` has a server go on past its end token, where it can be told to; without
    `streaming` the answer comes whole.
    """

    sampling: Mapping[str, float] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
    streaming: bool = True
    ignore_eos: bool = True

    def sampled(self, **names: str) -> dict[str, float]:
        """The sampling fields with the temperature first; `names` are a server's own names."""
        given = {"temperature": 0.0, **self.sampling}
        return {names.get(name, name): value for name, value in given.items()}

    def said(self, body: dict[str, Any]) -> dict[str, Any]:
        """`body` with what is extra merged in last."""
        return merged(body, self.extra) if self.extra else body


PLAIN = Body()


def merged(body: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """`body` with the fields of `extra`; an object meets an object field by field."""
    whole = dict(body)
    for name, value in extra.items():
        there = whole.get(name)
        meet = isinstance(there, dict) and isinstance(value, dict)
        whole[name] = merged(dict(there or {}), value) if meet else value
    return whole


def sendable(extra: dict[str, Any]) -> dict[str, Any]:
    """`extra` if it can be sent and leaves what is measured alone; ValueError otherwise."""
    inner = [extra.get(name) for name in ("options", "parameters")]  # Ollama's, and TGI's
    for fields in (extra, *inner):
        for name in fields if isinstance(fields, dict) else ():
            if name in OURS:
                raise ValueError(f"extra_body: '{name}' is {OURS[name]}")
    if any(isinstance(value, float) and not isfinite(value) for value in _values(extra)):
        raise ValueError("extra_body: a number in it is not finite")
    try:
        orjson.dumps(extra)
    except TypeError as error:
        raise ValueError(f"extra_body: no JSON can hold it ({error})") from error
    return extra


def _values(document: Any) -> Iterator[Any]:
    """Everything in a document that holds nothing else."""
    if not isinstance(document, dict | list):
        yield document
        return
    for value in document.values() if isinstance(document, dict) else document:
        yield from _values(value)
