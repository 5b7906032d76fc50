"""What was asked and answered, kept word for word: `replies.jsonl` beside the records."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

from loadgen.backends.base import Request, Tokenizer
from loadgen.config import RunConfig
from loadgen.engine import Source
from loadgen.stopwatch import Facts, Ids
from loadgen.workload.build import source_of

Append = Callable[[dict[str, Any]], None]


def source_for(config: RunConfig, run: str, tokenizer: Tokenizer | None, append: Append) -> Source:
    """Where the requests of a run come from, in any of its processes; their words are kept
    where that is wanted. ConfigError or DataError name a bad file."""
    source = source_of(config, zlib.crc32(run.encode()), tokenizer)
    if not config.save_text:
        return source
    return Replies(source, append, chat=getattr(config.backend, "endpoint", None) == "chat")


class Replies:
    """A source of requests whose words are kept: hands `append` one document as each ends.

    With `chat` the messages stand in it, as they were sent, otherwise the prompt.
    """

    def __init__(self, source: Source, append: Append, *, chat: bool) -> None:
        self._source = source
        self._append = append
        self._chat = chat

    @property
    def listens(self) -> bool:
        """As the source it stands for."""
        return self._source.listens

    def request(self, stage: int, agent: int, seq: int) -> Request:
        """That source's request, its reply's text wanted."""
        request = self._source.request(stage, agent, seq)
        request.wants_text = True
        return request

    def answered(self, ids: Ids, request: Request, facts: Facts) -> None:
        """Keep what was said, and pass it on. DataError when the disk takes no more."""
        document: dict[str, Any] = {"stage": ids.stage, "agent": ids.agent, "seq": ids.seq}
        if self._chat:
            said = [{"role": role, "content": text} for role, text in request.chat]
            document["messages"] = said
        else:
            document["prompt"] = request.prompt
        self._append({**document, "outcome": facts.outcome, "text": facts.text})
        if self._source.listens:
            self._source.answered(ids, request, facts)
