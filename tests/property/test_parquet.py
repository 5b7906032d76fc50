"""Whatever a record holds comes back from its columns."""

import tempfile
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from contract.errors import DataError
from contract.records import OUTCOMES, PHASES, RequestRecord, ServerFacts
from loadgen.files.columns import COLUMNS, cells
from loadgen.files.parquet import ParquetSink

number = st.floats(0, 1e6, allow_nan=False)
whole = st.integers(0, 2**40)
text = st.text(st.characters(codec="utf-8"), max_size=20)
facts = st.builds(
    ServerFacts,
    load=st.none() | number,
    prefill=st.none() | number,
    cached_prompt_tokens=st.none() | whole,
    peak_memory_bytes=st.none() | whole,
)
record = st.builds(
    RequestRecord,
    run=st.just("r"),
    stage=whole,
    agent=whole,
    seq=whole,
    agents=whole,
    phase=st.sampled_from(PHASES),
    outcome=st.sampled_from(OUTCOMES),
    due=number,
    ended=number | st.integers(0, 100),
    sent=st.none() | number,
    first_token=st.none() | number,
    last_token=st.none() | number,
    prompt_tokens=st.none() | whole,
    prompt_source=st.none() | st.sampled_from(["server", "tokenizer"]),
    output_tokens=st.none() | whole,
    chunks=whole,
    gaps_us=st.lists(st.integers(0, 2**40), max_size=5),
    finish_reason=st.none() | text,
    status=st.none() | st.integers(100, 599),
    error=st.none() | text,
    server=st.none() | facts,
)


def test_a_cell_of_another_kind_is_refused():
    status = next(column for column in COLUMNS if column.name == "status")
    line = {"stage": 1, "agent": 0, "seq": 0, "agents": 1, "due": 0.0, "ended": 1.0}
    one = RequestRecord(run="r", phase="drain", outcome="ok", **line, status=200.5)
    with pytest.raises(DataError, match="column status holds float, expected integer"):
        cells([one], status)
    assert cells([replace(one, status=None), replace(one, status=7)], status) == [None, 7]


def test_every_field_of_a_record_has_its_column():
    assert [column.name for column in COLUMNS] == [field.name for field in fields(RequestRecord)]


@settings(deadline=None, max_examples=50)
@given(records=st.lists(record, min_size=1, max_size=30))
def test_parquet_gives_the_records_back(records):
    with tempfile.TemporaryDirectory() as folder:
        sink = ParquetSink(Path(folder) / "requests.parquet")
        for one in records:
            sink.add(one)
        sink.close()
        rows = parquet.read_table(Path(folder) / "requests.parquet").to_pylist()
    assert [RequestRecord.from_own(row) for row in rows] == records
