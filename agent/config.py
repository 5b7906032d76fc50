"""What a sidecar can be told; the defaults here are the ones used without a file."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationInfo, field_validator

from contract.config import StrictModel, validate
from contract.yaml_file import load_yaml


class SidecarConfig(StrictModel):
    """Where to listen, what to read and how often (seconds). configs/sidecar.yaml explains."""

    address: str = "127.0.0.1"
    port: int = Field(9211, ge=0, le=65535)
    host_probe: bool = True
    gpu_probe: bool = True
    require_gpu: bool = False
    host_interval: float = Field(1.0, ge=0.1, le=60.0)
    gpu_interval: float = Field(0.2, ge=0.1, le=60.0)

    @field_validator("address")
    @classmethod
    def _listenable(cls, address: str) -> str:
        if address == "localhost":
            return address
        try:
            return str(ipaddress.IPv4Address(address))
        except ValueError:
            raise ValueError("an IPv4 address or 'localhost' is wanted") from None

    @field_validator("gpu_probe")
    @classmethod
    def _one_at_least(cls, gpu_probe: bool, info: ValidationInfo) -> bool:
        if not gpu_probe and info.data.get("host_probe") is False:
            raise ValueError("host_probe and gpu_probe are both off, nothing to read")
        return gpu_probe

    @field_validator("require_gpu")
    @classmethod
    def _readable(cls, require_gpu: bool, info: ValidationInfo) -> bool:
        if require_gpu and info.data.get("gpu_probe") is False:
            raise ValueError("needs gpu_probe, which is off")
        return require_gpu


def resolve(path: Path | None, overrides: dict[str, Any]) -> SidecarConfig:
    """The file's settings, or the defaults, under the command line's; ConfigError on a mistake."""
    document = {} if path is None else load_yaml(path)
    config = validate(SidecarConfig, document, where="" if path is None else str(path))
    return validate(SidecarConfig, config.model_dump() | overrides, where="command line")
