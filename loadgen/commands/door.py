"""What is refused at the door, before a server is asked or a folder made."""

from __future__ import annotations

import math
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from contract.errors import ConfigError, DataError

if TYPE_CHECKING:
    from loadgen.config import RunConfig


def files_there(config: RunConfig) -> None:
    """ConfigError when a file to read requests from is not there or none, DataError when it may
    not be read. What is in it shows later."""
    for name in ("dataset", "trace"):
        given = getattr(config, name)
        if given is None:
            continue
        try:
            if not stat.S_ISREG(os.stat(given).st_mode):  # a pipe could be read only once
                raise ConfigError(f"--{name}: {given}: no regular file")
            Path(given).open("rb").close()
        except FileNotFoundError:
            raise ConfigError(f"--{name}: {given}: no such file") from None
        except PermissionError as error:
            raise DataError(f"--{name}: {given}: cannot be read ({error.strerror})") from error
        except OSError as error:
            raise ConfigError(f"--{name}: {given}: {error.strerror}") from error


def folder_writable(config: RunConfig) -> None:
    """ConfigError when no run can be made where it is to be kept; tried, as permissions alone do
    not tell of a file system that is read-only or full. Nothing stays behind."""
    root = Path(config.output_dir).absolute()
    try:
        there = next(folder for folder in (root, *root.parents) if folder.exists())
        trial = there / f".{os.getpid()}"
        trial.mkdir()
        trial.rmdir()
    except OSError as error:
        from contract.rundir import no_place

        raise no_place(Path(config.output_dir), error) from error


def connections_fit(config: RunConfig, flag: str, most: int | None) -> None:
    """ConfigError when `most` connections, as `flag` asks, need more file descriptors than may be
    open; the limit is raised first as far as it goes, for every shard as for this process. None:
    nobody knows how many there will be.
    """
    if most is None or config.backend.kind == "hf":
        return
    import resource

    from loadgen.wire.stamps import taken

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    each = math.ceil(most / config.shards)
    wanted = 2 * each + taken()
    if wanted > soft != resource.RLIM_INFINITY:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    carried = _carried(config, soft - taken()) * config.shards
    if most > carried:
        raise ConfigError(
            f"{flag}: {most} connections do not fit, ulimit -n {soft} carries {max(0, carried)}; "
            f"ask for fewer or allow {_enough(config, each)}"
        )


def _carried(config: RunConfig, free: int) -> int:
    from loadgen.wire.stamps import carried

    pools = _pools_that_stamp(config)
    return carried(free, pools) if pools else free


def _enough(config: RunConfig, most: int) -> int:
    """A limit that carries so many."""
    from loadgen.wire.stamps import taken

    share = _carried(config, 10_000) / 10_000
    return math.ceil(most / share) + taken()


def _pools_that_stamp(config: RunConfig) -> int:
    """How many pools of connections have the kernel stamp what comes: one for each plain address,
    with our own client."""
    settings = config.backend
    if settings.kind == "hf" or settings.client != "wire" or settings.stamps != "kernel":
        return 0
    addresses = settings.base_url or ("http:",)
    return sum(address.startswith("http:") for address in addresses)
