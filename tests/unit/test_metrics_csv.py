"""metrics.csv: column names of the model-scaling study, three rows a request, nothing invented."""

import csv
import io
from dataclasses import replace

import pytest

from contract.records import RequestRecord, ServerFacts, StageKey
from loadgen.files.metrics_csv import COLUMNS, MetricsTable

HEADER = (
    "task_idx,scenario,backend,backend_kind,model,model_kind,params_millions,"
    "params_millions_config,prompt,prompt_chars,gen_tokens_target,batch_size_config,call_idx,"
    "sample_idx,is_warmup,warmup_idx,rep,mode,status,error,started_at_unix,batch_size,seq_len,"
    "prompt_tokens_raw,prefill_ms,prefill_cuda_event_ms,kv_decode_ms,kv_decode_ms_equiv,"
    "kv_decode_ms_per_token,kv_decode_cuda_event_ms,gen_tokens_raw,gen_tokens_equiv,"
    "ollama_wall_ms,ollama_total_duration_ms,ollama_load_ms,ollama_done_reason,"
    "params_millions_measured,latency_ms,cuda_event_ms,tokens_total,tokens_per_s,gen_tokens,"
    "gpu_peak_mb,hf_load_ms"
)
RECORD = RequestRecord(
    run="r",
    stage=2,
    agent=0,
    seq=0,
    agents=4,
    phase="measured",
    outcome="ok",
    due=10.0,
    sent=10.001,
    first_token=10.25,
    last_token=11.25,
    ended=11.5,
    prompt_tokens=20,
    output_tokens=50,
    chunks=50,
    finish_reason="stop",
)
ASKED = StageKey("ollama", "llama3.2:3b", 4, 16, 64)


@pytest.fixture
def rows(synthetic_run):
    def read(*records, key=ASKED, **manifest):
        file = io.StringIO()
        table = MetricsTable(file, replace(synthetic_run().manifest(), **manifest), {2: key})
        for record in records:
            table.add(record)
        return list(csv.DictReader(io.StringIO(file.getvalue())))

    return read


def test_the_columns_are_those_of_the_study():
    assert ",".join(COLUMNS) == HEADER


def test_a_request_has_three_rows_timed_by_the_client(rows):
    prefill, decode, both = rows(RECORD, epoch_unix=1000.0)
    assert [row["mode"] for row in (prefill, decode, both)] == ["prefill", "kv_decode", "e2e_kv"]
    assert [float(row["latency_ms"]) for row in (prefill, decode, both)] == [250, 1000, 1250]
    assert [row["tokens_total"] for row in (prefill, decode, both)] == ["20", "50", "70"]
    assert [float(row["tokens_per_s"]) for row in (prefill, decode, both)] == [80, 50, 56]
    assert [row["gen_tokens"] for row in (prefill, decode, both)] == ["0", "50", "50"]
    assert (prefill["started_at_unix"], prefill["is_warmup"]) == ("1010.001", "False")
    assert (prefill["task_idx"], prefill["rep"], prefill["warmup_idx"]) == ("2", "0", "")
    assert (prefill["gen_tokens_target"], prefill["scenario"]) == ("64", "agents4_isl16_osl64")


def test_an_open_loop_is_named_by_its_rate(rows):
    key = replace(ASKED, agents=0, request_rate=2.5)
    assert rows(RECORD, key=key)[0]["scenario"] == "rate2.5_isl16_osl64"


def test_what_is_not_known_is_empty(rows):
    row = rows(RECORD)[2]
    empty = {name for name, value in row.items() if value == ""}
    assert {"prompt", "prompt_chars", "prefill_ms", "kv_decode_ms", "gpu_peak_mb"} <= empty
    assert {"ollama_load_ms", "ollama_total_duration_ms", "cuda_event_ms", "error"} <= empty


def test_what_the_server_reported_stands_beside(rows):
    facts = ServerFacts(load=2.0, prefill=0.125, decode=0.5)
    row = rows(replace(RECORD, server=facts))[0]
    assert (float(row["prefill_ms"]), float(row["kv_decode_ms"])) == (125, 500)
    assert (float(row["kv_decode_ms_per_token"]), float(row["kv_decode_ms_equiv"])) == (10, 640)
    assert (row["gen_tokens_raw"], row["gen_tokens_equiv"]) == ("50", "64")
    assert (float(row["ollama_load_ms"]), row["ollama_done_reason"]) == (2000, "stop")
    assert float(row["ollama_wall_ms"]) == pytest.approx(1499)
    assert float(row["latency_ms"]) == 250


def test_memory_is_the_gpus_only_where_there_is_one(rows):
    record = replace(RECORD, server=ServerFacts(peak_memory_bytes=3 * 2**20, cuda_ms=7.5))
    key = replace(ASKED, backend="hf")
    assert rows(record, key=key)[0]["gpu_peak_mb"] == ""
    prefill, _, both = rows(record, key=key, gpus=[{"name": "GPU"}], model={"parameters": 25e6})
    assert (prefill["gpu_peak_mb"], prefill["seq_len"]) == ("3.0", "20")
    assert (prefill["cuda_event_ms"], both["cuda_event_ms"]) == ("", "7.5")
    assert prefill["params_millions"] == "25.0"


def test_warm_up_is_marked_drain_left_out_failure_named(rows):
    failed = replace(RECORD, outcome="timed_out", error="30 s", last_token=None, output_tokens=None)
    found = rows(replace(RECORD, phase="warmup"), RECORD, failed, replace(RECORD, phase="drain"))
    assert len(found) == 9
    assert [row["sample_idx"] for row in found] == [str(place) for place in range(9)]
    assert [row["is_warmup"] for row in found[::3]] == ["True", "False", "False"]
    assert [row["rep"] for row in found[::3]] == ["", "0", "1"]
    assert (found[6]["status"], found[6]["error"]) == ("timed_out", "30 s")
    assert [row["latency_ms"] for row in found[6:]] == ["250.0", "", ""]
