"""A run directory becomes a table, or one line says why not."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from analysis.from_rundir import table_from_run
from analysis.table import weighted_mean
from contract.errors import DataError
from contract.rundir import Run


def table(path):
    return table_from_run(Run.open(path))


def test_counts_means_and_windows_come_back(synthetic_run, tmp_path):
    run = synthetic_run(levels=(1, 2, 4))
    read = table(run.write(tmp_path))
    assert [row.agents for row in read.levels] == [1, 2, 4]
    # X = min(N, 2.5) / 0.25 over 20 s
    assert [row.requests for row in read.levels] == [80, 160, 200]
    assert [row.requests_per_second for row in read.levels] == pytest.approx([4.0, 8.0, 10.0])
    assert [row.mean_latency for row in read.levels] == pytest.approx([0.25, 0.25, 0.4])
    assert read.levels[0].mean_prompt_tokens == 16
    tokens = [30 + seq % 3 for seq in range(1, 81)]
    assert read.levels[0].mean_output_tokens == pytest.approx(sum(tokens) / 80)
    assert read.missing == []
    assert read.warnings == []
    assert (read.key.model, read.key.backend) == ("gpt2-25m", "hf")
    assert (read.key.hardware, read.key.quantization) == ("Test CPU", "fp32")


def test_blocks_tile_the_window_and_keep_every_request(synthetic_run, tmp_path):
    for row in table(synthetic_run().write(tmp_path)).levels:
        assert sum(row.block_counts) == row.requests
        assert len(row.block_counts) * row.block_seconds == pytest.approx(row.seconds)
        assert len(row.block_counts) >= 10
        assert row.block_seconds > 2.9 * row.mean_latency


def test_an_unfinished_run_names_what_is_missing(synthetic_run, tmp_path):
    path = synthetic_run(finished=4, status="running").write(tmp_path)
    read = table(path)
    assert [row.agents for row in read.levels] == [1, 2, 3, 4]
    assert read.missing == ["stage 5 (agents 5)", "stage 6 (agents 6)"]
    assert "stage 5 (agents 5) did not finish" in read.warnings
    assert f"run {path.name} is partial" in read.warnings


def test_a_run_without_a_finished_stage_names_them_all(synthetic_run, tmp_path):
    read = table(synthetic_run(levels=(1, 2), finished=0, status="partial").write(tmp_path))
    assert read.levels == []
    assert read.missing == ["stage 1 (agents 1)", "stage 2 (agents 2)"]


def test_repeats_are_rows_of_their_own(synthetic_run, tmp_path):
    read = table(synthetic_run(levels=(1, 2, 1)).write(tmp_path))
    assert [(row.agents, row.repeat) for row in read.levels] == [(1, 0), (2, 0), (1, 1)]


def test_a_failed_verdict_is_named(synthetic_run, tmp_path):
    rows = table(synthetic_run(failing=[3]).write(tmp_path)).levels
    assert [row.good for row in rows] == [True, True, False, True, True, True]
    assert rows[2].why == "failed little"


def test_a_doubt_about_first_tokens_and_gaps_leaves_whole_requests_to_the_fit(
    synthetic_run, tmp_path
):
    path = synthetic_run(failing=[3]).write(tmp_path)
    stages = path / "stages.jsonl"
    stages.write_text(stages.read_text().replace('"little"', '"generator"'))
    assert [row.good for row in table(path).levels] == [True] * 6
    (doubted,) = [stage for stage in Run.open(path).stages if stage.failed]
    assert (doubted.good, doubted.whole, doubted.failed) == (False, True, ["generator"])


def test_a_line_cut_by_a_crash_is_dropped_and_said_so(synthetic_run, tmp_path):
    path = synthetic_run(levels=(1, 2, 4), finished=2, status="running").write(tmp_path)
    with (path / "requests.jsonl").open("ab") as file:
        file.write(b'{"run":"2026')
    read = table(path)
    assert [row.requests for row in read.levels] == [80, 160]
    assert any("dropped an unfinished last line" in warning for warning in read.warnings)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"sent": 0.0}, "sent: 0.0 found, at least due = "),
        ({"last_token": 0.5}, "last_token: 0.5 found, at least first_token = "),
        ({"outcome": "fine"}, "outcome: 'fine' found, one of ok, "),
        ({"output_tokens": -1}, "output_tokens: -1 found, int at least 0 | None expected"),
        ({"run": "other"}, "belongs to run 'other'"),
    ],
)
def test_a_record_that_cannot_be_is_named(synthetic_run, tmp_path, change, says):
    path = synthetic_run(levels=(1, 2, 4)).write(tmp_path)
    file = path / "requests.jsonl"
    lines = file.read_text().splitlines()
    lines[5] = json.dumps({**json.loads(lines[5]), **change})
    file.write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError) as caught:
        table(path)
    assert says in str(caught.value)
    assert "requests.jsonl: line 6 " in str(caught.value)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_number_json_does_not_know_is_an_unreadable_line(synthetic_run, tmp_path, bad):
    path = synthetic_run(levels=(1, 2, 4)).write(tmp_path)
    file = path / "requests.jsonl"
    lines = file.read_text().splitlines()
    lines[5] = json.dumps({**json.loads(lines[5]), "due": bad})
    file.write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match="line 6 is not a request record"):
        table(path)


def test_records_that_disagree_with_their_stage_line_are_refused(synthetic_run, tmp_path):
    path = synthetic_run(levels=(1, 2, 4)).write(tmp_path)
    file = path / "requests.jsonl"
    lines = file.read_text().splitlines()
    file.write_text("\n".join(lines[:5] + lines[6:]) + "\n")
    with pytest.raises(DataError, match=r"stage 1 has 79 ok measured .* stages.jsonl says 80 ok"):
        table(path)


def test_a_completion_outside_its_window_is_refused(synthetic_run, tmp_path):
    def late(record):
        if (record.stage, record.seq) == (1, 80):
            return replace(record, ended=50.0)
        return record

    with pytest.raises(DataError, match=r"completed at 50.0, outside its window \[2.0, 22.0\)"):
        table(synthetic_run(levels=(1, 2, 4), edit=late).write(tmp_path))


def edit_stage(path, line, change):
    file = path / "stages.jsonl"
    lines = [json.loads(text) for text in file.read_text().splitlines()]
    change(lines[line])
    file.write_text("".join(json.dumps(text) + "\n" for text in lines))


def test_a_window_that_ends_before_it_starts_is_refused(synthetic_run, tmp_path):
    path = synthetic_run(levels=(1, 2, 4)).write(tmp_path)
    edit_stage(path, 1, lambda stage: stage.update(end=stage["start"] - 1))
    with pytest.raises(DataError, match="stage 2 has the window"):
        table(path)


def test_stages_of_different_shapes_are_not_one_curve(synthetic_run, tmp_path):
    path = synthetic_run(levels=(1, 2, 4)).write(tmp_path)
    edit_stage(path, 2, lambda stage: stage["key"].update(output_tokens=64))
    with pytest.raises(DataError, match=r"differ in output_tokens \(32, 64\)"):
        table(path)


def test_the_same_stage_twice_is_refused(synthetic_run, tmp_path):
    path = synthetic_run(levels=(1, 2, 4)).write(tmp_path)
    edit_stage(path, 2, lambda stage: stage.update(stage=2))
    with pytest.raises(DataError, match="stage 2 is there twice"):
        table(path)


def test_a_stage_stopped_before_its_window_opened_did_not_finish(synthetic_run, tmp_path):
    path = synthetic_run(levels=(1, 2, 4)).write(tmp_path)
    edit_stage(path, 2, lambda stage: stage.update(end=stage["start"], complete=False, outcomes={}))
    read = table(path)
    assert [row.agents for row in read.levels] == [1, 2]
    assert read.missing == ["stage 3 (agents 4)"]


def test_means_over_rows_weigh_requests(synthetic_run, tmp_path):
    rows = table(synthetic_run(levels=(1, 4)).write(tmp_path)).levels
    expected = (80 * 0.25 + 200 * 0.4) / 280
    assert weighted_mean(rows, "mean_latency") == pytest.approx(expected)
    assert weighted_mean([], "mean_latency") is None
