"""Conversations as a source of requests: every turn sends all that was said before it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import ClassVar

from loadgen.backends.base import Request
from loadgen.stopwatch import Facts, Ids
from loadgen.workload.conversations import Conversations, Turn, joined, messages
from loadgen.workload.prompts import numbered


@dataclass(slots=True)
class Talk:
    """One conversation under way: its planned turns, and what was answered to those asked."""

    turns: tuple[Turn, ...]
    replies: list[str | None] = field(default_factory=list)  # None: not known, or not yet
    failed: bool = False

    @property
    def over(self) -> bool:
        """Whether nothing more is asked in it."""
        return self.failed or len(self.replies) == len(self.turns)


@dataclass(slots=True)
class ConversationSource:
    """Each agent holds one conversation after the other.

    The context of a turn holds the server's own replies where they are known. Where one is not
    (an open loop asks on before it came), words of its planned length stand in. A turn that
    failed ends its conversation, and the agent begins another.
    """

    conversations: Conversations
    listens: ClassVar[bool] = True
    _talks: dict[tuple[int, int], Talk] = field(default_factory=dict)
    _begun: Counter[tuple[int, int]] = field(default_factory=Counter)
    # What is in flight: which turn of which conversation.
    _asked: dict[tuple[int, int, int], tuple[Talk, int]] = field(default_factory=dict)

    def request(self, stage: int, agent: int, seq: int) -> Request:
        talk = self._talk(stage, agent)
        place = len(talk.replies)
        turns = talk.turns[: place + 1]
        replies = [
            self.conversations.stand_in(turn) if reply is None else reply
            for turn, reply in zip(turns, talk.replies, strict=False)
        ]
        talk.replies.append(None)
        self._asked[stage, agent, seq] = talk, place
        said = messages(turns, replies)
        tokens, seed = turns[-1].output_tokens, numbered(stage, agent, seq) % 2**31
        return Request(joined(said), tokens, seed, said, wants_text=True)

    def answered(self, ids: Ids, request: Request, facts: Facts) -> None:  # noqa: ARG002 - the seam's
        """What was answered is part of the conversation from now on."""
        talk, place = self._asked.pop((ids.stage, ids.agent, ids.seq))
        if facts.outcome in ("ok", "truncated"):
            talk.replies[place] = facts.text
        else:
            talk.failed = True

    def _talk(self, stage: int, agent: int) -> Talk:
        """The conversation this agent is in."""
        talk = self._talks.get((stage, agent))
        if talk is None or talk.over:
            number = numbered(stage, agent, self._begun[stage, agent])
            self._begun[stage, agent] += 1
            talk = self._talks[stage, agent] = Talk(self.conversations.plan(number))
        return talk
