"""The types of `core.pyx`. What `plain` has too is of the same type for whoever uses it."""

from collections.abc import Callable, Sequence
from typing import Any

from loadgen.lane.plain import Channel, Fold, Inlet, Sum, lines

__all__ = ["Channel", "Flight", "Fold", "Inlet", "Lane", "Sum", "Template", "lines", "plain_facts"]

class Flight:
    lane: Lane
    agent: int
    seq: int
    payload: bytes
    phase: str
    due: float
    sent: float
    ended: float
    deadline: float
    then: Callable[[str, float], None]
    def give_up(self) -> None: ...
    def line(self) -> bytes: ...

class Template:
    def __init__(
        self,
        head: bytes,
        named: bytes,
        before_seed: bytes,
        before_prompt: bytes,
        after_prompt: bytes,
    ) -> None: ...

class Lane:
    def __init__(
        self,
        stage: Any,
        pool: Any,
        *,
        templates: Callable[[int], Template],
        is_plain: Callable[[bytes], bool],
        words: bytes,
        salt: bytes,
        text: bytes,
        shift: float,
        loop: Any,
    ) -> None: ...
    def prepare(self, agent: int, seq: int) -> Flight: ...
    def send(self, flight: Flight, due: float, then: Callable[[str, float], None]) -> None: ...
    def close(self) -> None: ...

def plain_facts(body: bytes, ends: Sequence[int]) -> tuple[list[int], int, int, str] | None: ...
