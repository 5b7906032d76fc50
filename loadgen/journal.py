"""Records on their way to a file: those that end in one turn of the event loop together.

A write for each would cost as much as the request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from contract.errors import DataError
from contract.records import RequestRecord
from loadgen.lane import lines


class Journal:
    """Hands on to `append`, as lines, what ended in one turn of the loop in its next, before it
    waits for anything. `failed` hears of a file that took no more then."""

    def __init__(
        self,
        append: Callable[[bytes], None],
        failed: Callable[[DataError], None],
    ) -> None:
        self._append = append
        self._failed = failed
        self._ended: list[RequestRecord] = []

    def add(self, record: RequestRecord) -> None:
        """Take one record."""
        if not self._ended:
            asyncio.get_running_loop().call_soon(self._in_turn)
        self._ended.append(record)

    def flush(self) -> None:
        """Write what is there now. DataError."""
        ended, self._ended = self._ended, []
        if ended:
            self._append(lines(ended))

    def _in_turn(self) -> None:
        try:
            self.flush()
        except DataError as error:
            self._failed(error)
