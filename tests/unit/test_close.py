"""The files that follow from a run's records, and what happens when one cannot be made."""

import csv
import json
import subprocess
import sys
from dataclasses import replace

import pytest
from pyarrow import parquet

from contract.errors import DataError
from contract.parquet_file import JSONL_BYTES, is_current
from contract.records import RequestRecord
from contract.rundir import Run
from loadgen.files.close import close_files

MADE = {"requests.parquet", "metrics.csv", "summary.csv", "summary.json"}
WRITTEN = {"manifest.json", "requests.jsonl", "stages.jsonl"}


def names(path):
    return {file.name for file in path.iterdir()}


def summary(path):
    return json.loads((path / "summary.json").read_text())


def test_a_run_without_a_summary_gets_every_file(synthetic_run, tmp_path):
    path = synthetic_run(levels=(1, 4)).write(tmp_path)
    assert close_files(path) == []
    assert names(path) == MADE | WRITTEN
    document = summary(path)
    assert document["status"] == "complete"
    assert [stage["requests_per_second"] for stage in document["stages"]] == [4.0, 10.0]
    assert document["stages"][0]["loop_lag"] is None
    for stage in document["stages"]:
        assert sum(stage["slices"]["ok"]) == stage["outcomes"]["ok"]
        assert len(stage["slices"]["ok"]) == 20
        assert sum(stage["slices"]["in_flight"]) / 20 == pytest.approx(stage["in_flight"])
    assert "slices.ok" in document["definitions"]


def test_an_existing_summary_keeps_its_numbers(synthetic_run, tmp_path):
    path = synthetic_run(levels=(1, 4)).write(tmp_path)
    known = {"run": "x", "definitions": {"e2e": "so"}, "stages": [{"stage": 2, "loop_lag": 7}]}
    (path / "summary.json").write_text(json.dumps(known))
    close_files(path)
    (stage,) = summary(path)["stages"]
    assert (stage["loop_lag"], sum(stage["slices"]["ok"])) == (7, 200)
    assert summary(path)["definitions"]["e2e"] == "so"
    close_files(path)
    assert len(summary(path)["stages"]) == 1


def test_slices_may_be_longer(synthetic_run, tmp_path):
    path = synthetic_run(levels=(1,)).write(tmp_path)
    close_files(path, seconds=5.0)
    assert summary(path)["stages"][0]["slices"]["start"] == [0.0, 5.0, 10.0, 15.0]


def test_the_columns_are_the_records_and_say_of_which_file(synthetic_run, tmp_path):
    path = synthetic_run(levels=(1, 2)).write(tmp_path)
    close_files(path)
    file = path / "requests.parquet"
    rows = parquet.read_table(file).to_pylist()
    assert [RequestRecord.from_json(row) for row in rows] == list(Run.open(path).records())
    metadata = parquet.read_metadata(file).metadata
    assert metadata[JSONL_BYTES] == str((path / "requests.jsonl").stat().st_size).encode()
    assert is_current(metadata, file, path / "requests.jsonl")
    with (path / "requests.jsonl").open("ab") as more:
        more.write(b"{}\n")
    assert not is_current(metadata, file, path / "requests.jsonl")


def test_a_killed_run_gets_its_files_and_the_torn_line_is_said(synthetic_run, tmp_path):
    path = synthetic_run(levels=(1, 2, 4), finished=2, status="running").write(tmp_path)
    with (path / "requests.jsonl").open("ab") as file:
        file.write(b'{"run":"2026')
    (warning,) = close_files(path)
    assert "dropped an unfinished last line" in warning
    assert (summary(path)["status"], len(summary(path)["stages"])) == ("partial", 2)
    file = path / "requests.parquet"
    assert not is_current(parquet.read_metadata(file).metadata, file, path / "requests.jsonl")


def test_a_file_that_cannot_take_its_place_costs_that_file_alone(synthetic_run, tmp_path):
    path = synthetic_run(levels=(1,)).write(tmp_path)
    (path / "requests.parquet").mkdir()
    (warning,) = close_files(path)
    assert warning.endswith("requests.parquet: cannot be written (Is a directory)")
    assert names(path) == MADE | WRITTEN
    assert (path / "requests.parquet").is_dir()


def test_a_broken_line_leaves_nothing_half_made(synthetic_run, tmp_path):
    path = synthetic_run(levels=(1,)).write(tmp_path)
    text = (path / "requests.jsonl").read_text().splitlines()
    text[5] = "{broken"
    (path / "requests.jsonl").write_text("\n".join(text) + "\n")
    with pytest.raises(DataError, match="line 6 is not a request record"):
        close_files(path)
    assert names(path) == WRITTEN


def test_a_folder_that_takes_no_file_is_said(synthetic_run, tmp_path):
    path = synthetic_run(levels=(1,)).write(tmp_path)
    warnings = close_files(path, only=("metrics.csv", "summary.csv"), into=tmp_path / "absent")
    assert [w.split("absent/")[1] for w in warnings] == [
        "metrics.csv: cannot be written (No such file or directory)",
        "summary.csv: cannot be written (No such file or directory)",
    ]


def test_many_requests_leave_metrics_csv_to_the_asking(synthetic_run, tmp_path):
    path = synthetic_run(levels=(1,)).write(tmp_path)
    (warning,) = close_files(path, most_rows=81)
    assert "metrics.csv: not made of 82 requests (more than 81)" in warning
    assert "metrics.csv" not in names(path)
    assert close_files(path, most_rows=82) == []


def test_without_pyarrow_the_rest_is_made(synthetic_run, tmp_path):
    path = synthetic_run(levels=(1,)).write(tmp_path)
    script = (
        "import sys, pathlib; from importlib.machinery import PathFinder\n"
        "class None_(PathFinder):\n"
        "    @classmethod\n"
        "    def find_spec(cls, name, path=None, target=None):\n"
        "        return None if name == 'pyarrow' else PathFinder.find_spec(name, path, target)\n"
        "sys.meta_path[sys.meta_path.index(PathFinder)] = None_\n"
        "from loadgen.files.close import close_files\n"
        "print(close_files(pathlib.Path(sys.argv[1])))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True
    )
    assert "pyarrow is not installed; install loadstone[analysis]" in done.stdout
    assert names(path) == (MADE | WRITTEN) - {"requests.parquet"}


def test_summary_csv_is_flat(synthetic_run, tmp_path):
    def fail(record):
        ok = record.stage != 2 or record.phase != "measured"
        return record if ok else replace(record, outcome="timed_out", last_token=None)

    path = synthetic_run(levels=(1, 2), failing=[2], edit=fail).write(tmp_path)
    close_files(path)
    with (path / "summary.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    document = summary(path)["stages"][0]
    assert float(first["ttft_p95"]) == document["ttft"]["p95"]
    assert (first["agents"], first["outcomes_ok"], first["failed_verdicts"]) == ("1", "80", "")
    assert (second["failed_verdicts"], second["ttft_p95"], second["e2e_mean"]) == ("little", "", "")
    assert not {"ttft", "e2e", "slices", "verdicts"} & set(first)
