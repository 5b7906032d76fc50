"""Whether a JSON object has the shape of a dataclass: every damage is one sentence.

Checks are made from the annotations once per class, because a million lines are usual.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

# Beyond this nothing here is a number of seconds, bytes or tokens, and sums overflow.
MOST = 1e18

Check = Callable[[Any], bool]


@dataclass(frozen=True, slots=True)
class AtLeast:
    """In an annotation: a number not below this."""

    least: int

    def check(self) -> Check:
        """What must hold of a number."""
        least = self.least
        return lambda value: least <= value < MOST

    def __str__(self) -> str:
        return f"at least {self.least}"


@dataclass(frozen=True, slots=True)
class OneOf:
    """In an annotation: a text of a closed set."""

    words: tuple[str, ...]

    def check(self) -> Check:
        """What must hold of a text."""
        return frozenset(self.words).__contains__

    def __str__(self) -> str:
        return f"one of {', '.join(self.words)}"


def conform(kind: Any, line: Any) -> dict[str, Any]:
    """The known fields of `line` for the dataclass `kind`; ValueError says which is wrong.

    Unknown keys are ignored, so that a newer writer still reads; nested dataclasses stay dicts.
    """
    if type(line) is not dict:
        raise ValueError(f"{_shown(line)} found, an object expected")
    values = {}
    for name, allowed, check, required in _plan(kind):
        if name not in line:
            if required:
                raise ValueError(f"'{name}' is missing")
            continue
        value = line[name]
        if type(value) not in allowed or (check is not None and not check(value)):
            raise ValueError(f"{name}: {_shown(value)} found, {_wanted(kind, name)} expected")
        values[name] = value
    return values


@cache
def _plan(kind: Any) -> tuple[tuple[str, frozenset[type], Check | None, bool], ...]:
    hints = get_type_hints(kind, include_extras=True)
    return tuple(
        (field.name, *_check(hints[field.name]), _required(field)) for field in fields(kind)
    )


def _required(field: Any) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def _check(hint: Any) -> tuple[frozenset[type], Check | None]:
    """The exact types a value may have, and what else must hold of it."""
    origin = get_origin(hint)
    if origin is Annotated:
        plain, bound = get_args(hint)
        return _check(plain)[0], bound.check()
    if origin in (UnionType, Union):
        parts = [_check(part) for part in get_args(hint)]
        checks = [(types, check) for types, check in parts if check is not None]
        types: frozenset[type] = frozenset().union(*(types for types, _ in parts))
        return types, _either(checks) if checks else None
    if origin is Literal:
        return frozenset({str}), frozenset(get_args(hint)).__contains__
    if origin is list:
        return frozenset({list}), _list_check(get_args(hint)[0])
    if origin is dict:
        return frozenset({dict}), _dict_check(get_args(hint)[1])
    return _plain(hint)


def _plain(hint: Any) -> tuple[frozenset[type], Check | None]:
    if hint is float:
        return frozenset({float, int}), lambda value: -MOST < value < MOST
    if hint is int:
        return frozenset({int}), lambda value: -MOST < value < MOST
    if is_dataclass(hint):
        return frozenset({dict}), None  # its own from_json looks inside
    return frozenset({NoneType if hint is None else hint}), None


def _list_check(hint: Any) -> Check:
    """Of all items at the speed of C, where a bound holds of all that lies between two."""
    inner, check = _check(hint)
    if check is None:
        return lambda items: inner.issuperset(map(type, items))
    numbers = inner <= {float, int}
    ends: Callable[[list[Any]], Any] = (lambda items: (min(items), max(items))) if numbers else list
    return lambda items: (
        not items or (inner.issuperset(map(type, items)) and all(map(check, ends(items))))
    )


def _dict_check(hint: Any) -> Check | None:
    if hint is Any:
        return None
    inner, check = _check(hint)
    return lambda mapping: all(
        type(value) in inner and (check is None or check(value)) for value in mapping.values()
    )


def _either(checks: list[tuple[frozenset[type], Check]]) -> Check:
    return lambda value: all(check(value) for types, check in checks if type(value) in types)


def _wanted(kind: Any, name: str) -> str:
    return _words(get_type_hints(kind, include_extras=True)[name])


def _words(hint: Any) -> str:
    if get_origin(hint) is Annotated:
        plain, bound = get_args(hint)
        return str(bound) if plain is str else f"{_words(plain)} {bound}"
    if get_origin(hint) in (UnionType, Union):
        return " | ".join("None" if part is NoneType else _words(part) for part in get_args(hint))
    if get_origin(hint) is list:
        return f"list[{_words(get_args(hint)[0])}]"
    text = getattr(hint, "__name__", None) if isinstance(hint, type) else str(hint)
    return str(text).replace("typing.", "").replace("contract.records.", "")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
