"""`loadgen show` and `export` of runs with stages that never finished."""

import json
import os
import platform

import psutil
import pytest

from contract.errors import DataError
from loadgen.cli import build_parser


def loadgen(*argv):
    arguments = build_parser().parse_args(list(map(str, argv)))
    return arguments.command(arguments)


@pytest.fixture
def killed(synthetic_run, tmp_path):
    """Killed in its first stage, of which 82 records were written."""
    return synthetic_run(levels=(1, 2), finished=0, status="running").write(tmp_path)


def test_a_run_killed_in_its_first_stage_says_what_there_is(killed, capsys):
    assert loadgen("show", killed) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0] == f"run {killed.name} (partial): no stage finished"
    assert lines[1:3] == ["  stage 1 (1 agent): 82 records", "  stage 2 (2 agents): no record"]
    assert "run again" in lines[3]
    assert "loadgen export --format parquet" in lines[3]
    assert err == ""
    assert loadgen("show", killed, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["stages"] == []
    assert document["unfinished"] == [
        {"stage": 1, "level": "1 agent", "records": 82},
        {"stage": 2, "level": "2 agents", "records": 0},
    ]


def test_a_run_without_a_single_record_does_not_name_an_export(killed, capsys):
    (killed / "requests.jsonl").write_bytes(b"")
    assert loadgen("show", killed) == 0
    out = capsys.readouterr().out
    assert "stage 1 (1 agent): no record" in out
    assert "export" not in out


def test_a_run_killed_later_shows_its_table_and_warns_of_the_rest(synthetic_run, tmp_path, capsys):
    path = synthetic_run(levels=(1, 2), finished=1, status="running").write(tmp_path)
    assert loadgen("show", path) == 0
    out, err = capsys.readouterr()
    assert out.startswith("agents  ok/total")
    assert err.endswith("(partial) did not finish stage 2 (2 agents): 162 records\n")


def test_the_records_of_a_run_without_a_finished_stage_can_be_exported(killed, capsys):
    assert loadgen("export", killed) == 0
    out, err = capsys.readouterr()
    made = ["requests.parquet", "metrics.csv", "summary.json"]
    assert out.split() == [str(killed / name) for name in made]
    assert err == f"warning: no stage of run {killed.name} finished: summary.csv is not made\n"
    assert not (killed / "summary.csv").exists()
    assert len((killed / "metrics.csv").read_text().splitlines()) == 1 + 3 * 81


@pytest.mark.parametrize("more", [[], ["--stage", 1]])
def test_a_result_by_stage_of_no_finished_stage_is_refused_as_that(killed, more):
    with pytest.raises(DataError, match=r"no stage finished, 82 records found; --format parquet"):
        loadgen("export", killed, "--format", "vllm", *more)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "line 1 column 1"),
        ("[1]", "a list found, an object expected"),
        ('{"stages": 3}', "'stages' is no list of stages"),
        ('{"stages": [{"stage": [1]}]}', "'stages' is no list of stages"),
        ('{"stages": [{"stage": 1, "verdicts": [{}]}]}', "'stages' is no list of stages"),
        ('{"stages": [], "definitions": 1}', "'definitions' is no object"),
        ("[" * 100_000, "limit exceeded"),
    ],
)
def test_a_broken_summary_is_said_in_words_and_counted_again(
    synthetic_run, tmp_path, capsys, text, says
):
    path = synthetic_run(levels=(1, 2)).write(tmp_path)
    (path / "summary.json").write_text(text)
    assert loadgen("export", path) == 0
    (warning,) = capsys.readouterr().err.splitlines()
    assert warning.startswith(f"warning: {path / 'summary.json'}: not a summary (")
    assert says in warning
    assert "counted again from the records" in warning
    stages = json.loads((path / "summary.json").read_text())["stages"]
    assert [stage["requests_per_second"] for stage in stages] == [4.0, 8.0]


@pytest.fixture
def going(synthetic_run, tmp_path):
    """Of this very process, which lives: two stages are planned, one of them has ended."""
    run = synthetic_run(levels=(1, 2), finished=1, status="running")
    path = run.write(tmp_path)
    own = {"pid": os.getpid(), "pid_started": psutil.Process().create_time()}
    manifest = run.manifest().to_json() | own | {"host": {"name": platform.node()}}
    (path / "manifest.json").write_text(json.dumps(manifest))
    return path


def test_a_run_that_is_still_going_is_not_said_to_have_missed_anything(going, capsys):
    assert loadgen("show", going) == 0
    err = capsys.readouterr().err
    assert err.endswith("(running) has yet to finish stage 2 (2 agents): 162 records\n")
    (going / "stages.jsonl").write_bytes(b"")
    assert loadgen("show", going) == 0
    out = capsys.readouterr().out
    assert "(running): no stage has finished" in out
    assert "look again when a stage has ended" in out
    with pytest.raises(DataError, match=r"no stage finished, .* it is still going: export it when"):
        loadgen("export", going, "--format", "vllm")


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"percentiles": 2.0**70}, r"config.percentiles: 1.18059\d*e\+21 given, allowed: 1 to 10"),
        ({"percentiles": [None]}, "config.percentiles: 'None' is not a number"),
        ({"goodput": {"a": 1}}, "config.goodput: unknown objective"),
    ],
)
@pytest.mark.parametrize("command", ["show", "export"])
def test_a_damaged_setting_of_a_run_is_data_not_usage(
    synthetic_run, tmp_path, config, says, command
):
    path = synthetic_run(levels=(1,)).write(tmp_path)
    document = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(document | {"config": config}))
    with pytest.raises(DataError, match=rf"manifest.json: {says}"):
        loadgen(command, path)
