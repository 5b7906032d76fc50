"""The words prompts are made of, and the tokenizer of local models: one word, one id."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product

_SYLLABLES = tuple(a + b for a, b in product("bdfgklmnprstvwyz", "aeiou"))
WORDS: tuple[str, ...] = tuple(a + b for a, b in product(_SYLLABLES, _SYLLABLES))[:6400]
_ID = {word: i for i, word in enumerate(WORDS)}


class WordTokenizer:
    """One word, one id, in both directions; ids wrap at `vocabulary`.

    An unknown word gets an id from its characters, so any text can be counted.
    """

    def __init__(self, vocabulary: int = len(WORDS)) -> None:
        self.vocabulary = vocabulary

    def encode(self, text: str) -> list[int]:
        return [self._id(word) for word in text.split()]

    def decode(self, ids: Iterable[int]) -> str:
        return " ".join(WORDS[i % len(WORDS)] for i in ids)

    def _id(self, word: str) -> int:
        known = _ID.get(word)
        return (sum(word.encode()) if known is None else known) % self.vocabulary


def nonce(number: int, words: int = 3) -> Sequence[str]:
    """`words` words that spell `number` (modulo len(WORDS)**words): distinct for distinct ones."""
    digits = []
    for _ in range(words):
        number, digit = divmod(number, len(WORDS))
        digits.append(WORDS[digit])
    return digits
