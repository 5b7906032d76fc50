"""Prompts from files, read as a stream: ShareGPT, JSONL, plain text.

    sharegpt  a JSON array of {"conversations": [{"from": "human" | "gpt", "value"}, …]}: the
              first human turn is the prompt, the reply after it says how long an answer is
    jsonl     {"prompt"} or {"messages": [{"role", "content"}, …]}, optionally "max_tokens"
    text      one prompt a line

Repeated prompts are answered from a server's prefix cache: the nonce that `prompts` puts in
front keeps every request unique however often a file is read again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from contract.errors import ConfigError, DataError, nearest
from loadgen.backends.base import Message
from loadgen.workload.json_array import elements
from loadgen.workload.line_files import json_lines, opened, read_field, tokens

ROLES = ("system", "developer", "user", "assistant", "tool")
_ASKING, _ANSWERING = ("human", "user"), ("gpt", "assistant", "chatgpt", "bing", "bard")


@dataclass(frozen=True, slots=True)
class Sample:
    """What one entry asks: a chat of one message at least, and how much to generate.

    `output_tokens` is the file's own limit; `reply` the recorded answer, whose length in tokens
    is the limit where a tokenizer can tell. None where the file says nothing.
    """

    messages: tuple[Message, ...]
    output_tokens: int | None = None
    reply: str | None = None

    @property
    def prompt(self) -> str:
        """The messages as one text, for servers that complete instead of chatting."""
        return "\n\n".join(message.text for message in self.messages)


def read_dataset(path: Path, kind: str | None = None) -> Iterator[Sample]:
    """The samples of a file in its order, one at a time.

    `kind` is one of KINDS; None goes by the suffix (.json, .jsonl, .txt). Errors come while
    iterating: ConfigError for a wrong kind or a missing file, DataError with file, line, field.
    """
    name = kind or SUFFIXES.get(path.suffix.lower(), "")
    if name not in KINDS:
        given = f"'{name}' given" if kind else f"'{path.name}' does not tell by its suffix"
        hint = nearest(name, KINDS) if kind else ""
        raise ConfigError(f"--dataset-type: {given}, allowed: {', '.join(KINDS)}{hint}")
    found = False
    with opened(path) as file:
        for sample in KINDS[name](file, path):
            found = True
            yield sample
    if not found:
        raise DataError(f"{path}: no prompt in it")


def _text(file: TextIO, _path: Path) -> Iterator[Sample]:
    for line in file:
        if text := line.strip():
            yield Sample((Message("user", text),))


def _jsonl(file: TextIO, path: Path) -> Iterator[Sample]:
    for number, entry in json_lines(file, path):
        where = f"{path}:{number}"
        if ("prompt" in entry) == ("messages" in entry):
            raise DataError(f"{where}: one of the fields 'prompt' and 'messages' is wanted")
        if "prompt" in entry:
            text = read_field(entry, "prompt", _words, where, "a text that is not empty")
            messages: tuple[Message, ...] = (Message("user", text),)
        else:
            messages = read_field(entry, "messages", _messages, where, WANTED_MESSAGES)
        most = None
        if entry.get("max_tokens") is not None:
            most = read_field(entry, "max_tokens", _at_least_one, where, "a whole number above 0")
        yield Sample(messages, most)


def _sharegpt(file: TextIO, path: Path) -> Iterator[Sample]:
    for number, entry in elements(file, path):
        where = f"{path}:{number}"
        if not isinstance(entry, dict):
            raise DataError(f"{where}: an object with 'conversations' is wanted")
        turns = read_field(entry, "conversations", _turns, where, WANTED_TURNS)
        # Entries that do not open with a question and its answer ask nothing.
        if len(turns) >= 2 and turns[0][0] in _ASKING and turns[1][0] in _ANSWERING:
            (_, question), (_, answer) = turns[:2]
            if question.strip() and answer.strip():
                yield Sample((Message("user", question),), reply=answer)


KINDS: dict[str, Callable[[TextIO, Path], Iterator[Sample]]] = {
    "sharegpt": _sharegpt,
    "jsonl": _jsonl,
    "text": _text,
}
SUFFIXES = {".json": "sharegpt", ".jsonl": "jsonl", ".txt": "text"}
WANTED_MESSAGES = (
    f"a list of role ({', '.join(ROLES)}) and content (text: images and sound are out of scope)"
)
WANTED_TURNS = "a list of 'from' and 'value'"


def _words(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(value)
    return value


def _at_least_one(value: Any) -> int:
    number = tokens(value)
    if number < 1:
        raise ValueError(value)
    return number


def _messages(value: Any) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value:
        raise ValueError(value)
    return tuple(_message(entry) for entry in value)


def _message(entry: Mapping[str, Any]) -> Message:
    role = entry.get("role") if isinstance(entry, dict) else None
    if role not in ROLES:
        raise ValueError(entry)
    return Message(role, _words(entry.get("content")))


def _turns(value: Any) -> list[tuple[str, str]]:
    if not isinstance(value, list):
        raise ValueError(value)
    return [(_named(turn, "from"), _named(turn, "value")) for turn in value]


def _named(turn: Any, name: str) -> str:
    if not isinstance(turn, dict) or not isinstance(turn.get(name), str):
        raise ValueError(turn)
    return str(turn[name])
