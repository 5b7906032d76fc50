"""Snapshots as the sidecar's rows of the metric table, made anew at every scrape.

A collector instead of gauges, because a gauge keeps its last value: what was not measured
must be absent, so that a dashboard shows a gap and not an old number.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector

from agent.probes.base import GpuData, HostData, Snapshot
from contract.metrics import METRICS, Metric, metric

Labels = tuple[str, ...]
Sample = tuple[str, Labels, float | None]

_IDENTITY = ("gpu", "name", "uuid", "driver")


def samples(snapshots: Iterable[Snapshot], version: str) -> Iterator[Sample]:
    """(short name, label values, value) of everything known now; None where there is none."""
    yield "sidecar_info", (version,), 1.0
    for snapshot in snapshots:
        yield from _health(snapshot)
        if isinstance(snapshot.data, HostData):
            yield from _measured("host", (), snapshot.data)
        for gpu in snapshot.data if isinstance(snapshot.data, tuple) else ():
            yield "gpu_info", (gpu.gpu, gpu.name, gpu.uuid, gpu.driver), 1.0
            yield from _measured("gpu", (gpu.gpu,), gpu)


def _health(snapshot: Snapshot) -> Iterator[Sample]:
    health, labels = snapshot.health, (snapshot.probe,)
    yield "probe_success", labels, None if health.ok is None else float(health.ok)
    yield "probe_duration_seconds", labels, health.duration
    yield "probe_last_success_timestamp_seconds", labels, health.last_success
    yield "probe_failures_total", labels, float(health.failures)


def _measured(prefix: str, labels: Labels, data: HostData | GpuData) -> Iterator[Sample]:
    for each in fields(data):
        if each.name not in _IDENTITY:
            yield f"{prefix}_{each.name}", labels, getattr(data, each.name)


def families(found: Iterable[Sample]) -> Iterator[Family]:
    """The families that have a value, in the table's order. NaN and infinity are no values.

    KeyError for a name outside the table.
    """
    by_name: dict[str, list[tuple[Labels, float]]] = defaultdict(list)
    for name, labels, value in found:
        if value is not None and math.isfinite(value):
            by_name[metric(name).name].append((labels, value))
    for row in METRICS:
        if row.name in by_name:
            yield _family(row, by_name[row.name])


def _family(row: Metric, found: Sequence[tuple[Labels, float]]) -> Family:
    family_of = CounterMetricFamily if row.kind == "counter" else GaugeMetricFamily
    family = family_of(row.name, row.help, labels=row.labels)
    for labels, value in found:
        family.add_metric(labels, value)
    return family


class SnapshotCollector(Collector):
    """Asks for the snapshots when Prometheus asks for the series."""

    def __init__(self, read: Callable[[], Iterable[Snapshot]], version: str) -> None:
        self._read = read
        self._version = version

    def collect(self) -> Iterator[Family]:
        """The families of this moment."""
        return families(samples(self._read(), self._version))


def registry(read: Callable[[], Iterable[Snapshot]], version: str) -> CollectorRegistry:
    """A registry that holds the sidecar's series and nothing else."""
    own = CollectorRegistry()
    own.register(SnapshotCollector(read, version))
    return own
