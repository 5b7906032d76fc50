"""A model server's time, told in steps. Pure: every instant comes from the caller.

A step makes one token for each sequence of the batch. With b sequences in it, a step lasts
t(b) = a + c·b plus the prefill of the prompts that enter with it; the next step begins at the
very instant at which it ends. So N sequences that never leave make N tokens every a + c·N.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from loadgen.fakes.prefixes import PrefixCache


@dataclass(frozen=True, slots=True)
class StepModel:
    """The law of a server's time and its limits; seconds and tokens.

    A step of b sequences lasts `step_seconds` + b · `sequence_seconds`, plus for each prompt
    that enters `prefill_seconds` + `prefill_token_seconds` per token it has to evaluate, times
    1 + `jitter` · u with u uniform in [-1, 1), seeded per step.

    `queue_limit` requests wait at most beside those in the `slots`. `kv_tokens` bounds the
    tokens held at once: a request enters when its longest possible length fits, or with
    `preempt` as soon as its prompt does; then the youngest goes back to the queue when the
    others outgrow the cache, and is evaluated anew. `idle_seconds` without a request unload the
    model (None: never); loading it takes `load_seconds`. `prefix_block` is the number of tokens
    in a block of the prefix cache (None: no cache).
    """

    step_seconds: float = 0.01
    sequence_seconds: float = 0.0
    prefill_seconds: float = 0.0
    prefill_token_seconds: float = 0.0
    slots: int = 8
    queue_limit: int | None = None
    kv_tokens: int | None = None
    preempt: bool = False
    load_seconds: float = 0.0
    loaded: bool = True
    idle_seconds: float | None = None
    prefix_block: int | None = None
    jitter: float = 0.0
    seed: int = 0

    def seconds(self, sequences: int, evaluated: Sequence[int], step: int) -> float:
        """How long step number `step` lasts; `evaluated` holds the tokens of each prefill."""
        decode = self.step_seconds + self.sequence_seconds * sequences
        prefill = self.prefill_seconds * len(evaluated)
        stretch = 1.0
        if self.jitter:
            stretch += self.jitter * random.Random(f"{self.seed}/{step}").uniform(-1, 1)
        return (decode + prefill + self.prefill_token_seconds * sum(evaluated)) * stretch


def _nothing() -> None:
    """Nobody to tell."""


def _never() -> bool:
    return False


def _silent(_made: int) -> Sequence[str]:
    return ()


@dataclass(slots=True, eq=False)
class Generation:
    """One request's way through the model; instants in the caller's clock, None until reached.

    It makes `output` tokens; 0 only loads the model. `told` is called whenever something
    changed, `gone` says that nobody waits for it any more.
    """

    prompt: Sequence[str]
    output: int
    submitted: float
    runner: str = ""
    budget: int | None = None  # tokens it was allowed to make: what a reservation has to cover
    keep_alive: float | None = None  # seconds the model stays loaded after it; None: for ever
    reuse: bool = True  # take what the prefix cache holds
    said: Callable[[int], Sequence[str]] = _silent  # its first tokens, for who goes on from them
    told: Callable[[], None] = _nothing
    gone: Callable[[], bool] = _never
    loaded: float | None = None  # the model was there for it
    start: float | None = None  # it entered the batch
    first: float | None = None
    last: float | None = None
    made: int = 0
    cached: int = 0  # prompt tokens found in the prefix cache
    preemptions: int = 0
    running: bool = False
    over: bool = False  # made all of it, or dropped

    @property
    def reserve(self) -> int:
        """Tokens it can come to hold."""
        return len(self.prompt) + max(self.output, self.budget or 0)


class Steps:
    """The batch and the queue before it: FIFO, work conserving, nobody overtakes."""

    def __init__(self, model: StepModel, runner: str = "", now: float = 0.0) -> None:
        self.model = model
        self.queue: deque[Generation] = deque()
        self.batch: list[Generation] = []
        self.steps = 0
        self.loads = 0
        self.paused = False
        self.cache = PrefixCache(model.prefix_block)
        self._runner: str | None = runner if model.loaded else None
        self._ready = now
        self._not_before = now
        self._expires = None if model.idle_seconds is None else now + model.idle_seconds
        self._stepping: list[Generation] = []
        self._end = now
        self._loading = False
        self._unloading = False

    @property
    def expires(self) -> float | None:
        """When an idle model is unloaded; None: never."""
        return self._expires

    @property
    def in_system(self) -> int:
        """Requests in the batch and in the queue."""
        return len(self.batch) + len(self.queue)

    def resident(self, now: float) -> str | None:
        """What is loaded, or being loaded, at `now`."""
        idle = not self.batch and not self.queue and not self._loading
        expired = self._unloading or (self._expires is not None and now >= self._expires)
        return None if idle and expired else self._runner

    def full(self) -> bool:
        """Whether the queue takes nobody more."""
        limit = self.model.queue_limit
        return limit is not None and self.in_system >= self.model.slots + limit

    def is_ready(self, runner: str, now: float) -> bool:
        """Whether that model is loaded, so that nobody waits for it."""
        return self.resident(now) == runner and now >= self._ready

    def submit(self, one: Generation) -> None:
        """It stands in the queue from `one.submitted`; what is loaded already needs no step."""
        self._runner = self.resident(one.submitted)
        if one.output == 0 and self.is_ready(one.runner, one.submitted):
            one.loaded = one.last = one.submitted
            self._end_of(one, one.submitted)
            return
        self.queue.append(one)
        self._hand_out()

    def drop(self, one: Generation, now: float) -> None:
        """Nobody waits for it any more; its place is free from the next step on."""
        if one.over:
            return
        if one.running:
            self.batch.remove(one)
        else:
            self.queue.remove(one)
        self._end_of(one, now)

    def unload(self) -> None:
        """Free the model as soon as it is idle."""
        self._unloading = True

    def pause(self) -> None:
        """Begin no further step until `resume`."""
        self.paused = True

    def resume(self, now: float) -> None:
        """Begin steps again, none before `now`."""
        self.paused, self._not_before = False, now

    def next_start(self) -> float | None:
        """When the next step can begin, or None while there is nothing to do."""
        if self.paused or not (self.batch or self.queue):
            return None
        free = max(self._end, self._not_before)
        return free if self.batch else max(free, self.queue[0].submitted)

    def begin(self, now: float) -> float:
        """Begin a step at `now`, which `next_start` named; returns the instant of its end."""
        self._make_room()
        entering = self._admit(now)
        self._stepping = list(self.batch)
        if not self.batch:
            return self._load(now)
        evaluated = [self._evaluates(one) for one in entering]
        self._end = now + self.model.seconds(len(self.batch), evaluated, self.steps)
        self.steps += 1
        return self._end

    def finish(self) -> list[Generation]:
        """End the step begun last; returns those who got a token, or the model, by it."""
        if self._loading:
            self._loading = False
            waited = [g for g in self.queue if g.output == 0 and g.runner == self._runner]
            for one in waited:
                one.last = self._end
                self.drop(one, self._end)
            return waited
        got = [one for one in self._stepping if one.running]
        for one in got:
            self._take_token(one)
        self.batch = [one for one in self.batch if one.running]
        for one in got:
            if not one.running:
                self._end_of(one, self._end)
                self._hold_answer(one)
        return got

    def _take_token(self, one: Generation) -> None:
        one.made += 1
        one.last = self._end
        if one.first is None:
            one.first = self._end
            self.cache.add(one.prompt)
        one.running = one.made < one.output

    def _hold_answer(self, one: Generation) -> None:
        """Who goes on from it finds all but its last token, which was never read."""
        if self.model.prefix_block is not None:
            self.cache.add([*one.prompt, *one.said(one.made - 1)])

    def _end_of(self, one: Generation, now: float) -> None:
        one.over, one.running = True, False
        self._expires = None if one.keep_alive is None else now + one.keep_alive

    def _hand_out(self) -> None:
        for one in self.queue:
            if one.runner != self._runner:
                break
            if one.loaded is None:
                one.loaded = max(self._ready, one.submitted)

    def _load(self, now: float) -> float:
        """The head of the queue needs a model that is not there."""
        self._runner = self.queue[0].runner
        self._ready = self._end = now + self.model.load_seconds
        self._loading, self._unloading = True, False
        self.loads += 1
        self.cache.clear()
        self._hand_out()
        return self._end

    def _size(self, one: Generation) -> int:
        """Tokens of the cache it claims in the step about to begin."""
        return len(one.prompt) + one.made + 1 if self.model.preempt else one.reserve

    def _fits(self, one: Generation) -> bool:
        limit = self.model.kv_tokens
        if limit is None or not self.batch:  # alone it enters, else it would wait for ever
            return True
        return sum(map(self._size, self.batch)) + self._size(one) <= limit

    def _make_room(self) -> None:
        limit = self.model.kv_tokens
        if limit is None:
            return
        while len(self.batch) > 1 and sum(map(self._size, self.batch)) > limit:
            youngest = self.batch.pop()
            youngest.running = False
            youngest.preemptions += 1
            self.queue.appendleft(youngest)

    def _admit(self, now: float) -> list[Generation]:
        entering: list[Generation] = []
        while self.queue and len(self.batch) < self.model.slots:
            head = self.queue[0]
            if head.submitted > now or head.runner != self._runner or not self._fits(head):
                break
            self.queue.popleft()
            head.running = True
            if head.start is None:
                head.start, head.cached = now, self._covers(head)
            self.batch.append(head)
            entering.append(head)
        return entering

    def _evaluates(self, one: Generation) -> int:
        """Tokens of its prefill: what a preemption threw away is evaluated again."""
        return len(one.prompt) + one.made - self._covers(one)

    def _covers(self, one: Generation) -> int:
        return self.cache.covers(one.prompt) if one.reuse else 0
