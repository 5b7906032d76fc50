"""What a server's prefix cache may answer, planned: shared prefixes, turns that grow. Pure.

A word stands for a token, as in `prompts`. The text of a turn is a function of the seed and of
who asks, so any process plans the same conversation.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from loadgen.backends.base import Message
from loadgen.workload.draws import key
from loadgen.workload.lengths import Lengths
from loadgen.workload.think import NO_PAUSE, ThinkTime
from loadgen.workload.words import WORDS, nonce

NONCE_WORDS, SALT_WORDS = 3, 2
MOONCAKE_BLOCK = 512


@dataclass(frozen=True, slots=True)
class SharedPrefix:
    """The first `tokens` of every prompt are the same within each of `groups` groups."""

    tokens: int = 0
    groups: int = 1

    def words(self, seed: int, number: int) -> list[str]:
        """The prefix of request or conversation `number`; groups are dealt out in turn."""
        return _words(self.tokens, seed, "prefix", number % self.groups)


NO_PREFIX = SharedPrefix()


@dataclass(frozen=True, slots=True)
class Turn:
    """One question of a conversation.

    `asks` is what is new in it, after the `system` prompt of a first one; `context_tokens` its
    whole prompt when all replies before it had their planned length, `think` the seconds to wait
    after the reply before.
    """

    conversation: int
    number: int
    asks: str
    context_tokens: int
    output_tokens: int
    think: float
    system: str = ""


@dataclass(frozen=True, slots=True)
class Conversations:
    """Multi-turn conversations: the prompt of a turn is all that was said, and a new question.

    `first` is the whole first prompt, shared prefix included; `following` each later question.
    A nonce of five words after the shared prefix keeps conversations apart in a prefix cache: a
    first prompt is never shorter than the two.
    """

    turns: Lengths
    first: Lengths
    following: Lengths
    replies: Lengths
    think: ThinkTime = NO_PAUSE
    prefix: SharedPrefix = NO_PREFIX
    seed: int = 0
    salt: int = 0

    def plan(self, number: int) -> tuple[Turn, ...]:
        """All turns of conversation `number`."""
        planned: list[Turn] = []
        context = 0
        for turn in range(self.turns.draw(self.seed, "turns", number)):
            system = [] if turn else self.prefix.words(self.seed, number)
            asks = self._question(number, turn) if turn else self._opening(number, len(system))
            context += len(system) + len(asks)
            reply = self.replies.draw(self.seed, "osl", number, turn)
            pause = self.think.draw(self.seed, number, turn) if turn else 0.0
            said = " ".join(asks), context, reply, pause, " ".join(system)
            planned.append(Turn(number, turn, *said))
            context += reply
        return tuple(planned)

    def stand_in(self, turn: Turn) -> str:
        """Words in place of a reply whose text is not kept, of its planned length.

        The server has computed other tokens there: its cache answers up to the question only.
        """
        return " ".join(_words(turn.output_tokens, self.seed, "reply", *_place(turn)))

    def _opening(self, number: int, system: int) -> list[str]:
        words = [*nonce(number, NONCE_WORDS), *nonce(self.salt, SALT_WORDS)]
        missing = self.first.draw(self.seed, "isl", number, 0) - system - len(words)
        return words + _words(missing, self.seed, "question", number, 0)

    def _question(self, number: int, turn: int) -> list[str]:
        tokens = self.following.draw(self.seed, "isl", number, turn)
        return _words(tokens, self.seed, "question", number, turn)


def messages(turns: Sequence[Turn], replies: Sequence[str]) -> tuple[Message, ...]:
    """The prompt of the last of `turns`: the system prompt, questions and replies in turn.

    ValueError unless every turn but the last has its reply.
    """
    if len(replies) != len(turns) - 1:
        raise ValueError(f"{len(turns)} turns and {len(replies)} replies")
    said = with_system(turns[0].system, (Message("user", turns[0].asks),))
    for turn, reply in zip(turns[1:], replies, strict=True):
        said += (Message("assistant", reply), Message("user", turn.asks))
    return said


def with_system(prefix: str, said: tuple[Message, ...]) -> tuple[Message, ...]:
    """`said` after a system prompt: its own, made longer, where it has one."""
    if not prefix:
        return said
    first = said[0]
    if first.role in ("system", "developer"):
        return (Message(first.role, f"{prefix} {first.text}"), *said[1:])
    return (Message("system", prefix), *said)


def joined(said: Sequence[Message]) -> str:
    """A chat as one text, for servers that complete."""
    return " ".join(message.text for message in said)


def block_words(
    hash_ids: Sequence[int], tokens: int, seed: int, number: int, block: int = MOONCAKE_BLOCK
) -> list[str]:
    """`tokens` words made of the blocks a trace names: equal ids, equal words.

    What the ids do not cover is request `number`'s own; a last block may be cut.
    """
    words: list[str] = []
    for name in hash_ids:
        if len(words) >= tokens:
            break
        words += _words(block, seed, "block", name)
    return words[:tokens] + _words(tokens - len(words), seed, "unique", number)


def _words(count: int, seed: int, purpose: str, *numbers: int) -> list[str]:
    if count <= 0:
        return []
    return random.Random(key(seed, purpose, *numbers)).choices(WORDS, k=count)


def _place(turn: Turn) -> tuple[int, int]:
    return turn.conversation, turn.number
