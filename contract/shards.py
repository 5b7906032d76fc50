"""The files of a run that several processes wrote: what is dealt to whom, and what each wrote.

Shard k of n appends its records to `requests.<k>.jsonl`, in the order they ended. The process
that conducts the run merges them into `requests.jsonl` as it goes on, and takes them away once
all of them are there. What lies in them beyond that, after a crash, is read with the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from contract.records import RequestRecord


def requests_of(path: Path, shard: int) -> Path:
    """Where a shard writes its records, in the run directory `path`."""
    return path / f"requests.{shard}.jsonl"


def replies_of(path: Path, shard: int) -> Path:
    """Where a shard writes prompts and replies, if they are kept."""
    return path / f"replies.{shard}.jsonl"


class Part(NamedTuple):
    """What one shard has of a load: every `shards`-th agent or arrival, from `shard` on."""

    shard: int = 0
    shards: int = 1

    def numbers(self, total: int) -> range:
        """Those of `total` that are its own."""
        return range(self.shard, total, self.shards)

    def share(self, total: int) -> int:
        """How many of `total` places it has: as evenly as can be."""
        return len(self.numbers(total))


WHOLE = Part()


def shard_of(record: RequestRecord, shards: int) -> int:
    """The shard that wrote a record: agents are dealt in a closed loop, arrivals in an open one."""
    return (record.agent if record.agents else record.seq) % shards


def shards_of(config: Mapping[str, Any]) -> int:
    """How many shards a run's configuration asks for; 1 stands for none."""
    given = config.get("shards", 1)
    return given if type(given) is int and given > 1 else 1


@contextmanager
def left(path: Path, shards: int) -> Iterator[dict[int, BinaryIO]]:
    """The shards' files that were not taken away; they stay readable when they are now."""
    with ExitStack() as opened:
        found: dict[int, BinaryIO] = {}
        for shard in range(shards if shards > 1 else 0):
            with suppress(FileNotFoundError):
                found[shard] = opened.enter_context(requests_of(path, shard).open("rb"))
        yield found
