"""The `agent` command: run the sidecar, read once, or say what there is to read."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contract.commandline import VERSION, Parser, integer, number, run, say

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.config import SidecarConfig
    from agent.probes.base import Probe, Snapshot
    from agent.sampler import Poller, Sampler

STOP_SECONDS = 2.0  # how long a call into a driver may delay the end of the process
ONCE_INTERVAL = 0.25  # seconds between the two readings that processor use is the difference of

_OVERRIDES = ("address", "port", "gpu_interval", "host_interval", "require_gpu")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    return run(build_parser, argv)


def build_parser() -> Parser:
    parser = Parser(
        prog="agent",
        description="Telemetry sidecar: GPU and host as Prometheus series.",
        epilog="exit codes: 0 done, 2 usage, 3 no GPU where one is required, "
        "130 interrupted, 143 terminated",
    )
    parser.add_argument("--version", action="version", version=f"agent {VERSION}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    _add_run(commands.add_parser("run", help="serve /metrics until interrupted"))
    _add_once(commands.add_parser("once", help="print one reading of everything"))
    _add_check(commands.add_parser("check", help="say what is there: driver, GPUs, port"))
    return parser


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings, YAML")
    parser.add_argument(
        "--timeout", type=number(above=0, at_most=3600), default=10.0, metavar="SECONDS",
        help="wait this long for the first readings (default 10)",
    )  # fmt: skip
    parser.add_argument(
        "--require-gpu", action="store_true", default=None,
        help="exit 3 when no GPU can be read",
    )  # fmt: skip


def _place(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--address", help="listen here (default 127.0.0.1)")
    parser.add_argument(
        "--port", type=integer(at_least=0, at_most=65535),
        help="listen on this port, 0 for any free one (default 9211)",
    )  # fmt: skip


def _add_run(parser: argparse.ArgumentParser) -> None:
    seconds = number(at_least=0.1, at_most=60)
    _common(parser)
    _place(parser)
    parser.add_argument(
        "--gpu-interval", type=seconds, metavar="SECONDS",
        help="between two readings of the GPUs (default 0.2)",
    )  # fmt: skip
    parser.add_argument(
        "--host-interval", type=seconds, metavar="SECONDS",
        help="between two readings of the host (default 1.0)",
    )  # fmt: skip
    parser.set_defaults(command=_run)


def _add_once(parser: argparse.ArgumentParser) -> None:
    _common(parser)
    parser.add_argument("--json", action="store_true", help="print JSON and nothing else")
    parser.set_defaults(command=_once)


def _add_check(parser: argparse.ArgumentParser) -> None:
    _common(parser)
    _place(parser)
    parser.add_argument("--json", action="store_true", help="print JSON and nothing else")
    parser.set_defaults(command=_check)


def _run(arguments: argparse.Namespace) -> int:
    from agent.export import registry
    from agent.sampler import Sampler
    from contract.exporter import MetricsServer

    config = _config(arguments)
    sampler = Sampler(_probes(config))
    server = MetricsServer(
        registry(sampler.snapshots, VERSION), config.address, config.port,
        ready=sampler.ready, flag="--port",
    )  # fmt: skip
    with closing(server), _polling(sampler) as poller:
        if not poller.wait_for(1, arguments.timeout):
            say("warning", f"{sampler.ready()[1]} within {arguments.timeout:g} s")
        _demand_gpu(config, sampler.snapshots())
        address = f"http://{config.address}:{server.port}/metrics"
        print(f"sidecar serves {address} ({sampler.ready()[1]})", file=sys.stderr, flush=True)
        poller.wait()
    return 0


def _once(arguments: argparse.Namespace) -> int:
    from agent.screen import readings_json, readings_table

    config = _config(arguments)
    snapshots = _read_twice(config, arguments.timeout)
    print(readings_json(snapshots) if arguments.json else readings_table(snapshots))
    _demand_gpu(config, snapshots)
    return 0


def _check(arguments: argparse.Namespace) -> int:
    from agent.screen import check_json, check_table, findings

    config = _config(arguments)
    snapshots = _read_twice(config, arguments.timeout)
    found = findings(snapshots, config.address, config.port)
    print(check_json(found) if arguments.json else check_table(found))
    _demand_gpu(config, snapshots)
    return 0


def _config(arguments: argparse.Namespace) -> SidecarConfig:
    from agent.config import resolve

    given: dict[str, Any] = {name: getattr(arguments, name, None) for name in _OVERRIDES}
    return resolve(arguments.config, {k: v for k, v in given.items() if v is not None})


def _probes(config: SidecarConfig) -> list[tuple[Probe, float]]:
    from agent.probes.gpu import GpuProbe
    from agent.probes.host import HostProbe

    probes: list[tuple[Probe, float]] = []
    if config.host_probe:
        probes.append((HostProbe(), config.host_interval))
    if config.gpu_probe:
        probes.append((GpuProbe(), config.gpu_interval))
    return probes


@contextmanager
def _polling(sampler: Sampler) -> Iterator[Poller]:
    """A poller at work, stopped on the way out whatever the reason."""
    from agent.sampler import Poller

    poller = Poller(sampler)
    poller.start()
    try:
        yield poller
    finally:
        if not poller.stop(STOP_SECONDS):
            say("warning", "a reading hangs in the driver; leaving without closing it")
    if poller.crashed():
        raise SystemExit(1)


def _read_twice(config: SidecarConfig, timeout: float) -> list[Snapshot]:
    from agent.sampler import Sampler

    sampler = Sampler([(probe, ONCE_INTERVAL) for probe, _ in _probes(config)])
    with _polling(sampler) as poller:
        if not poller.wait_for(2, timeout):
            say("warning", f"{sampler.ready()[1]} within {timeout:g} s")
        return sampler.snapshots()


def _demand_gpu(config: SidecarConfig, snapshots: Sequence[Snapshot]) -> None:
    """Raise TargetError when the configuration requires a GPU and none was read."""
    from contract.errors import TargetError

    gpu = next((each for each in snapshots if each.probe == "gpu"), None)
    if config.require_gpu and (gpu is None or not gpu.data):
        reason = (gpu and gpu.health.error) or "the driver lists none"
        raise TargetError(f"require_gpu: no GPU can be read: {reason}; start the NVIDIA driver")
