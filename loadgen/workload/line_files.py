"""Files of one entry a line, read as a stream; what is wrong is named by file, line and field."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, TextIO

from contract.errors import ConfigError, DataError
from loadgen.workload.lengths import MOST

SHOWN = 60
TOKENS = f"a whole number of tokens, at most {MOST}"


@contextmanager
def opened(path: Path) -> Iterator[TextIO]:
    """The file as text. ConfigError when it is not there, DataError when it cannot be read."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield file
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except OSError as error:
        raise DataError(f"{path}: not readable: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: not readable: {error}") from error


def csv_rows(file: Iterable[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """(line number, row) of a CSV file with a head."""
    reader = csv.DictReader(file, skipinitialspace=True)
    for entry in reader:
        yield reader.line_num, entry


def json_lines(file: Iterable[str], path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """(line number, object) of a JSONL file; empty lines are skipped, decimals stay exact."""
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line, parse_float=Decimal)
        except ValueError as error:
            raise DataError(f"{path}:{number}: not JSON: {error}") from error
        if not isinstance(entry, dict):
            raise DataError(f"{path}:{number}: a JSON object is wanted")
        yield number, entry


def read_field(
    entry: Mapping[str, Any],
    name: str,
    convert: Callable[[Any], Any],
    where: str,
    wanted: str,
) -> Any:
    """`convert` of the field; DataError with `where`, the field and what is wanted instead."""
    value = entry.get(name)
    if value is None:
        raise DataError(f"{where}: field '{name}' is missing, expected {wanted}")
    try:
        return convert(value)
    except (ValueError, TypeError, InvalidOperation):
        shown = repr(str(value)[:SHOWN])
        raise DataError(f"{where}: {name}: {shown} found, expected {wanted}") from None


def decimal(value: Any) -> Decimal:
    """A finite number, exactly as written; ValueError otherwise."""
    if isinstance(value, bool) or not isinstance(value, int | str | Decimal):
        raise ValueError(value)
    number = Decimal(value)
    if not number.is_finite():
        raise ValueError(value)
    return number


def whole(value: Any) -> int:
    """A whole number of at least 0; ValueError otherwise."""
    number = decimal(value)
    if number != int(number) or number < 0:
        raise ValueError(value)
    return int(number)


def tokens(value: Any) -> int:
    """A number of tokens that a request can ask for; ValueError otherwise."""
    if (number := whole(value)) > MOST:
        raise ValueError(value)
    return number
