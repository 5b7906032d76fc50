"""The elements of a large JSON array, one at a time in bounded memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn, TextIO

from contract.errors import DataError

CHUNK = 1 << 20
# Characters; a broken array must not pull the whole file into memory.
LARGEST_ELEMENT = 1 << 26


def elements(file: TextIO, path: Path) -> Iterator[tuple[int, Any]]:
    """(number of the line it begins on, element) of the array that the file is.

    DataError names file and line. Memory: one element and a chunk of the file.
    """
    window = _Window(file, path)
    window.expect("[")
    if window.peek() == "]":
        return
    while True:
        window.peek()
        yield window.line, window.element()
        if window.peek() == "]":
            return
        window.expect(",")


class _Window:
    """The part of the file at hand, and the place in it."""

    def __init__(self, file: TextIO, path: Path) -> None:
        self._file, self._path = file, path
        self._text, self._at = "", 0
        self.line = 1

    def peek(self) -> str:
        """The next character that is no white space; empty at the end of the file."""
        while True:
            while self._at < len(self._text):
                character = self._text[self._at]
                if character not in " \t\r\n":
                    return character
                self.line += character == "\n"
                self._at += 1
            if not self._more():
                return ""

    def expect(self, character: str) -> None:
        if self.peek() != character:
            self._refuse(f"'{character}' is wanted")
        self._at += 1

    def element(self) -> Any:
        """Decode what begins here, reading on until it is whole."""
        decode = json.JSONDecoder().raw_decode
        while True:
            try:
                element, end = decode(self._text, self._at)
                problem = "the array does not end"
            except ValueError as error:
                end, problem = len(self._text), str(error)
            # At the very end of the window, a number may go on behind it.
            if end < len(self._text):
                self.line += self._text.count("\n", self._at, end)
                self._at = end
                return element
            if len(self._text) - self._at > LARGEST_ELEMENT or not self._more():
                self._refuse(problem)

    def _more(self) -> bool:
        """Read on: as much again as is pending, so that a long element is not decoded often."""
        pending = self._text[self._at :]
        read = self._file.read(max(CHUNK, len(pending)))
        self._text, self._at = pending + read, 0
        return bool(read)

    def _refuse(self, problem: str) -> NoReturn:
        raise DataError(f"{self._path}:{self.line}: not a JSON array: {problem}")
