"""THE metric table: every series the programs export, in one frozen tuple.

Exporters, docs/metrics.md, PromQL, rules and dashboards derive from it or are tested against
it, in both directions. Base units, ratios 0..1, labels from closed sets (`model`: one per
run); `run_id` only on info and stage series. Standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

NAMESPACE = "loadstone"

Kind = Literal["counter", "gauge", "histogram"]
Source = Literal["loadgen", "sidecar"]

# Seconds. The short end resolves a token, the long end a queue before a slow server.
SECONDS = (
    0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75,
    1.0, 1.5, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 60.0, 120.0, 300.0,
)  # fmt: skip
LAG_SECONDS = (0.0001, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0)


@dataclass(frozen=True, slots=True)
class Metric:
    """One family. `name` is the exposed name: with namespace, unit and `_total`."""

    name: str
    kind: Kind
    source: Source
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


def _loadgen(
    name: str, kind: Kind, help: str, labels: str = "", **more: tuple[float, ...]
) -> Metric:
    return Metric(f"{NAMESPACE}_{name}", kind, "loadgen", help, tuple(labels.split()), **more)


def _sidecar(
    name: str, kind: Kind, help: str, labels: str = "", **more: tuple[float, ...]
) -> Metric:
    return Metric(f"{NAMESPACE}_{name}", kind, "sidecar", help, tuple(labels.split()), **more)


LEVEL = "backend model agents"

METRICS: tuple[Metric, ...] = (
    _loadgen(
        "run_info", "gauge", "The run this process drives; always 1",
        "run_id backend model hardware quantization version",
    ),
    _loadgen(
        "run_start_timestamp_seconds", "gauge", "Unix time of the run's epoch", "run_id"
    ),
    _loadgen(
        "stage_start_timestamp_seconds", "gauge",
        "Unix time at which a stage's measured window opens", "run_id stage agents",
    ),
    _loadgen(
        "stage_end_timestamp_seconds", "gauge",
        "Unix time at which a stage's measured window closes", "run_id stage agents",
    ),
    _loadgen(
        "requests_total", "counter", "Requests whose outcome is known", f"{LEVEL} phase outcome"
    ),
    _loadgen(
        "prompt_tokens_total", "counter", "Prompt tokens of requests that ended ok",
        f"{LEVEL} phase",
    ),
    _loadgen(
        "output_tokens_total", "counter", "Generated tokens of requests that ended ok",
        f"{LEVEL} phase",
    ),
    _loadgen(
        "request_duration_seconds", "histogram",
        "From due to last token; measured phase, outcome ok", LEVEL, buckets=SECONDS,
    ),
    _loadgen(
        "time_to_first_token_seconds", "histogram",
        "From due to the first chunk with content; measured phase, outcome ok", LEVEL,
        buckets=SECONDS,
    ),
    _loadgen(
        "time_per_output_token_seconds", "histogram",
        "(last - first token) / (tokens - 1), per request; measured phase, outcome ok", LEVEL,
        buckets=SECONDS,
    ),
    _loadgen(
        "send_lag_seconds", "histogram",
        "The generator's own lateness: from due to sent; measured phase, outcome ok", LEVEL,
        buckets=LAG_SECONDS,
    ),
    _loadgen(
        "loop_lag_seconds", "histogram", "How late the generator's event loop woke a timer",
        buckets=LAG_SECONDS,
    ),
    _loadgen("requests_in_flight", "gauge", "Requests sent and not yet ended"),
    _loadgen("agents", "gauge", "Load agents at work now"),
    _sidecar("sidecar_info", "gauge", "The sidecar that answers; always 1", "version"),
    _sidecar("probe_success", "gauge", "1 when the probe's last reading succeeded", "probe"),
    _sidecar("probe_duration_seconds", "gauge", "How long the probe's last reading took", "probe"),
    _sidecar(
        "probe_last_success_timestamp_seconds", "gauge",
        "Unix time of the probe's last good reading; absent before the first", "probe",
    ),
    _sidecar("probe_failures_total", "counter", "Readings that failed", "probe"),
    _sidecar("gpu_info", "gauge", "A GPU and its driver; always 1", "gpu name uuid driver"),
    _sidecar("gpu_memory_total_bytes", "gauge", "Memory of the GPU", "gpu"),
    _sidecar("gpu_memory_free_bytes", "gauge", "GPU memory neither allocated nor reserved", "gpu"),
    _sidecar(
        "gpu_memory_used_bytes", "gauge", "GPU memory allocated or reserved, as the driver says",
        "gpu",
    ),
    _sidecar(
        "gpu_utilization_ratio", "gauge",
        "Share of the driver's last window in which any kernel ran", "gpu",
    ),
    _sidecar("gpu_power_watts", "gauge", "Power draw of the GPU as the driver averages it", "gpu"),
    _sidecar("host_memory_total_bytes", "gauge", "Memory of the host"),
    _sidecar("host_memory_available_bytes", "gauge", "Memory new work could take without swapping"),
    _sidecar("host_swap_used_bytes", "gauge", "Swap in use"),
    _sidecar(
        "host_cpu_utilization_ratio", "gauge",
        "Busy share of all processors since the last reading",
    ),
    _sidecar("host_load1", "gauge", "Runnable processes, one-minute average"),
)  # fmt: skip

_BY_NAME = {metric.name: metric for metric in METRICS}


def metric(short_name: str) -> Metric:
    """The table row of `loadstone_<short_name>`; KeyError when there is none."""
    return _BY_NAME[f"{NAMESPACE}_{short_name}"]
