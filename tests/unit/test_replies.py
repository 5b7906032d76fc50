"""What is kept of words: as they were sent, beside the ids of their record."""

from loadgen.backends.base import Message, Request
from loadgen.replies import Replies
from loadgen.stopwatch import Facts, Ids

IDS = Ids("r", 2, 4, 3, 9)


class Source:
    """A source of one chat that counts what it is told."""

    def __init__(self, listens):
        self.listens = listens
        self.told = []

    def request(self, stage, agent, seq):
        return Request("Be brief. Why?", 5, messages=(Message("system", "Be brief."),))

    def answered(self, ids, request, facts):
        self.told.append((ids, facts.text))


def kept(*, chat, listens=False, facts=None):
    lines, source = [], Source(listens)
    replies = Replies(source, lines.append, chat=chat)
    request = replies.request(2, 3, 9)
    assert request.wants_text
    replies.answered(IDS, request, facts or Facts("ok", text="So."))
    return lines[0], source.told


def test_a_completion_is_kept_with_its_prompt():
    line, told = kept(chat=False)
    assert line == {"stage": 2, "agent": 3, "seq": 9, "prompt": "Be brief. Why?",
                    "outcome": "ok", "text": "So."}  # fmt: skip
    assert told == []


def test_a_chat_is_kept_with_its_messages_and_its_source_still_hears():
    line, told = kept(chat=True, listens=True)
    assert line["messages"] == [{"role": "system", "content": "Be brief."}]
    assert "prompt" not in line
    assert told == [(IDS, "So.")]


def test_a_failure_keeps_what_came():
    line, _ = kept(chat=True, facts=Facts("bad_stream", text="So"))
    assert (line["outcome"], line["text"]) == ("bad_stream", "So")
