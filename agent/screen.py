"""What `agent once` and `agent check` print."""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from agent.probes.base import GpuData, HostData, Snapshot
from contract.commandline import VERSION

GIB = 2**30
ABSENT = "absent"


def readings_json(snapshots: Sequence[Snapshot]) -> str:
    """Every probe with health and data; what was not measured is null."""
    probes = {
        each.probe: {"health": asdict(each.health), "data": _plain(each)} for each in snapshots
    }
    return json.dumps({"version": VERSION, "probes": probes}, indent=2, allow_nan=False)


def _plain(snapshot: Snapshot) -> Any:
    if isinstance(snapshot.data, tuple):
        return [asdict(gpu) for gpu in snapshot.data]
    return None if snapshot.data is None else asdict(snapshot.data)


def readings_table(snapshots: Sequence[Snapshot]) -> str:
    """One line of health per probe, then one line per measured thing."""
    rows: list[tuple[str, str]] = []
    for snapshot in snapshots:
        rows.append((snapshot.probe, _health(snapshot)))
        if isinstance(snapshot.data, HostData):
            rows.extend(_host_rows(snapshot.data))
        for gpu in snapshot.data if isinstance(snapshot.data, tuple) else ():
            rows.extend(_gpu_rows(gpu))
    return _aligned(rows)


def _health(snapshot: Snapshot) -> str:
    health = snapshot.health
    took = "" if health.duration is None else f", took {health.duration * 1000:.1f} ms"
    return f"{'ok' if health.ok else f'failed: {health.error}'}{took}"


def _host_rows(host: HostData) -> list[tuple[str, str]]:
    memory = f"{_gib(host.memory_available_bytes)} available of {_gib(host.memory_total_bytes)}"
    return [
        ("  memory", memory),
        ("  swap", f"{_gib(host.swap_used_bytes)} used"),
        ("  processors", f"{_percent(host.cpu_utilization_ratio)} busy"),
        ("  load1", ABSENT if host.load1 is None else f"{host.load1:.2f}"),
    ]


def _gpu_rows(gpu: GpuData) -> list[tuple[str, str]]:
    power = ABSENT if gpu.power_watts is None else f"{gpu.power_watts:.1f} W"
    used, total, free = gpu.memory_used_bytes, gpu.memory_total_bytes, gpu.memory_free_bytes
    return [
        (f"  GPU {gpu.gpu}", f"{gpu.name or 'unnamed'}, driver {gpu.driver or 'unknown'}"),
        ("    memory", f"{_gib(used)} used, {_gib(free)} free of {_gib(total)}"),
        ("    any kernel", f"{_percent(gpu.utilization_ratio)} of the time"),
        ("    power", power),
    ]


def _gib(size: int | None) -> str:
    return ABSENT if size is None else f"{size / GIB:.2f} GiB"


def _percent(ratio: float | None) -> str:
    return ABSENT if ratio is None else f"{ratio:.0%}"


def _aligned(rows: Sequence[tuple[str, str]]) -> str:
    width = max(len(name) for name, _ in rows) + 2
    return "\n".join(f"{name:<{width}}{text}" for name, text in rows)


@dataclass(frozen=True, slots=True)
class Findings:
    """What a sidecar started now would find; a text is None where the thing is absent."""

    driver: str | None
    gpus: tuple[str, ...]
    psutil: str
    host_error: str | None
    gpu_error: str | None
    listen: str
    port_error: str | None


def findings(snapshots: Sequence[Snapshot], address: str, port: int) -> Findings:
    """Look at the readings, at psutil and at the port."""
    from importlib.metadata import version

    by_probe = {each.probe: each for each in snapshots}
    gpu = by_probe.get("gpu", Snapshot("gpu"))
    gpus = gpu.data if isinstance(gpu.data, tuple) else ()
    return Findings(
        driver=gpus[0].driver if gpus else None,
        gpus=tuple(f"GPU {g.gpu}: {g.name}, {_gib(g.memory_total_bytes)}, {g.uuid}" for g in gpus),
        psutil=version("psutil"),
        host_error=by_probe["host"].health.error if "host" in by_probe else "probe is off",
        gpu_error=gpu.health.error if "gpu" in by_probe else "probe is off",
        listen=f"{address}:{port}",
        port_error=_port_error(address, port),
    )


def _port_error(address: str, port: int) -> str | None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            return error.strerror or str(error)
    return None


def check_json(found: Findings) -> str:
    """The findings as JSON; what is absent is null."""
    return json.dumps({"version": VERSION, **asdict(found)}, indent=2)


def check_table(found: Findings) -> str:
    """The findings in one screen."""
    gpus = [("GPUs", text) for text in found.gpus] or [("GPUs", found.gpu_error or "none listed")]
    lost = [("", found.gpu_error)] if found.gpus and found.gpu_error else []
    port = f"{found.listen} is free" if found.port_error is None else _taken(found)
    return _aligned(
        [
            ("sidecar", VERSION),
            ("driver", found.driver or ("none" if found.gpu_error else "loaded")),
            *gpus,
            *lost,
            ("host", found.host_error or f"ok, psutil {found.psutil}"),
            ("port", port),
        ]
    )


def _taken(found: Findings) -> str:
    return f"{found.listen} cannot be taken ({found.port_error}); give another with --port"
