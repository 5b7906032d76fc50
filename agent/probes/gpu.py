"""NVIDIA GPUs, through the driver's management library (NVML) and nvidia-ml-py.

One handle per GPU, asked from one thread only: NVML calls queue on a lock in the driver, so
more callers mean more disturbance of the work being watched. pynvml is imported at the first
reading; a machine without it, or without a driver, is a health state.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from agent.probes.base import GpuData, Reading
from contract.errors import ProbeError

# nvmlReturn_t, nvml.h: fixed numbers of the driver's interface.
_NO_SUCH_VALUE = frozenset({3, 4, 13})  # not supported, no permission, function not found
_NO_DRIVER = frozenset({1, 9, 12, 18})  # uninitialized, not loaded, no library, version mismatch


@dataclass(frozen=True, slots=True)
class _Device:
    handle: Any
    name: str
    uuid: str


class GpuProbe:
    """All GPUs the driver lists.

    A value one GPU lacks is None; a GPU that stops answering is left out and named among the
    faults, and asked again at every reading; a driver that went away ends the session, and
    the next reading opens a new one.
    """

    name = "gpu"

    def __init__(self) -> None:
        self._nvml: Any = None
        self._driver = ""
        self._count = 0
        self._devices: dict[int, _Device] = {}

    def sample(self) -> Reading:
        """One reading of every GPU; ProbeError when there is no driver to ask."""
        nvml = self._nvml or self._open()
        gpus: list[GpuData] = []
        faults: list[str] = []
        for index in range(self._count):
            try:
                gpus.append(self._read(nvml, index))
            except nvml.NVMLError as error:
                if error.value in _NO_DRIVER:
                    self.close()
                    raise ProbeError(f"no NVIDIA driver ({error})") from error
                faults.append(f"GPU {index}: {error}")
        return Reading(tuple(gpus), tuple(faults))

    def close(self) -> None:
        """End the NVML session. A driver that is gone cannot object."""
        nvml, self._nvml = self._nvml, None
        self._devices.clear()
        if nvml is not None:
            try:
                nvml.nvmlShutdown()
            except nvml.NVMLError:
                return

    def _open(self) -> Any:
        try:
            import pynvml as nvml
        except ImportError as error:
            raise ProbeError(
                "nvidia-ml-py is not installed: pip install 'loadstone[gpu]'"
            ) from error
        try:
            nvml.nvmlInit()
        except nvml.NVMLError as error:
            raise ProbeError(f"no NVIDIA driver ({error})") from error
        self._nvml = nvml
        try:
            self._count = nvml.nvmlDeviceGetCount()
            self._driver = self._ask(nvml.nvmlSystemGetDriverVersion) or ""
        except nvml.NVMLError as error:
            self.close()
            raise ProbeError(f"NVML lists no GPUs ({error})") from error
        return nvml

    def _read(self, nvml: Any, index: int) -> GpuData:
        device = self._devices.get(index) or self._identify(nvml, index)
        memory = self._ask(nvml.nvmlDeviceGetMemoryInfo, device.handle)
        utilization = self._ask(nvml.nvmlDeviceGetUtilizationRates, device.handle)
        milliwatts = self._ask(nvml.nvmlDeviceGetPowerUsage, device.handle)
        return GpuData(
            gpu=str(index),
            name=device.name,
            uuid=device.uuid,
            driver=self._driver,
            memory_total_bytes=None if memory is None else memory.total,
            memory_free_bytes=None if memory is None else memory.free,
            memory_used_bytes=None if memory is None else memory.used,
            utilization_ratio=None if utilization is None else utilization.gpu / 100,
            power_watts=None if milliwatts is None else milliwatts / 1000,
        )

    def _identify(self, nvml: Any, index: int) -> _Device:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        name = self._ask(nvml.nvmlDeviceGetName, handle) or ""
        uuid = self._ask(nvml.nvmlDeviceGetUUID, handle) or ""
        self._devices[index] = _Device(handle, name, uuid)
        return self._devices[index]

    def _ask(self, query: Callable[..., Any], *arguments: Any) -> Any:
        """The answer, or None where this GPU, driver or user has no such value."""
        try:
            return query(*arguments)
        except self._nvml.NVMLError as error:
            if error.value in _NO_SUCH_VALUE:
                return None
            raise
