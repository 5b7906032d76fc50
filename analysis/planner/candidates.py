"""What could be bought: every (model, engine, quantization) the catalog can speak for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from analysis.planner.catalog import Catalog
from analysis.planner.latency import Batch, Server, Slot, quantized_step
from analysis.planner.memory import GIB, Footprint, footprint
from analysis.planner.values import Value, derived


class Asked(NamedTuple):
    """The question. Rate in requests/s, budget in USD/month, SLO in seconds at p95.

    `tokens_given` tells whether --output-tokens was said or is the default.
    """

    rate: float
    hardware: str
    size: str | None = None
    budget: float | None = None
    slo: float | None = None
    quality: float | None = None
    output_tokens: int = 128
    tokens_given: bool = False
    prompt_tokens: int = 1920
    backends: tuple[str, ...] = ()
    quantizations: tuple[str, ...] = ()
    hourly: float | None = None
    include_disputed: bool = False

    @property
    def context(self) -> int:
        """Tokens held per sequence."""
        return self.prompt_tokens + self.output_tokens


class Candidate(NamedTuple):
    """One thing that could be bought, before it is asked to carry any load.

    `server` is None where memory has no room for a single sequence. `slow` and `fast` are the
    same replica at the ends of the fit's interval. `speed` is the number that latency and cost
    rest on; `pace` (one stream alone) and `peak_tokens` are None where nobody counted tokens.
    `size_unknown`: a size was asked for, and nobody knows whether this model has it.
    `assumptions` say what the figures rest on beside measurements of this very combination;
    `domain` is the most sequences it was seen with.
    """

    model: str
    backend: str
    quantization: str
    hardware: str
    server: Server | None
    speed: Value
    pace: Value | None
    peak_tokens: Value | None
    output_tokens: float | None
    hourly: Value | None
    quality: Value | None
    memory: Value | None = None
    memory_limit: Value | None = None
    batch_limit: int = 1
    domain: float = float("inf")
    slow: Server | None = None
    fast: Server | None = None
    assumptions: tuple[str, ...] = ()
    context: Value | None = None
    size_unknown: bool = False
    runs: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """How messages call it."""
        return f"{self.model} {self.quantization} on {self.backend}, {self.hardware}"


class Combination(NamedTuple):
    """A model, an engine and a quantization."""

    model: str
    backend: str
    quantization: str


def combinations(catalog: Catalog, asked: Asked) -> Iterator[Combination]:
    """Everything the filters leave, whether or not something is known about it."""
    for model in catalog.models_of_size(asked.size):
        for backend in asked.backends or tuple(catalog.names("engines")):
            runnable = catalog.engine(backend).get("quantizations", ())
            for quantization in asked.quantizations or tuple(runnable):
                if quantization in runnable:
                    yield Combination(model, backend, quantization)


def left_out(catalog: Catalog, asked: Asked) -> list[dict[str, str]]:
    """Disputed throughputs that the filters would have let in, and why each is disputed."""
    if asked.include_disputed:
        return []
    found: dict[str, str] = {}
    for each in combinations(catalog, asked):
        measured = _single(catalog, each)
        if measured is not None and measured.disputed:
            found[f"{each.model} on {each.backend}"] = measured.disputed
    return [{"what": name, "why": why} for name, why in found.items()]


def catalog_candidates(catalog: Catalog, asked: Asked) -> list[Candidate]:
    """Candidates on the asked hardware, from the packaged tables."""
    found = (_candidate(catalog, asked, each) for each in combinations(catalog, asked))
    return [candidate for candidate in found if candidate is not None]


def _single(catalog: Catalog, each: Combination) -> Value | None:
    """Measured tokens per second of one sequence in FP16, or None."""
    key = f"{each.model}/{each.backend}/FP16"
    if key not in catalog.tables["throughput"]:
        return None
    return catalog.value("throughput", key, "tokens_per_second")


def _candidate(catalog: Catalog, asked: Asked, each: Combination) -> Candidate | None:
    engine = catalog.engine(each.backend)
    if engine["device"] == "cpu":
        return _on_cpu(catalog, asked, each)
    build = _batching if engine["batching"] == "continuous" else _one_at_a_time
    candidate = build(catalog, asked, each)
    return None if candidate is None else _with_memory(catalog, asked, candidate)


def _plain(catalog: Catalog, asked: Asked, each: Combination, pace: Value) -> Candidate:
    """A one-slot candidate at `pace` tokens per second."""
    return Candidate(
        *each,
        hardware=asked.hardware,
        server=Slot(asked.output_tokens / pace.value),
        speed=pace,
        pace=pace,
        peak_tokens=pace,
        output_tokens=asked.output_tokens,
        hourly=_price(catalog, asked),
        quality=catalog.quality(each.model, each.quantization),
    )


def _price(catalog: Catalog, asked: Asked) -> Value | None:
    return catalog.price(asked.hardware)


def _on_cpu(catalog: Catalog, asked: Asked, each: Combination) -> Candidate | None:
    """A CPU's speed says nothing about other machines: only where it was measured."""
    pace = _single(catalog, each)
    if pace is None or asked.hardware != catalog.reference:
        return None
    return _plain(catalog, asked, each, pace)


def _one_at_a_time(catalog: Catalog, asked: Asked, each: Combination) -> Candidate | None:
    """An engine with one slot. A disputed row is used as printed or not at all: its weights are
    already 4-bit, so no quantization speeds it up again."""
    measured = _single(catalog, each)
    if measured is None:
        return None
    if measured.disputed and (not asked.include_disputed or each.quantization != "FP16"):
        return None
    ratio = catalog.speed_ratio(asked.hardware, asked.include_disputed)
    speedup = catalog.value("quantizations", each.quantization, "speedup")
    factors = _relevant(ratio, speedup)
    pace = derived(measured.value * ratio.value * speedup.value, "token/s", measured, *factors)
    disputes = (f"disputed: {measured.disputed}",) if measured.disputed else ()
    return _plain(catalog, asked, each, pace)._replace(
        assumptions=(*disputes, *_scaled(catalog, ratio), *_sped_up(each, speedup)),
    )


def _batching(catalog: Catalog, asked: Asked, each: Combination) -> Candidate | None:
    """Continuous batching by its step time, estimated from the size where it was not fitted.

    None for an engine of which no step time is known at all.
    """
    if not _step_times(catalog, each.backend):
        return None
    key = f"{each.model}/{each.backend}"
    fitted = key in catalog.tables["step_time"]
    step = _fitted_step(catalog, key) if fitted else _step_by_size(catalog, each)
    ratio = catalog.speed_ratio(asked.hardware, asked.include_disputed)
    speedup = catalog.value("quantizations", each.quantization, "speedup")
    fixed, share = (part.value / 1000.0 / ratio.value for part in step)
    fixed = quantized_step(fixed, share, speedup.value)
    pace = derived(1.0 / (fixed + share), "token/s", *step, *_relevant(ratio, speedup))
    limit = int(catalog.value("engines", each.backend, "max_batch").value)
    by_size = () if fitted else (f"step time of {each.model} estimated from its size",)
    return _plain(catalog, asked, each, pace)._replace(
        server=Batch(fixed, share, float(asked.output_tokens), limit),
        batch_limit=limit,
        domain=float(catalog.tables["step_time_measured_up_to"]),
        assumptions=(*by_size, *_scaled(catalog, ratio), *_sped_up(each, speedup)),
    )


def _fitted_step(catalog: Catalog, key: str) -> tuple[Value, Value]:
    fixed, share = (catalog.value("step_time", key, f) for f in ("fixed", "per_sequence"))
    return fixed, share


def _step_times(catalog: Catalog, backend: str) -> list[str]:
    return [key for key in catalog.names("step_time") if key.endswith(f"/{backend}")]


def _step_by_size(catalog: Catalog, each: Combination) -> tuple[Value, Value]:
    """Both parts as straight lines in the parameter count, through the engine's fitted models.

    A model smaller than all of them is taken to be as slow as the smallest: what a step costs
    beside reading weights does not shrink with the model.
    """
    rows = _step_times(catalog, each.backend)
    sizes = [catalog.value("models", key.split("/")[0], "params").value for key in rows]
    at = catalog.value("models", each.model, "params")

    def estimate(field: str) -> Value:
        known = [catalog.value("step_time", key, field) for key in rows]
        value = line_at(sizes, [each.value for each in known], max(at.value, min(sizes)))
        return derived(value, "ms", at, *known, at_best="extrapolated")

    return estimate("fixed"), estimate("per_sequence")


def line_at(x: list[float], y: list[float], where: float) -> float:
    """The least-squares line through (x, y), evaluated at `where`."""
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    spread = sum((each - mean_x) ** 2 for each in x)
    slope = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / spread
    return mean_y + slope * (where - mean_x)


def _relevant(ratio: Value, speedup: Value) -> tuple[Value, ...]:
    """The factors that are not 1, as only those lend a figure their class."""
    return tuple(each for each in (ratio, speedup) if each.value != 1.0)


def _scaled(catalog: Catalog, ratio: Value) -> tuple[str, ...]:
    if ratio.basis == "measured":
        return ()
    return (f"speed scaled from the {catalog.reference} by bandwidth, x{ratio.value:.2f}",)


def _sped_up(each: Combination, speedup: Value) -> tuple[str, ...]:
    if speedup.value == 1.0:
        return ()
    return (f"{each.quantization} taken as {speedup.value:g}x FP16, a prior",)


def _with_memory(catalog: Catalog, asked: Asked, candidate: Candidate) -> Candidate:
    """The candidate with the batch its memory has room for; no server where not even one fits."""
    held = footprint(
        catalog, candidate.model, candidate.quantization, candidate.backend, asked.context
    )
    capacity = catalog.value("hardware", asked.hardware, "memory")
    room = held.room_for(capacity.value * GIB)
    limit = min(candidate.batch_limit, room)
    server: Server | None = candidate.server if room else None
    if room and isinstance(candidate.server, Batch):
        server = candidate.server._replace(limit=limit)
    return candidate._replace(
        server=server,
        batch_limit=limit,
        memory=_need(held),
        memory_limit=derived(capacity.value * GIB, "byte", capacity),
        peak_tokens=_peak(candidate, server, asked.output_tokens),
    )


def _need(held: Footprint) -> Value:
    """Bytes with one sequence in flight: expected, and the upper bound the gate looks at."""
    need = derived(held.fixed + held.per_sequence, "byte", *held.inputs)
    return need._replace(high=held.upper(1))


def _peak(candidate: Candidate, server: Server | None, output_tokens: int) -> Value | None:
    if server is None:
        return candidate.peak_tokens
    beyond = isinstance(server, Batch) and server.limit > candidate.domain
    return derived(
        server.capacity * output_tokens,
        "token/s",
        candidate.speed,
        at_best="extrapolated" if beyond else "measured",
    )
