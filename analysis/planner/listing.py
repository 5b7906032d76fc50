"""`--list-hardware` and `--list-models`: the catalog's rows as tables, their sources below."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterator
from typing import Any

from contract.text_table import render

Rows = dict[str, dict[str, Any]]
WIDTH = 100


def table(title: str, rows: Rows) -> str:
    """One line per row, a column per fact with its unit, `?` where unknown, then the sources."""
    disputed = _fields(rows, disputed=True)
    fields = [field for field in _fields(rows, disputed=False) if field not in disputed]
    sized = ["size"] if any("size" in row for row in rows.values()) else []
    units = (next(row[f]["unit"] for row in rows.values() if f in row) for f in fields)
    heads = (_head(field, unit) for field, unit in zip(fields, units, strict=True))
    cells = [
        [name, *(str(row[f]) for f in sized), *(_cell(row.get(field)) for field in fields)]
        for name, row in rows.items()
    ]
    notes = [*_sources(rows, fields), *_disputes(rows, disputed)]
    below = [_wrapped(note) for note in notes]
    return "\n".join([render([title, *sized, *heads], cells), "", *below])


def _head(field: str, unit: str) -> str:
    return field if unit in field.split("_") else f"{field} ({unit})"


def _wrapped(note: str) -> str:
    return textwrap.fill(note, WIDTH, subsequent_indent="    ", break_on_hyphens=False)


def _fields(rows: Rows, *, disputed: bool) -> list[str]:
    """The names of the facts, in the order they are met."""
    found = (
        name
        for row in rows.values()
        for name, fact in row.items()
        if isinstance(fact, dict) and ("disputed" in fact) is disputed
    )
    return list(dict.fromkeys(found))


def _cell(fact: dict[str, Any] | None) -> str:
    return "?" if fact is None else f"{fact['value']:g}"


def _sources(rows: Rows, fields: list[str]) -> list[str]:
    """`fields: source`; a source of some rows only names them."""
    said: dict[tuple[str, str], list[str]] = {}
    for field in fields:
        named = {name: row[field]["source"] for name, row in rows.items() if field in row}
        counts = Counter(named.values())
        usual = counts.most_common(1)[0][0]
        for source in counts:
            names = ", ".join(name for name, its in named.items() if its == source)
            where = "" if source == usual else f" of {names}"
            said.setdefault((source, where), []).append(field)
    return [f"{', '.join(names)}{where}: {source}" for (source, where), names in said.items()]


def _disputes(rows: Rows, fields: list[str]) -> Iterator[str]:
    for field in fields:
        for name, row in rows.items():
            if field in row:
                fact = row[field]
                value = f"{fact['value']:g} {fact['unit']}"
                yield f"{field} of {name}: {value}, disputed: {fact['disputed']} ({fact['source']})"
