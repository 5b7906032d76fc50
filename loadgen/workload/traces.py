"""Request traces, replayed at their own instants.

    azure     CSV   TIMESTAMP (date and time), ContextTokens, GeneratedTokens
    mooncake  JSONL timestamp (ms), input_length, output_length, hash_ids, session_id
    burstgpt  CSV   Timestamp (s), Request tokens, Response tokens, Session ID
    jsonl     JSONL at (s), input_tokens, output_tokens, session, hash_ids

Times are read as decimals and subtracted exactly, then rounded once to a float of seconds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

from contract.errors import ConfigError, DataError, nearest
from loadgen.workload.line_files import (
    TOKENS,
    csv_rows,
    decimal,
    json_lines,
    opened,
    read_field,
    tokens,
)

Unit = Literal["s", "ms", "us", "ns"]
PER_SECOND: dict[str, int] = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}


@dataclass(frozen=True, slots=True)
class TraceRow:
    """One request: seconds after the first one, and its tokens.

    `hash_ids` name the blocks of its prompt: equal ids, equal text.
    """

    at: float
    input_tokens: int
    output_tokens: int
    session: str | None = None
    hash_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class _Format:
    """Names of the columns; `unit` None for calendar time."""

    csv: bool
    time: str
    prompt: str
    reply: str
    session: str | None
    unit: Unit | None
    # In BurstGPT a request without output is one that failed: it is no load to replay.
    skip_empty: bool = False


FORMATS = {
    "azure": _Format(True, "TIMESTAMP", "ContextTokens", "GeneratedTokens", None, None),
    "mooncake": _Format(False, "timestamp", "input_length", "output_length", "session_id", "ms"),
    "burstgpt": _Format(
        True, "Timestamp", "Request tokens", "Response tokens", "Session ID", "s", skip_empty=True
    ),
    "jsonl": _Format(False, "at", "input_tokens", "output_tokens", "session", "s"),
}


def read_trace(
    path: Path, kind: str | None = None, unit: str | None = None, speed: float = 1.0
) -> list[TraceRow]:
    """The rows of a trace by time, the first at 0, `speed` times as fast as they were.

    `kind` is one of FORMATS, recognised by its columns when None; `unit` (s, ms, us, ns)
    overrides the format's own. ConfigError for a wrong option or a missing file; DataError
    names file, line and field.
    """
    if not 0 < speed < math.inf:
        raise ConfigError(f"trace speed: {speed} given, allowed: a positive number")
    if kind is not None and kind not in FORMATS:
        hint = nearest(kind, FORMATS)
        raise ConfigError(f"trace format: '{kind}'{hint} (allowed: {', '.join(FORMATS)})")
    if unit is not None and unit not in PER_SECOND:
        raise ConfigError(f"trace time unit: '{unit}', allowed: {', '.join(PER_SECOND)}")
    with opened(path) as file:
        form = FORMATS[kind or recognise(file.readline(), path)]
        file.seek(0)
        rows = list(_rows(file, path, form, _scale(form, unit)))
    if not rows:
        raise DataError(f"{path}: no request in it")
    return _from_first(rows, speed)


def recognise(head: str, path: Path) -> str:
    """The format whose columns the first line has; DataError when none fits."""
    try:
        columns = set(json.loads(head))
    except (ValueError, TypeError):
        columns = {name.strip() for name in head.split(",")}
    for name, form in FORMATS.items():
        if {form.time, form.prompt, form.reply} <= columns:
            return name
    wanted = "; ".join(f"{n}: {f.time}, {f.prompt}, {f.reply}" for n, f in FORMATS.items())
    raise DataError(f"{path}:1: not the columns of a known trace ({wanted})")


def _scale(form: _Format, unit: str | None) -> Callable[[Any], Decimal]:
    if form.unit is None:
        if unit is not None:
            raise ConfigError("trace time unit: this trace has calendar times, give none")
        return _calendar
    per_second = PER_SECOND[unit or form.unit]
    return lambda value: decimal(value) / per_second


def _rows(
    file: Iterable[str], path: Path, form: _Format, seconds: Callable[[Any], Decimal]
) -> Iterator[tuple[Decimal, TraceRow]]:
    for number, entry in csv_rows(file) if form.csv else json_lines(file, path):
        where = f"{path}:{number}"
        at = read_field(entry, form.time, seconds, where, "a time")
        prompt = read_field(entry, form.prompt, tokens, where, TOKENS)
        reply = read_field(entry, form.reply, tokens, where, TOKENS)
        if form.skip_empty and reply == 0:
            continue
        session = entry.get(form.session) if form.session else None
        hashes: tuple[int, ...] = ()
        if entry.get("hash_ids") is not None:
            hashes = read_field(entry, "hash_ids", _hashes, where, "a list of whole numbers")
        named = None if session in (None, "") else str(session)
        # A request asks for at least one token each way, whatever was logged.
        yield at, TraceRow(0.0, max(1, prompt), max(1, reply), named, hashes)


def _from_first(rows: list[tuple[Decimal, TraceRow]], speed: float) -> list[TraceRow]:
    rows.sort(key=lambda row: row[0])
    first = rows[0][0]
    return [
        TraceRow(float(at - first) / speed, r.input_tokens, r.output_tokens, r.session, r.hash_ids)
        for at, r in rows
    ]


def _calendar(value: Any) -> Decimal:
    """Seconds since 1970 of an ISO date and time; every digit of the fraction counts.

    Azure logs seven digits, `datetime` keeps six.
    """
    whole, dot, rest = str(value).strip().partition(".")
    digits = rest[: len(rest) - len(rest.lstrip("0123456789"))]
    moment = datetime.fromisoformat(whole + rest[len(digits) :])
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    past = moment - datetime(1970, 1, 1, tzinfo=UTC)
    if dot and not digits:
        raise ValueError(value)
    return Decimal(past.days * 86_400 + past.seconds) + Decimal(f"0.{digits or 0}")


def _hashes(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list | tuple) or not all(type(item) is int for item in value):
        raise ValueError(value)
    return tuple(value)
