"""The user's own fits as candidates, each on the hardware it was measured on."""

from __future__ import annotations

from analysis.planner.candidates import Asked, Candidate
from analysis.planner.catalog import Catalog
from analysis.planner.fitted import Entry
from analysis.planner.latency import Batch, Server, Slot
from analysis.planner.values import Value, derived


def own_candidates(catalog: Catalog, asked: Asked, entries: list[Entry]) -> list[Candidate]:
    """One candidate per entry that the backend and quantization filters let through."""
    return [
        _candidate(catalog, asked, entry)
        for entry in entries
        if _wanted(asked, entry) and not _other_size(catalog, asked, entry)
    ]


def _other_size(catalog: Catalog, asked: Asked, entry: Entry) -> bool:
    """The catalog knows the model, and it is not of the asked size."""
    model = entry.key[0]
    return model in catalog.names("models") and model not in catalog.models_of_size(asked.size)


def _wanted(asked: Asked, entry: Entry) -> bool:
    _, backend, _, quantization = (part.casefold() for part in entry.key)
    backends = [each.casefold() for each in asked.backends]
    quantizations = [each.casefold() for each in asked.quantizations]
    return (not backends or backend in backends) and (
        not quantizations or quantization in quantizations
    )


def _candidate(catalog: Catalog, asked: Asked, entry: Entry) -> Candidate:
    model, backend, hardware, quantization = entry.key
    stretch = _stretch(asked, entry)
    service = entry.coefficients["service_time"]
    batching = _is_batching(catalog, entry)
    slow, fast = (
        None if bound is None else _server(entry, bound * stretch, batching)
        for bound in (service.high, service.low)
    )
    speed, pace, peak = _speeds(entry, stretch)
    return Candidate(
        model=model,
        backend=backend,
        quantization=quantization,
        hardware=hardware,
        server=_server(entry, service.value * stretch, batching),
        speed=speed,
        pace=pace,
        peak_tokens=peak,
        output_tokens=_tokens(entry, stretch),
        hourly=_price(catalog, asked, hardware),
        quality=None,
        batch_limit=_whole(entry.domain_end) if batching else 1,
        domain=entry.domain_end,
        slow=slow,
        fast=fast,
        assumptions=_assumptions(asked, entry, stretch, batching),
        context=_context(entry, stretch),
        size_unknown=asked.size is not None and model not in catalog.names("models"),
        runs=entry.runs or service.source,
    )


def _stretch(asked: Asked, entry: Entry) -> float:
    """How much longer than the run's the asked output is; 1 where neither is known."""
    measured = entry.coefficients.get("output_tokens")
    return asked.output_tokens / measured.value if asked.tokens_given and measured else 1.0


def _tokens(entry: Entry, stretch: float) -> float | None:
    measured = entry.coefficients.get("output_tokens")
    return None if measured is None else measured.value * stretch


def _speeds(entry: Entry, stretch: float) -> tuple[Value, Value | None, Value | None]:
    """Requests/s at the end of the domain; tokens/s of one stream alone and at that end."""
    used = tuple(value for name, value in entry.coefficients.items() if name != "prompt_tokens")
    at_best = "measured" if stretch == 1.0 else "extrapolated"
    peak = _peak_rate(entry) / stretch
    speed = derived(peak, "requests/s", *used, at_best=at_best)
    tokens = _tokens(entry, stretch)
    if tokens is None:
        return speed, None, None
    alone = entry.coefficients["service_time"].value * stretch * _places(entry)
    pace, total = (
        derived(rate, "token/s", *used, at_best=at_best) for rate in (tokens / alone, tokens * peak)
    )
    return speed, pace, total


def _places(entry: Entry) -> float:
    """Service times a request takes alone: the hinge's M, 1 for every other law."""
    return entry.coefficients["hinge_m"].value if entry.law == "hinge" else 1.0


def _is_batching(catalog: Catalog, entry: Entry) -> bool:
    """Amdahl's law is a batching step, t(b) = S (1 + sigma (b - 1)), on an engine that batches."""
    continuous = catalog.engine(entry.key[1]).get("batching") == "continuous"
    return continuous and entry.law == "amdahl"


def _server(entry: Entry, service: float, batching: bool) -> Server:
    """The replica at one service time; alone, a request takes `_places` of them.

    A batch runs in requests, not in tokens: how many steps make one changes neither its capacity
    nor its latency, and so the length need not be known.
    """
    if not batching:
        return Slot(service, service * (_places(entry) - 1.0))
    sigma = entry.coefficients["amdahl_sigma"].value
    return Batch((1.0 - sigma) * service, sigma * service, 1.0, _whole(entry.domain_end))


def _whole(agents: float) -> int:
    return max(1, int(agents))


def _hinge(n: float, law: dict[str, float]) -> float:
    return min(n, law["hinge_m"]) / (law["hinge_m"] * law["service_time"])


def _amdahl(n: float, law: dict[str, float]) -> float:
    return law["throughput_n1"] * n / (1.0 + law["amdahl_sigma"] * (n - 1.0))


def _power(n: float, law: dict[str, float]) -> float:
    return float(law["throughput_n1"] * n ** (1.0 - law["power_alpha"]))


# X(N) in requests per second from the coefficients alone; one for every law a file may name.
THROUGHPUT = {"hinge": _hinge, "amdahl": _amdahl, "power": _power}


def _peak_rate(entry: Entry) -> float:
    """Requests per second of the law at the end of its domain."""
    law = {name: value.value for name, value in entry.coefficients.items()}
    return THROUGHPUT[entry.law](entry.domain_end, law)


def _price(catalog: Catalog, asked: Asked, hardware: str) -> Value | None:
    if asked.hourly is not None:
        return Value(asked.hourly, "USD/h", "prior", ("--hourly-usd",))
    return catalog.price(hardware)


def _context(entry: Entry, stretch: float) -> Value | None:
    prompt, output = (entry.coefficients.get(f"{kind}_tokens") for kind in ("prompt", "output"))
    if prompt is None or output is None:
        return None
    return derived(prompt.value + output.value * stretch, "token", prompt, output)


def _assumptions(asked: Asked, entry: Entry, stretch: float, batching: bool) -> tuple[str, ...]:
    said = []
    if "output_tokens" not in entry.coefficients:
        length = f", not scaled to {asked.output_tokens}" if asked.tokens_given else ""
        said.append(f"output tokens of the run unknown{length}: figures per request only")
    elif stretch != 1.0:
        measured = entry.coefficients["output_tokens"].value
        said.append(f"service time scaled from {measured:g} to {asked.output_tokens} output tokens")
    if _places(entry) < 1.0:
        said.append(
            "hinge_m below 1, which no fit gives: a request is done sooner than 1 / ceiling"
        )
    if entry.law != "hinge" and not batching:
        said.append(f"law {entry.law}: one request at a time assumed, batching ignored")
    return tuple(said)
