"""A server backend together with its family's own pages: details, presence, cold starts, cuts.

What its requests come to is the wire client's business; this adds what only other pages or the
request itself can tell.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from contract.errors import TargetError
from contract.records import ServerFacts
from loadgen.backends.answering import Answering
from loadgen.backends.base import Dialect, Landing, Request, Target, WireResponse
from loadgen.backends.families import Family, Page
from loadgen.stopwatch import Facts, Stopwatch
from loadgen.wire import Prepared, ServerBackend, WireOptions

if TYPE_CHECKING:
    from loadgen.engine import StageRun
    from loadgen.lane.core import Lane

UNLOAD_SECONDS, UNLOAD_STEP = 60.0, 0.05
# A prompt of which the server counted less than this share of its words was cut: a token never
# covers two words, so an uncut prompt counts at least as many tokens as words.
LEAST_COUNTED = 0.9


class Surveyed(Answering):
    """A server of a known family. Implements `Backend`, and can tell and undo a load."""

    def __init__(
        self,
        dialect: Dialect,
        base_url: str,
        model: str | None = None,
        *,
        family: Family,
        start: str = "the server",
        options: WireOptions | None = None,
    ) -> None:
        super().__init__(
            dialect, base_url, model, start=start, survey=family.survey, options=options
        )
        self._family = family
        self._served = ""
        self._target: Target | None = None
        self._cold = False

    async def open(self) -> Target:
        """As of any server, with what the family's pages add; asks whether the model is in
        memory, so that a first request that loads it is known for one."""
        target = await super().open()
        try:
            self._served = target.model
            await self._is_of_the_family()
            target = await self.examined(target)
            loaded = await self.loaded()
        except BaseException:
            await self.close()
            raise
        noted = {} if loaded is None else {"loaded_before": loaded}
        self._target = replace(target, notes={**target.notes, **noted})
        return self._target

    async def _is_of_the_family(self) -> None:
        """TargetError where a list of models that others keep too is all that agrees."""
        telling = self._family.telling
        if telling is not None and await self._document(telling) is None:
            other = await self.other()
            if other is not None:
                raise other

    def join(self, target: Target) -> None:
        """As of any server; the other process asked whether the model was in memory."""
        super().join(target)
        self._served = target.model
        self._cold = target.notes.get("loaded_before") is False

    async def examined(self, target: Target) -> Target:
        """`target` with what the pages say now; TargetError when they contradict it."""
        documents = [await self._document(page) for page in self._family.pages(target.model)]
        return self._family.describe(target, documents)

    async def loaded(self) -> bool | None:
        """Whether the model is in memory; None when the server does not say.

        After a False, requests count as cold until one of them has ended ok.
        """
        if self._family.presence is None:
            return None
        document = await self._document(self._family.presence)
        answer = self._family.present(document, self._served)
        self._cold = answer is False
        return answer

    async def unload(self) -> None:
        """Put the model out of memory and wait until the server says that it is gone.

        TargetError when this server cannot, refuses, or does not within UNLOAD_SECONDS.
        """
        if self._family.unloading is None:
            raise TargetError(f"{self.name} has no request that unloads a model")
        page = self._family.unloading(self._served)
        status, _ = await self.fetch(page.path, page.document)
        if status != 200:
            raise TargetError(f"unloading '{self._served}': HTTP {status}")
        for _ in range(round(UNLOAD_SECONDS / UNLOAD_STEP)):
            if await self.loaded() is False:
                return
            await asyncio.sleep(UNLOAD_STEP)
        raise TargetError(f"'{self._served}' is still in memory after {UNLOAD_SECONDS:g} s")

    async def reset_cache(self) -> str | None:
        """Empty the server's prefix cache; in words why not, where it did not do so."""
        reset = self._family.reset
        if reset is None or self._target is None:
            return f"{self.name} has no request that empties its prefix cache"
        for page in reset.pages(self._target):
            try:
                status, _ = await self.fetch(page.path, page.document)
            except TargetError as error:
                return str(error)
            if status != 200:
                where = f"{self.address}{page.path}"
                return f"HTTP {status} from {where}; it wants a server with {reset.wants}"
        return None

    def begin(
        self, prepared: Prepared, watch: Stopwatch, timeout: float, landing: Landing
    ) -> Callable[[], object]:
        """Start one exchange; of one sent to a model that is not in memory the load is noted."""
        return super().begin(
            prepared, watch, timeout, _Cold(self, watch, landing) if self._cold else landing
        )

    def lane(self, stage: StageRun) -> Lane | None:
        """None as well while the model is not in memory."""
        return None if self._cold else super().lane(stage)

    def facts(self, request: Request, response: WireResponse, watch: Stopwatch) -> Facts:
        """What an exchange came to, with a cut prompt noted where there is evidence of it."""
        return with_cut_noted(super().facts(request, response, watch), request)

    def answered(self, outcome: str) -> None:
        """A request sent to a cold model has ended: with an answer the model is there."""
        self._cold = self._cold and outcome != "ok"

    async def _document(self, page: Page) -> Any:
        """A page's document; None where there is no such page."""
        try:
            status, document = await self.fetch(page.path, page.document)
        except TargetError:
            return None  # the server answered before: what its pages add is only nice to know
        return document if status == 200 else None


class _Cold:
    """Where a request lands that was sent to a cold model."""

    def __init__(self, backend: Surveyed, watch: Stopwatch, landing: Landing) -> None:
        self._backend = backend
        self._watch = watch
        self._landing = landing

    def landed(self, facts: Facts) -> None:
        self._backend.answered(facts.outcome)
        self._landing.landed(with_load(facts, self._watch))

    def failed(self, error: BaseException) -> None:
        self._landing.failed(error)


async def reset_caches(servers: Iterable[ServerBackend]) -> str | None:
    """Empty the prefix caches of all of them; in words why not, where one was not emptied."""
    able = [server for server in servers if isinstance(server, Surveyed)]
    found = await asyncio.gather(*(server.reset_cache() for server in able))
    return "; ".join(why for why in found if why is not None) or None


def with_load(facts: Facts, watch: Stopwatch) -> Facts:
    """The facts of a request sent to a model that was not in memory: its `load` in seconds.

    What the server reports itself stays. Otherwise it is what passed from sending to the first
    token beyond the prefill reported; waiting in a queue cannot be told from it, so that `queue`
    becomes None.
    """
    server = facts.server or ServerFacts()
    marks = watch.marks if facts.content is None else [watch.marks[i] for i in facts.content]
    if server.load is not None or watch.sent_at is None or not len(marks):
        return facts
    load = max(0.0, marks[0] - watch.sent_at - (server.prefill or 0.0))
    return replace(facts, server=replace(server, load=load, queue=None))


def with_cut_noted(facts: Facts, request: Request) -> Facts:
    """The facts with a note when the server counted fewer tokens than the prompt has words."""
    if facts.outcome != "ok" or not facts.prompt_tokens or facts.error is not None:
        return facts
    if 2 * facts.prompt_tokens > len(request.prompt):
        return facts  # a word and its space are two characters at least: no need to count
    words = len(request.prompt.split())
    if facts.prompt_tokens >= LEAST_COUNTED * words:
        return facts
    cut = f"the server cut the prompt: it counted {facts.prompt_tokens} tokens of {words} words"
    return replace(facts, error=cut)
