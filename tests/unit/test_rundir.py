import json
import os

import pytest

from contract.errors import ConfigError, DataError
from contract.records import SCHEMA_VERSION
from contract.rundir import Run, RunWriter, find_run


def cut_last_line(file, bytes_off):
    data = file.read_bytes()
    file.write_bytes(data[:-bytes_off])


def test_a_run_reads_back_as_it_was_written(synthetic_run, tmp_path):
    run = synthetic_run(levels=(1, 2))
    path = run.write(tmp_path)
    back = Run.open(path)
    assert back.manifest.run == run.name
    assert back.status == "complete"
    assert back.stages == [run.stage(0), run.stage(1)]
    assert back.missing == []
    assert list(back.records()) == run.records(0) + run.records(1)
    assert back.warnings == []


def test_latest_points_at_the_newest_run(synthetic_run, tmp_path):
    synthetic_run(name="a", levels=(1,)).write(tmp_path)
    newest = synthetic_run(name="b", levels=(1,)).write(tmp_path)
    assert find_run(tmp_path, "latest") == newest.resolve()
    assert find_run(tmp_path, "a").name == "a"


def test_a_run_is_never_overwritten(synthetic_run, tmp_path):
    run = synthetic_run(levels=(1,))
    run.write(tmp_path)
    with pytest.raises(ConfigError, match="--output-dir"):
        RunWriter(tmp_path, run.manifest())


def test_a_dead_writer_leaves_a_partial_run_that_names_what_is_missing(synthetic_run, tmp_path):
    path = synthetic_run(levels=(1, 2, 3), finished=1, status="running").write(tmp_path)
    back = Run.open(path)
    assert back.status == "partial"
    assert [key.agents for key in back.missing] == [2, 3]


def test_replies_are_for_the_users_eyes_alone_and_no_file_without_them(synthetic_run, tmp_path):
    writer = RunWriter(tmp_path, synthetic_run(levels=(1,)).manifest())
    assert not (writer.path / "replies.jsonl").exists()
    for text in ("Why?", "So."):
        writer.append_reply({"text": text})
    file = writer.path / "replies.jsonl"
    assert [json.loads(line)["text"] for line in file.read_text().splitlines()] == ["Why?", "So."]
    assert file.stat().st_mode & 0o777 == 0o600
    writer.close("complete", 0.0)


@pytest.mark.parametrize("off", [1, 2, 30])
def test_an_unfinished_last_record_is_one_warning(synthetic_run, tmp_path, off):
    run = synthetic_run(levels=(1,))
    path = run.write(tmp_path)
    cut_last_line(path / "requests.jsonl", off)
    back = Run.open(path)
    records = list(back.records())
    # Without only its newline the last record is whole, and kept.
    assert len(records) == len(run.records(0)) - (off > 1)
    assert len(back.warnings) == (off > 1)


def test_a_broken_line_in_the_middle_is_an_error_with_its_place(synthetic_run, tmp_path):
    path = synthetic_run(levels=(1,)).write(tmp_path)
    lines = (path / "requests.jsonl").read_bytes().splitlines(keepends=True)
    (path / "requests.jsonl").write_bytes(b"".join([*lines[:3], b'{"half": \n', *lines[3:]]))
    with pytest.raises(DataError, match="line 4"):
        list(Run.open(path).records())


def test_an_unfinished_last_stage_line_is_one_warning_and_a_missing_stage(synthetic_run, tmp_path):
    path = synthetic_run(levels=(1, 2)).write(tmp_path)
    cut_last_line(path / "stages.jsonl", 20)
    back = Run.open(path)
    assert [key.agents for key in back.missing] == [2]
    assert len(back.warnings) == 1


@pytest.mark.parametrize("schema", [SCHEMA_VERSION + 1, 0, "1", None])
def test_a_schema_this_version_does_not_know_is_refused(synthetic_run, tmp_path, schema):
    path = synthetic_run(levels=(1,)).write(tmp_path)
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["schema"] = schema
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match=f"this version reads 1 to {SCHEMA_VERSION}"):
        Run.open(path)


@pytest.mark.parametrize("content", ["", "{", "[]", '"text"', '{"schema": 1}'])
def test_a_manifest_that_is_none_is_one_line(synthetic_run, tmp_path, content):
    path = synthetic_run(levels=(1,)).write(tmp_path)
    (path / "manifest.json").write_text(content)
    with pytest.raises(DataError, match=r"manifest\.json"):
        Run.open(path)


def test_a_full_disk_is_a_data_error_and_earlier_lines_stay(synthetic_run, tmp_path):
    run = synthetic_run(levels=(1,))
    writer = RunWriter(tmp_path, run.manifest())
    records = run.records(0)
    writer.append_requests([records[0]])
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, writer._requests.open())
    with pytest.raises(DataError, match="earlier lines stay readable"):
        writer.append_requests([records[1]])
    assert list(Run.open(writer.path).records()) == records[:1]


def test_an_unknown_run_names_the_nearest(synthetic_run, tmp_path):
    synthetic_run(levels=(1,)).write(tmp_path)
    with pytest.raises(DataError, match="did you mean '20261120T104500-1a2b'"):
        find_run(tmp_path, "20261120T104500-1a2c")
