"""Which stages may take the lane, and the bytes their requests have in common."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import orjson

from contract.errors import BackendError
from loadgen.backends.base import Dialect
from loadgen.backends.openai import OpenAiDialect
from loadgen.lane import COMPILED
from loadgen.wire.exchange import WireClient
from loadgen.wire.frames import read_head
from loadgen.workload.prompts import PromptSource, long_text, salted
from loadgen.workload.words import WORDS

if TYPE_CHECKING:
    from loadgen.engine import StageRun
    from loadgen.lane.core import Lane, Template

LENGTHS_KEPT = 4096  # templates, one for each number of tokens asked for
_LENGTH = b"\r\nContent-Length: "
_NAMED = b"X-Request-Id: "


def lane_for(stage: StageRun, dialect: Dialect, client: Any) -> Lane | None:
    """The lane of a stage, None where its requests are not plain: prompts of our own words, to
    an event stream of the OpenAI protocol, without a tokenizer or a shared prefix."""
    source = stage.source
    if not COMPILED or not isinstance(client, WireClient) or stage.origin is None:
        return None
    if not client.pool.stamps:
        return None
    if type(dialect) is not OpenAiDialect or not dialect.streams:
        return None
    if type(source) is not PromptSource or source.tokenizer or source.prefix.tokens:
        return None
    if orjson.dumps(stage.run) != b'"%b"' % stage.run.encode():
        return None
    from loadgen.lane.core import Lane

    lane = Lane(
        stage,
        client.pool,
        templates=lru_cache(LENGTHS_KEPT)(lambda tokens: _template(stage, tokens)),
        is_plain=_is_plain,
        words=" ".join([*WORDS, ""]).encode(),
        salt=" ".join([*salted(source.salt), ""]).encode(),
        text=long_text(source.seed).encode(),
        shift=client.shift(stage.clock),
        loop=asyncio.get_running_loop(),
    )
    return lane if _alike(lane, stage) else None


def _is_plain(head: bytes) -> bool:
    """Whether a stream of events in chunks follows, on a connection that stays."""
    try:
        found = read_head(head)
    except BackendError:
        return False
    streams = found.chunked and found.kind == "text/event-stream"
    return found.status == 200 and streams and found.keeps


def _template(stage: StageRun, tokens: int) -> Template:
    """What requests for so many tokens have in common; ValueError when that cannot be told."""
    from loadgen.lane.core import Template

    number = stage.plan.number
    request = replace(stage.source.request(number, 0, 0), output_tokens=tokens)
    request.id = str(stage.ids(0, 0))
    head, _, body = stage.backend.prepare(request).payload.partition(b"\r\n\r\n")
    head, _, after = head.partition(_LENGTH)
    before_seed, rest = _cut(body, b'"seed":', b"%d" % request.seed)
    before_prompt, after_prompt = _cut(rest, b'"', orjson.dumps(request.prompt)[1:-1])
    named = _NAMED if _NAMED + request.id.encode() in after else b""
    return Template(head + _LENGTH, named, before_seed, before_prompt, after_prompt)


def _cut(text: bytes, before: bytes, what: bytes) -> tuple[bytes, bytes]:
    """What stands on either side of `what`, which comes once, right after `before`."""
    first, rest = text.split(before + what)
    return first + before, rest


def _alike(lane: Lane, stage: StageRun) -> bool:
    """Whether the lane makes the very bytes that the general way makes."""
    try:
        return all(
            lane.prepare(agent, seq).payload == stage.ready(agent, seq).prepared.payload
            for agent, seq in ((0, 0), (1, 1), (1000, 1_000_000))
        )
    except ValueError:
        return False
