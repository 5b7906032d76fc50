"""What stands in no file and in no message, though a server may say it back to us. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import orjson

# Characters. A shorter one is a placeholder such as EMPTY, and a word like any other.
FEWEST = 8


class Secrets:
    """Secrets by name. Hidden, one reads as its name in brackets, also where JSON escaped it."""

    def __init__(self, named: Mapping[str, str | None]) -> None:
        self._shown = {
            spelling: f"[{name}]"
            for name, secret in named.items()
            if secret is not None and len(secret) >= FEWEST
            for spelling in _spellings(secret)
        }

    def __bool__(self) -> bool:
        return bool(self._shown)

    def hide(self, text: str) -> str:
        """`text` without them."""
        for spelling, shown in self._shown.items():
            text = text.replace(spelling, shown)
        return text

    def hide_in(self, body: bytes) -> bytes:
        """The same of bytes."""
        for spelling, shown in self._shown.items():
            body = body.replace(spelling.encode(), shown.encode())
        return body


def _spellings(secret: str) -> tuple[str, ...]:
    """As it is, as a JSON text, and as one whose slashes were escaped as well."""
    escaped = orjson.dumps(secret).decode()[1:-1]
    return secret, escaped, escaped.replace("/", "\\/")
