"""Which prompts a server's prefix cache already holds. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence


class PrefixCache:
    """Prefixes of whole blocks of `block` tokens, the least recently used forgotten first.

    `block` None: nothing is ever cached. `capacity` in blocks.
    """

    def __init__(self, block: int | None, capacity: int = 2**18) -> None:
        self._block = block
        self._capacity = capacity
        self._held: OrderedDict[int, None] = OrderedDict()

    def covers(self, tokens: Sequence[str]) -> int:
        """How many leading tokens are cached; the last one is always evaluated anew."""
        size = self._block or 1
        held = 0
        for key in self._keys(tokens[:-1]):
            if key not in self._held:
                break
            self._held.move_to_end(key)
            held += size
        return held

    def add(self, tokens: Sequence[str]) -> None:
        """Hold the blocks of a prompt."""
        for key in self._keys(tokens):
            self._held[key] = None
            self._held.move_to_end(key)
        while len(self._held) > self._capacity:
            self._held.popitem(last=False)

    def clear(self) -> int:
        """Forget everything, as an unloaded model does; returns the tokens that were held."""
        held = len(self._held) * (self._block or 0)
        self._held.clear()
        return held

    def _keys(self, tokens: Sequence[str]) -> Iterator[int]:
        """One key per whole block, made of the block and all before it."""
        size, key = self._block, 0
        if size is None:
            return
        for end in range(size, len(tokens) + 1, size):
            key = hash((key, *tokens[end - size : end]))
            yield key
