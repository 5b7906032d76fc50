"""A server that says, where another family was expected, which one it is.

Routes tell them apart: each family has a page that no other has. Asked only once something is
wrong, and only of a server that answers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from contract.errors import TargetError
from loadgen.backends.base import Target
from loadgen.backends.fields import entries, mapping, text
from loadgen.wire import ServerBackend
from loadgen.wire.server import PAGE_TIMEOUT

# Backend, its page and how that reads; the more particular first, as many speak OpenAI's protocol.
SIGNS: tuple[tuple[str, str, Callable[[Any], bool]], ...] = (
    (
        "llama-server",
        "/props",
        lambda page: bool({"default_generation_settings", "total_slots"} & mapping(page).keys()),
    ),
    ("tgi", "/info", lambda page: text(mapping(page).get("model_id")) is not None),
    ("ollama", "/api/version", lambda page: text(mapping(page).get("version")) is not None),
    (
        "vllm",
        "/v1/models",
        lambda page: any(card.get("owned_by") == "vllm" for card in _cards(page)),
    ),
    ("openai", "/v1/models", lambda page: any(text(card.get("id")) for card in _cards(page))),
)


# What any server of OpenAI's protocol will do for, once it lists models by it.
SPEAK_OPENAI = ("openai", "vllm")


class Answering(ServerBackend):
    """A server whose preflight names the backend to choose where it is another one's."""

    _answers = False

    async def open(self) -> Target:
        """As of any server; TargetError names the family that answers instead of this one."""
        try:
            return await super().open()
        except TargetError:
            if (other := await self._asked_anew()) is not None:
                raise other from None
            raise

    async def fetch(
        self, path: str, document: Any = None, timeout: float = PAGE_TIMEOUT
    ) -> tuple[int, Any]:
        """A page; remembers that something answered."""
        answer = await super().fetch(path, document, timeout)
        self._answers = True
        return answer

    async def other(self) -> TargetError | None:
        """The line for a server of another family; None where it is of this one, or unknown."""
        found = await self._family_there()
        if found in (None, self.name):
            return None
        return TargetError(
            f"{self.address} answers as {found} does, not as {self.name}: give --backend {found}"
        )

    async def _asked_anew(self) -> TargetError | None:
        """The same of a server whose preflight failed and closed it."""
        if not self._answers:
            return None
        self.connect()
        try:
            status, page = await self.fetch(self._survey.models_path)
            if self.name in SPEAK_OPENAI and self._survey.models(page):
                return None
            return await self.other() or self._no_list(status)
        except TargetError:
            return None  # it went away meanwhile: the first error says more
        finally:
            await self.close()

    def _no_list(self, status: int) -> TargetError | None:
        """The line where no model was given and none can be found out."""
        if status not in (404, 405) or self._model is not None:
            return None
        return TargetError(
            f"{self.address}{self._survey.models_path} answers HTTP {status}, no list of models: "
            "give the --base-url of a server, without a route, or name a model with --model"
        )

    async def _family_there(self) -> str | None:
        pages: dict[str, Any] = {}
        for name, path, reads in SIGNS:
            if path not in pages:
                status, page = await self.fetch(path)
                pages[path] = page if status == 200 else None
            if reads(pages[path]):
                return name
        return None


def _cards(page: Any) -> list[Any]:
    return list(entries(mapping(page).get("data")))
