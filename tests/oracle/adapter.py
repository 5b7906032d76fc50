"""From the kind of a golden case to one call of the analysis.

Each branch reaches its function through the module, converts what comes back to a dict, and
computes nothing: a golden case that passes here passes because of `analysis`.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from analysis import batching, capacity, queueing, samples
from analysis.fits import legacy, scaling

Inputs = dict[str, Any]


def _batch_birth_death(i: Inputs) -> dict[str, Any]:
    step = batching.StepTime(i["a_s"], i["c_s"], i["tokens"], i["max_batch"])
    return asdict(batching.batch_birth_death(i["lam"], step, i["cs2"]))


def _batch_mean_field(i: Inputs) -> dict[str, Any]:
    return batching.batch_mean_field(i["lam"], i["tokens"], i["a_s"], i["c_s"])


_KINDS = {
    "amdahl_efficiency": lambda i: asdict(scaling.amdahl_efficiency(**i)),
    "bandwidth_ratio": lambda i: {"ratio": capacity.bandwidth_ratio(**i)},
    "batch_birth_death": _batch_birth_death,
    "batch_mean_field": _batch_mean_field,
    "closed_mva": lambda i: queueing.closed_mva(**i),
    "cost_per_1m": lambda i: asdict(capacity.cost_per_1m(**i)),
    "counter_increase": lambda i: asdict(samples.counter_increase(**i)),
    "fit_amdahl": lambda i: asdict(legacy.legacy_fit_amdahl(**i)),
    "fit_hinge": lambda i: asdict(legacy.fit_hinge_efficiency(**i)),
    "fit_power_free": lambda i: asdict(legacy.legacy_fit_power_free(**i)),
    "histogram_quantile": lambda i: asdict(samples.histogram_quantile(**i)),
    "little_law": lambda i: {"l": queueing.little_law(**i)},
    "md1_mean": lambda i: asdict(queueing.md1_mean(**i)),
    "md1_percentiles": lambda i: queueing.md1_percentiles(**i),
    "md1_wait_cdf": lambda i: {"cdf": queueing.md1_wait_cdf(**i)},
    "mm1": lambda i: queueing.mm1(**i),
    "mmc": lambda i: queueing.mmc(**i),
    "service_time": lambda i: {"ms": 1000.0 * capacity.service_time(**i)},
    "workers_and_cost": lambda i: asdict(capacity.workers_and_cost(**i)),
}
KINDS = tuple(_KINDS)


def evaluate(kind: str, inputs: Inputs) -> dict[str, Any]:
    """The numbers of one case; KeyError(kind) for a kind that is not covered."""
    return _KINDS[kind](inputs)
