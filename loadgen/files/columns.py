"""Records as columns: which columns a record has, and the cells of a batch of records.

Derived from the record's own annotations, so that a field added there has its column here. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from operator import attrgetter
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from contract.errors import DataError
from contract.records import RequestRecord

Kind = Literal["flag", "integer", "number", "text", "integers", "numbers", "group"]

_PLAIN: dict[Any, Kind] = {
    bool: "flag",
    int: "integer",
    float: "number",
    str: "text",
    list[int]: "integers",
    list[float]: "numbers",
}
# What a cell may hold; a whole number is a number, a truth value is no integer.
_HOLDS: dict[Kind, set[type]] = {
    "flag": {bool},
    "integer": {int},
    "number": {float, int},
    "text": {str},
    "integers": {list, tuple},
    "numbers": {list, tuple},
}


@dataclass(frozen=True, slots=True)
class Column:
    """One column; a `group` has columns of its own, and is absent where its value is None."""

    name: str
    kind: Kind
    parts: tuple[Column, ...] = ()


def columns_of(record: type) -> tuple[Column, ...]:
    """The columns of a dataclass, in the order of its fields."""
    hints = get_type_hints(record)
    return tuple(_column(field.name, hints[field.name]) for field in fields(record))


def _column(name: str, annotation: Any) -> Column:
    present = _present(annotation)
    if is_dataclass(present):
        return Column(name, "group", columns_of(present))  # type: ignore[arg-type]
    if get_origin(present) is Literal:
        present = type(get_args(present)[0])
    return Column(name, _PLAIN[present])


def _present(annotation: Any) -> Any:
    """`X | None` without its None."""
    if get_origin(annotation) not in (UnionType, Union):
        return annotation
    (only,) = [kind for kind in get_args(annotation) if kind is not NoneType]
    return only


def cells(values: Sequence[Any], column: Column) -> list[Any]:
    """One column of a batch of objects; DataError where a value is not of the column's kind."""
    read = attrgetter(column.name)
    if None in values:  # members of a group that is absent
        found = [None if value is None else read(value) for value in values]
    else:
        found = list(map(read, values))
    if column.kind != "group":
        strange = set(map(type, found)) - _HOLDS[column.kind] - {NoneType}
        if strange:
            kinds = ", ".join(sorted(kind.__name__ for kind in strange))
            raise DataError(f"column {column.name} holds {kinds}, expected {column.kind}")
    return found


COLUMNS = columns_of(RequestRecord)
