"""What a manifest says about the machine and the versions a run was made with."""

from __future__ import annotations

import os
import platform
import secrets
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from contract.commandline import VERSION
from contract.processes import started
from contract.records import SCHEMA_VERSION, Manifest, StageKey
from loadgen.backends.base import Target
from loadgen.config import RunConfig
from loadgen.lane import COMPILED


def manifest_of(
    config: RunConfig,
    backend: str,
    target: Target,
    planned: list[StageKey],
    epoch_unix: float,
) -> Manifest:
    """The manifest of a run that begins now."""
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(epoch_unix))
    return Manifest(
        schema=SCHEMA_VERSION,
        run=f"{stamp}-{secrets.token_hex(2)}",
        status="running",
        epoch_unix=epoch_unix,
        config=config.model_dump(mode="json"),
        config_sha256=config.sha256(),
        planned=planned,
        model={
            "name": target.model,
            "quantization": target.quantization,
            "parameters": target.parameters,
            "weight_bytes": target.weight_bytes,
            "context_length": target.context_length,
        },
        server={
            "backend": backend,
            "address": target.address,
            **({"addresses": list(target.addresses)} if target.addresses else {}),
            "version": target.version,
            "remote": any(map(_remote, target.addresses or (target.address,))),
            **target.notes,
        },
        host=host(),
        gpus=gpus(),
        versions=versions(),
        pid=os.getpid(),
        pid_started=started(os.getpid()) or 0.0,
    )


def _remote(address: str | None) -> bool:
    """Whether a server's address leads away from this machine."""
    name = (urlsplit(address).hostname or "") if address else "localhost"
    return not (name == "localhost" or name.startswith("127.") or name == "::1")


def host() -> dict[str, Any]:
    """Name, system, processor, cores and memory of this machine."""
    return {
        "name": platform.node(),
        "system": f"{platform.system()} {platform.release()}",
        "cpu": _processor(),
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
    }


def gpus() -> list[dict[str, Any]]:
    """Name and memory of every NVIDIA GPU the driver shows; [] without driver or binding."""
    import ctypes

    try:
        ctypes.CDLL("libnvidia-ml.so.1")  # a look that costs nothing; the binding itself is large
        import pynvml
    except (ImportError, OSError):
        return []
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        return [
            {
                "name": str(pynvml.nvmlDeviceGetName(handle)),
                "memory_bytes": int(pynvml.nvmlDeviceGetMemoryInfo(handle).total),
                "driver": str(pynvml.nvmlSystemGetDriverVersion()),
            }
            for handle in handles
        ]
    except pynvml.NVMLError:
        return []
    finally:
        pynvml.nvmlShutdown()


def versions() -> dict[str, str]:
    """Versions of ourselves, the interpreter and the loaded libraries a figure may depend on, and
    whether the lane is there."""
    found = {"loadstone": VERSION, "python": platform.python_version()}
    found["lane"] = "compiled" if COMPILED else "absent"
    for name in ("aiohttp", "uvloop", "torch", "transformers"):
        if name in sys.modules:
            found[name] = str(sys.modules[name].__version__)
    return found


def _processor() -> str:
    with suppress(OSError), Path("/proc/cpuinfo").open(encoding="utf-8") as lines:
        for line in lines:  # of the first of maybe hundreds
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
