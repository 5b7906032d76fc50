"""`requests.parquet`, the records by column: its name, and how a reader knows it still holds.

It is derived from `requests.jsonl`, which stays the truth: the file carries the length of the
JSONL it was made from, and an append-only file of that length has not changed since.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

PARQUET = "requests.parquet"
JSONL_BYTES = b"loadstone.jsonl_bytes"
SCHEMA = b"loadstone.schema"


def is_current(metadata: Mapping[bytes, bytes] | None, parquet: Path, jsonl: Path) -> bool:
    """Whether a Parquet file with this metadata was made from `jsonl` as it is now.

    Its length must be the one stated and it must not be younger. OSError when one is missing.
    """
    made, now = parquet.stat(), jsonl.stat()
    stated = (metadata or {}).get(JSONL_BYTES)
    return stated == str(now.st_size).encode() and made.st_mtime_ns >= now.st_mtime_ns
