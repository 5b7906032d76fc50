"""Prompts with an exact token budget, each of them unique in the run.

A nonce comes first, different for every request and every run, so that no prefix cache can
answer for the server.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

from loadgen.backends.base import Message, Request, Tokenizer
from loadgen.stopwatch import Facts, Ids
from loadgen.workload.conversations import NO_PREFIX, SALT_WORDS, SharedPrefix, with_system
from loadgen.workload.conversations import NONCE_WORDS as NUMBER_WORDS
from loadgen.workload.lengths import Lengths
from loadgen.workload.words import WORDS, nonce

LEAST_TOKENS = NUMBER_WORDS + SALT_WORDS
ADJUSTMENTS = 8
LONG_TEXT = 65_537  # words; a prime, so that no stride comes back to a place early
STRIDE = 25_033  # words between the places of consecutive numbers
WIDTH = len(WORDS[0]) + 1  # characters of a word, all of them alike, and the space after it


@dataclass(frozen=True, slots=True)
class PromptSource:
    """Makes the request of (stage, agent, seq); same ids, seed and salt, same request.

    Without a tokenizer a word stands for a token, and the server's own count is the truth. A
    shared prefix comes before the nonce, so that a prefix cache may answer it and no more.
    """

    seed: int
    isl: Lengths
    osl: Lengths
    salt: int = 0
    tokenizer: Tokenizer | None = None
    prefix: SharedPrefix = NO_PREFIX
    listens: ClassVar[bool] = False

    def request(self, stage: int, agent: int, seq: int) -> Request:
        number = numbered(stage, agent, seq)
        tokens = self.isl.draw(self.seed, "isl", number)
        words = self.prefix.words(self.seed, number) + self.unique(number)
        text = " ".join(words[:tokens])
        if tokens > len(words):
            text = f"{text} {filler(self.seed, number, tokens - len(words))}"
        if self.tokenizer is not None:
            text = fit_to_budget(text, tokens, self.tokenizer)
        request = Request(text, self.osl.draw(self.seed, "osl", number), seed=number % 2**31)
        if self.prefix.tokens and self.tokenizer is None:
            system = " ".join(words[: self.prefix.tokens])
            request.messages = with_system(system, (Message("user", text[len(system) + 1 :]),))
        return request

    def answered(self, ids: Ids, request: Request, facts: Facts) -> None:
        """Nothing is made of an answer."""

    def unique(self, number: int) -> list[str]:
        """Five words that no other request of this or another run begins with."""
        return [*nonce(number, NUMBER_WORDS), *salted(self.salt)]


@cache
def salted(salt: int) -> Sequence[str]:
    """The words of a run."""
    return nonce(salt, SALT_WORDS)


def filler(seed: int, number: int, words: int) -> str:
    """`words` words out of one long random text of the seed, from a place that `number` names.

    Drawing every word anew would cost more than sending the request.
    """
    text = long_text(seed)
    at = number * STRIDE % LONG_TEXT
    found = text[at * WIDTH : (at + words) * WIDTH]
    while len(found) < words * WIDTH:
        found += text[: words * WIDTH - len(found)]
    return found[:-1]


@cache
def long_text(seed: int) -> str:
    """LONG_TEXT words, a space after each."""
    return " ".join([*random.Random(seed).choices(WORDS, k=LONG_TEXT), ""])


def numbered(stage: int, agent: int, seq: int) -> int:
    """One number per request of a run."""
    return _pair(_pair(stage, agent), seq)


def fit_to_budget(text: str, budget: int, tokenizer: Tokenizer) -> str:
    """`text` cut so that it encodes to exactly `budget` tokens where the tokenizer allows it.

    Decoding a cut sequence may encode to another length (merges across the cut), so the cut is
    moved a few times; what the server counts is recorded either way.
    """
    ids = tokenizer.encode(text)
    keep = budget
    for _ in range(ADJUSTMENTS):
        if len(ids) == budget:
            return text
        if len(ids) < budget:
            return text
        candidate = tokenizer.decode(ids[:keep])
        length = len(tokenizer.encode(candidate))
        if length == budget:
            return candidate
        keep += budget - length
    return tokenizer.decode(ids[:budget])


def _pair(a: int, b: int) -> int:
    """Cantor's pairing: one number per pair, and no two pairs share it."""
    return (a + b) * (a + b + 1) // 2 + b
