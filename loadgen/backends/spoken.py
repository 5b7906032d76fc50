"""Which reads of a stream completed generated tokens, reasoning told from answers. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Spoken:
    """What was said so far: the read of each chunk with content.

    `answer` is the read of the first answer, where reasoning came before it.
    """

    content: list[int] = field(default_factory=list)
    reasoned: bool = False
    answered: bool = False
    answer: int | None = None

    def spoken(self, read: int, *, answers: bool, reasons: bool = False) -> None:
        """Read number `read` completed a chunk that holds one, both, or neither."""
        if reasons or answers:
            self.content.append(read)
        self.reasoned = self.reasoned or reasons
        if answers and not self.answered:
            self.answered, self.answer = True, read if self.reasoned else None
