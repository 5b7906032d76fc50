"""`analysis fit` on a run directory: what it prints, what it writes, how it ends."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from analysis.fit_command import add_parser, duration, reason
from analysis.planner.fitted import read_fitted
from analysis.queueing import md1_sojourn_quantile
from analysis.table import StageRow
from contract.commandline import Parser, run


@pytest.fixture
def fit(tmp_path, capsys):
    """Run `analysis fit` in a folder of its own; gives (exit code, stdout, stderr)."""

    def call(*argv):
        parser = Parser(prog="analysis")
        add_parser(parser.add_subparsers())
        output = ["--output", str(tmp_path / "fitted.json")] if "--output" not in argv else []
        code = run(lambda: parser, ["fit", "--runs-dir", str(tmp_path), *output, *map(str, argv)])
        return code, *capsys.readouterr()

    return call


def entry(tmp_path):
    return json.loads((tmp_path / "fitted.json").read_text())["models"][0]


def test_the_newest_run_is_fitted_printed_and_written(synthetic_run, tmp_path, fit):
    synthetic_run(name="a", knee=4.0).write(tmp_path)
    synthetic_run(name="b").write(tmp_path)
    code, out, err = fit()
    assert (code, err) == (0, "")
    assert "run b (run directory)" in out
    assert "law: hinge (chosen)    X(N) = min(N, M) / (M S)" in out
    assert "service time 0.1 s (fitted: 1 / ceiling)" in out
    assert f"written: {tmp_path / 'fitted.json'}" in out
    coefficients = entry(tmp_path)["coefficients"]
    assert coefficients["hinge_m"]["value"] == pytest.approx(2.5, rel=1e-3)
    assert coefficients["service_time"]["value"] == pytest.approx(0.1, rel=1e-3)
    assert coefficients["service_time"]["class"] == "fitted"
    assert coefficients["hinge_m"]["source"] == ["run:b"]
    assert coefficients["hinge_m"]["domain"] == [1, 6]
    assert coefficients["hinge_m"]["low"] < 2.5 < coefficients["hinge_m"]["high"]
    assert coefficients["prompt_tokens"]["value"] == 16
    assert entry(tmp_path)["derived"]["throughput_n1"]["value"] == pytest.approx(4.0, rel=1e-3)


def test_the_planner_reads_what_was_written(synthetic_run, tmp_path, fit):
    synthetic_run().write(tmp_path)
    assert fit()[0] == 0
    [read] = read_fitted(str(tmp_path / "fitted.json"))
    assert read.key == ("gpt2-25m", "hf", "Test CPU", "fp32")
    assert (read.law, read.domain_end) == ("hinge", 6.0)
    assert read.coefficients["service_time"].value == pytest.approx(0.1, rel=1e-3)
    assert read.coefficients["output_tokens"].basis == "measured"


def test_a_run_is_taken_by_folder_and_by_id(synthetic_run, tmp_path, fit):
    path = synthetic_run(name="first").write(tmp_path)
    synthetic_run(name="second").write(tmp_path)
    for given in (path, "first"):
        assert "run first (run directory)" in fit("--run", given)[1]


def test_an_unknown_run_suggests_the_nearest(synthetic_run, tmp_path, fit):
    synthetic_run(name="first").write(tmp_path)
    code, out, err = fit("--run", "frist")
    assert (code, out) == (4, "")
    assert err.startswith("error: run 'frist' not found")
    assert "did you mean 'first'?" in err


def test_json_prints_one_document_and_nothing_else(synthetic_run, tmp_path, fit):
    synthetic_run(finished=5, status="partial").write(tmp_path)
    code, out, err = fit("--json")
    document = json.loads(out)
    assert code == 0
    assert document["law"]["name"] == "hinge"
    assert document["missing"] == ["stage 6 (agents 6)"]
    assert "warning: stage 6 (agents 6) did not finish" in err
    service = document["coefficients"]["service_time"]["value"]
    half = document["latency"][1]
    assert half["utilisation"] == 0.5
    assert half["requests_per_second"] == pytest.approx(0.5 / service)
    assert half["p95"] == pytest.approx(md1_sojourn_quantile(0.5, service, 0.95))


def test_a_run_killed_in_its_fifth_stage_is_fitted_on_four(synthetic_run, tmp_path, fit):
    synthetic_run(finished=4, status="running").write(tmp_path)
    code, out, err = fit()
    assert code == 0
    assert "holds for 1 to 4 agents" in out
    assert "warning: stage 5 (agents 5) did not finish" in err
    assert "warning: stage 6 (agents 6) did not finish" in err
    assert [point["agents"] for point in entry(tmp_path)["points"]] == [1, 2, 3, 4]


def test_a_run_killed_in_its_third_stage_prints_its_points_and_ends_with_5(
    synthetic_run, tmp_path, fit
):
    synthetic_run(finished=2, status="running").write(tmp_path)
    code, out, err = fit()
    assert code == 5
    assert [line.split()[:3] for line in out.splitlines()[4:]] == [
        ["1", "80", "4"],
        ["2", "160", "8"],
    ]
    assert err.splitlines()[-1].startswith("error: ")
    assert "at least 3" in err.splitlines()[-1]
    assert not (tmp_path / "fitted.json").exists()


def test_too_few_levels_in_json_still_shows_the_points(synthetic_run, tmp_path, fit):
    synthetic_run(levels=(1, 2)).write(tmp_path)
    code, out, _ = fit("--json")
    assert code == 5
    assert [point["requests"] for point in json.loads(out)["points"]] == [80, 160]


def test_a_failed_verdict_is_shown_and_left_out(synthetic_run, tmp_path, fit):
    synthetic_run(failing=[3]).write(tmp_path)
    code, out, _ = fit()
    assert code == 0
    assert "no: failed little" in out
    points = entry(tmp_path)["points"]
    assert [(p["agents"], p["used"], p["why"]) for p in points][1:4] == [
        (2, True, ""),
        (3, False, "failed little"),
        (4, True, ""),
    ]
    assert entry(tmp_path)["coefficients"]["hinge_m"]["n"] == 5


def test_failed_verdicts_are_included_on_demand(synthetic_run, tmp_path, fit):
    synthetic_run(levels=(1, 2, 4), failing=[2]).write(tmp_path)
    code, out, err = fit()
    assert code == 5
    assert "no: failed little" in out
    assert "agents 2 left out, --include-failed-verdicts takes them in" in err
    assert fit("--include-failed-verdicts")[0] == 0
    assert entry(tmp_path)["coefficients"]["hinge_m"]["n"] == 3


def test_a_stage_without_a_completion_is_shown_and_left_out(synthetic_run, tmp_path, fit):
    path = synthetic_run(levels=(1, 2, 3, 4)).write(tmp_path)
    lines = [json.loads(line) for line in (path / "requests.jsonl").read_text().splitlines()]
    for line in lines:
        if line["stage"] == 4:
            line["outcome"] = "timed_out"
    (path / "requests.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    stages = [json.loads(line) for line in (path / "stages.jsonl").read_text().splitlines()]
    stages[3]["outcomes"] = {"timed_out": stages[3]["outcomes"]["ok"]}
    (path / "stages.jsonl").write_text("".join(json.dumps(stage) + "\n" for stage in stages))
    code, out, _ = fit("--include-failed-verdicts")
    assert code == 0
    assert "no: no request completed" in out
    assert entry(tmp_path)["points"][3]["low"] is None


def test_three_levels_say_that_the_law_was_assumed(synthetic_run, tmp_path, fit):
    synthetic_run(levels=(1, 2, 4)).write(tmp_path)
    code, out, _ = fit()
    assert code == 0
    assert "three levels cannot choose a law" in out
    assert entry(tmp_path)["law"]["selected"] is False


def test_a_ceiling_nobody_reached_is_extrapolated(synthetic_run, tmp_path, fit):
    synthetic_run(levels=(1, 2, 3), knee=50.0, service=0.01).write(tmp_path)
    code, out, _ = fit()
    assert code == 0
    assert "the ceiling is not known" in out
    coefficients = entry(tmp_path)["coefficients"]
    assert coefficients["service_time"]["class"] == "extrapolated"
    assert coefficients["hinge_m"]["one_sided"] is True


class Contended:
    """X(N) = 4 N / (1 + 0.2 (N - 1)), without a knee."""

    def rate(self, agents):
        return 4.0 * agents / (1.0 + 0.2 * (agents - 1))


def test_amdahl_takes_its_service_time_from_a_single_agent(synthetic_run, tmp_path, fit):
    kind = type("Run", (Contended, synthetic_run), {})
    kind(levels=(1, 2, 4, 8, 16, 32), seconds=30.0).write(tmp_path)
    code, out, _ = fit()
    assert code == 0
    assert "law: amdahl (chosen)" in out
    assert "(measured: mean latency at one agent)" in out
    coefficients = entry(tmp_path)["coefficients"]
    assert coefficients["amdahl_sigma"]["value"] == pytest.approx(0.2, rel=0.02)
    assert coefficients["service_time"]["value"] == pytest.approx(0.25)
    assert coefficients["service_time"]["class"] == "measured"
    assert entry(tmp_path)["derived"]["ceiling"]["value"] == pytest.approx(20.0, rel=0.02)


def test_without_a_single_agent_the_service_time_is_extrapolated(synthetic_run, tmp_path, fit):
    kind = type("Run", (Contended, synthetic_run), {})
    kind(levels=(2, 4, 8, 16, 32), seconds=30.0).write(tmp_path)
    assert fit()[0] == 0
    coefficients = entry(tmp_path)["coefficients"]
    assert coefficients["throughput_n1"]["class"] == "extrapolated"
    assert coefficients["service_time"]["class"] == "extrapolated"
    assert coefficients["service_time"]["value"] == pytest.approx(0.25, rel=0.02)


def test_the_same_seed_gives_the_same_document(synthetic_run, tmp_path, fit):
    synthetic_run().write(tmp_path)
    first, second, other = (json.loads(fit("--json", "--seed", s)[1]) for s in (1, 1, 2))
    assert first == second
    assert first["coefficients"]["hinge_m"]["low"] != other["coefficients"]["hinge_m"]["low"]


def test_a_schema_from_the_future_ends_with_4(synthetic_run, tmp_path, fit):
    path = synthetic_run().write(tmp_path)
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**manifest, "schema": 99}))
    code, _, err = fit()
    assert code == 4
    assert "found schema 99" in err


def test_an_output_that_cannot_be_written_ends_with_2(synthetic_run, tmp_path, fit):
    synthetic_run().write(tmp_path)
    code, _, err = fit("--output", tmp_path / "absent" / "fitted.json")
    assert code == 2
    assert err.startswith("error: --output: ")


@pytest.mark.parametrize("output", ["/", ".", "..", ""])
def test_an_output_that_is_no_file_ends_with_2_before_the_work(tmp_path, fit, output):
    code, out, err = fit("--output", output)
    assert (code, out) == (2, "")
    assert err.startswith(("error: --output: folder", "error: --output: an empty text"))
    assert err.count("\n") == 1


def test_a_full_disk_ends_with_4(synthetic_run, tmp_path, fit):
    synthetic_run().write(tmp_path)
    (tmp_path / "full.json").symlink_to("/dev/full")
    code, _, err = fit("--output", tmp_path / "full.json")
    assert code == 4
    assert (
        err
        == f"error: --output: {tmp_path}/full.json: cannot be written (No space left on device)\n"
    )
    assert Path("/dev/full").is_char_device()


def test_what_is_no_regular_file_is_written_to_and_not_replaced(synthetic_run, tmp_path, fit):
    synthetic_run().write(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    assert fit("--output", tmp_path / "pipe")[0] == 0
    document = json.loads(os.read(reader, 1 << 16))
    os.close(reader)
    assert document["models"][0]["law"]["name"] == "hinge"
    assert (tmp_path / "pipe").is_fifo()


def test_without_usage_the_tokens_are_unknown_said_and_planned_without(
    synthetic_run, tmp_path, fit
):
    uncounted = {"output_tokens": None, "output_source": None}
    synthetic_run(edit=lambda record: replace(record, **uncounted)).write(tmp_path)
    code, out, err = fit("--json")
    assert code == 0
    assert err.count("\n") == 1
    assert err.startswith("warning: output tokens unknown because the server reported no usage")
    assert json.loads(out)["warnings"] == [err.removeprefix("warning: ").strip()]
    assert "output_tokens" not in entry(tmp_path)["coefficients"]
    [read] = read_fitted(str(tmp_path / "fitted.json"))
    assert sorted(read.coefficients) == ["hinge_m", "prompt_tokens", "service_time"]


def test_a_name_that_would_steer_the_terminal_is_refused(synthetic_run, tmp_path, fit):
    synthetic_run(quantization="fp32\x1b[2J").write(tmp_path)
    code, out, err = fit()
    assert (code, out) == (4, "")
    assert r"quantization: found 'fp32\x1b[2J', expected printable characters" in err


def test_open_loops_are_never_fitted_nor_offered():
    row = StageRow(
        stage=1, agents=0, seconds=1.0, requests=9, mean_output_tokens=1.0, mean_prompt_tokens=1.0,
        mean_latency=0.1, outcomes={"ok": 9}, block_counts=(4.0, 5.0), block_seconds=0.5,
        verdicts=None, good=False, why="failed little",
    )  # fmt: skip
    assert [reason(row, included) for included in (False, True)] == ["open loop", "open loop"]


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--run", ""], "--run: an empty text is given"),
        (["--from-prometheus", ""], "--from-prometheus: an empty text is given"),
        (["--from-prometheus", "--run-id", ""], "--run-id: an empty text is given"),
        (["--runs-dir", ""], "--runs-dir: an empty text is given"),
        (["--from-prometheus", "--runs-dir", "x"], "--runs-dir: given with --from-prometheus"),
        (["--seed", "-1"], "argument --seed"),
        (["--resamples", "3"], "argument --resamples"),
        (["--timeout", "nan"], "argument --timeout"),
        (["--lookback", "-3h"], "argument --lookback"),
        (["--run", "a", "--from-prometheus"], "not allowed with argument --run"),
        (["--run-id", "a"], "--run-id: given without --from-prometheus"),
        (["--lookback", "3h"], "--lookback: given without --from-prometheus"),
    ],
)
def test_a_wrong_flag_ends_with_2_and_one_line(fit, argv, says):
    code, out, err = fit(*argv)
    assert (code, out) == (2, "")
    assert says in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("1.5m", 90), ("24h", 86400), ("7d", 604800)]
)
def test_times_are_read_with_their_unit(text, seconds):
    assert duration(text) == seconds
