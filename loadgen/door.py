"""What is refused at the door, before a server is asked or a folder made."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from contract.errors import ConfigError

if TYPE_CHECKING:
    from loadgen.config import RunConfig


def files_there(config: RunConfig) -> None:
    """ConfigError when a file to read requests from is not there. What is in it shows later."""
    for name in ("dataset", "trace"):
        given = getattr(config, name)
        if given is not None and not Path(given).is_file():
            raise ConfigError(f"--{name}: {given}: no such file")
