"""`requests.parquet`: the records by column, compressed, written in batches of bounded size."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from contract.errors import DataError
from contract.parquet_file import JSONL_BYTES, SCHEMA
from contract.records import SCHEMA_VERSION, RequestRecord
from loadgen.files.columns import COLUMNS, Column, cells

MOST_RECORDS = 16_384  # in a row group
MOST_GAPS = 1_000_000  # so that long answers do not make a batch large


class ParquetSink:
    """Takes records one at a time and writes `path` when closed: whole, or not at all.

    `jsonl_bytes`, to be set before closing, is the length of the JSONL these are all the records
    of; None where they are not. Holds one batch in memory. ImportError without pyarrow;
    DataError where a record does not fit the columns or the disk takes no more.
    """

    def __init__(self, path: Path) -> None:
        import pyarrow
        from pyarrow import parquet

        self.jsonl_bytes: int | None = None
        self._path = path
        self._beside = beside(path)
        self._batch: list[RequestRecord] = []
        self._gaps = 0
        self._schema = pyarrow.schema([(c.name, _type(c)) for c in COLUMNS])
        try:
            self._writer = parquet.ParquetWriter(
                self._beside, self._schema, compression="zstd", write_page_index=False
            )
        except OSError as error:
            raise refused(path, error) from error

    def add(self, record: RequestRecord) -> None:
        """Take one record."""
        self._batch.append(record)
        self._gaps += len(record.gaps_us)
        if len(self._batch) >= MOST_RECORDS or self._gaps >= MOST_GAPS:
            self._flush()

    def close(self) -> None:
        """Write the rest and put the file in place."""
        self._flush()
        metadata = {SCHEMA: str(SCHEMA_VERSION)}
        if self.jsonl_bytes is not None:
            metadata[JSONL_BYTES] = str(self.jsonl_bytes)
        try:
            self._writer.add_key_value_metadata(metadata)
            self._writer.close()
            self._beside.replace(self._path)
        except OSError as error:
            raise refused(self._path, error) from error

    def abandon(self) -> None:
        """Leave no file behind."""
        with suppress(OSError):
            self._writer.close()
        with suppress(OSError):
            self._beside.unlink()

    def _flush(self) -> None:
        import pyarrow

        if not self._batch:
            return
        try:
            arrays = [_array(self._batch, column) for column in COLUMNS]
            self._writer.write_table(pyarrow.Table.from_arrays(arrays, schema=self._schema))
        except DataError as error:
            raise DataError(f"{self._path}: {error}") from error
        except (OSError, OverflowError, UnicodeError, pyarrow.ArrowException) as error:
            raise refused(self._path, error) from error
        self._batch, self._gaps = [], 0


def beside(path: Path) -> Path:
    """Where a file is written until it is whole."""
    return path.with_name(f".{path.name}.{os.getpid()}")


def refused(path: Path, error: Exception) -> DataError:
    """What to say when `path` cannot be written."""
    says = error.strerror if isinstance(error, OSError) and error.strerror else error
    return DataError(f"{path}: cannot be written ({says})")


def _type(column: Column) -> Any:
    import pyarrow

    if column.kind == "group":
        return pyarrow.struct([(part.name, _type(part)) for part in column.parts])
    return {
        "flag": pyarrow.bool_(),
        "integer": pyarrow.int64(),
        "number": pyarrow.float64(),
        "text": pyarrow.string(),
        "integers": pyarrow.list_(pyarrow.int64()),
        "numbers": pyarrow.list_(pyarrow.float64()),
    }[column.kind]


def _array(values: Sequence[Any], column: Column) -> Any:
    import pyarrow

    found = cells(values, column)
    if column.kind != "group":
        return pyarrow.array(found, _type(column))
    parts = [_array(found, part) for part in column.parts]
    absent = pyarrow.array([value is None for value in found])
    kinds = [pyarrow.field(part.name, _type(part)) for part in column.parts]
    return pyarrow.StructArray.from_arrays(parts, fields=kinds, mask=absent)
