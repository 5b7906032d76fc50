"""Files of one JSON document a line: grown by whole lines, and read back."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson

from contract.errors import DataError


class LineFile:
    """A file that grows by whole lines in unbuffered writes; made with the first of them."""

    def __init__(self, path: Path, mode: int = 0o644) -> None:
        self.path = path
        self._mode = mode
        self._descriptor: int | None = None

    def open(self) -> int:
        """Make it at once, unless it is there; its descriptor. OSError when it cannot be."""
        if self._descriptor is None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
            self._descriptor = os.open(self.path, flags, self._mode)
        return self._descriptor

    def append(self, documents: Iterable[Any]) -> None:
        """Each document a line, all in one write. DataError on a disk that takes no more; those
        that fit are there."""
        self.append_lines(b"".join(map(line_of, documents)))

    def append_lines(self, lines: bytes) -> None:
        """The same of documents that are lines already."""
        try:
            _write(self.open(), lines)
        except OSError as error:
            raise DataError(
                f"{self.path}: cannot be written ({error.strerror}); earlier lines stay readable"
            ) from error

    @property
    def size(self) -> int:
        """Bytes so far."""
        return os.fstat(self.open()).st_size

    def close(self) -> None:
        """Take no more lines."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def line_of(document: Any) -> bytes:
    """A document as a line."""
    return orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)


def _write(descriptor: int, lines: bytes) -> None:
    written = 0
    try:
        while written < len(lines):
            written += os.write(descriptor, lines[written:] if written else lines)
    except OSError:
        over = written - lines.rfind(b"\n", 0, written) - 1
        with suppress(OSError):  # what follows must not be glued to half a line
            os.ftruncate(descriptor, os.fstat(descriptor).st_size - over)
        raise


# A line, its number, and whether it is finished.
Line = tuple[bytes, int, bool]


def read_lines(path: Path, start: int = 0) -> Iterator[Line]:
    """The lines from byte `start` on. DataError when the file cannot be read."""
    try:
        with path.open("rb") as file:
            file.seek(start)
            yield from lines_in(file)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error


def lines_in(file: Iterable[bytes]) -> Iterator[Line]:
    """The same of an open file."""
    for number, line in enumerate(file, 1):
        yield line, number, line.endswith(b"\n")
