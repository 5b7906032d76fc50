"""A run from its first line to its end, however it ends."""

import json
import signal
import subprocess
from collections import Counter

import pytest

from contract.rundir import Run, find_run

FAST = ("--model", "tiny-gpt2", "--isl", "8", "--osl", "4", "--metrics-port", "0")


def run_of(folder):
    return Run.open(find_run(folder / "runs", "latest"))


def test_a_run_writes_everything_and_its_table_can_be_printed_again(cli, tmp_path):
    done = cli("loadgen", "run", *FAST, "--agents", "1..3", "--request-count", "20",
               "--percentiles", "50,99.9", "--json")  # fmt: skip
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    run = run_of(tmp_path)
    assert run.status == "complete"
    assert run.missing == []
    assert [stage["agents"] for stage in summary["stages"]] == [1, 2, 3]
    assert all(stage["outcomes"] == {"ok": 20} for stage in summary["stages"])
    assert all(stage["output_tokens_mean"] == 4 for stage in summary["stages"])
    assert all(stage["prompt_tokens_mean"] == 8 for stage in summary["stages"])
    records = list(run.records())
    for stage in run.stages:
        own = [record for record in records if record.stage == stage.stage]
        assert stage.sent == sum(Counter(record.outcome for record in own).values())
    again = json.loads(cli("loadgen", "show", "--json").stdout)
    for before, after in zip(summary["stages"], again["stages"], strict=True):
        assert list(before["itl"]) == ["mean", "p50", "p99.9", "n"]
        # No record holds how late the loop was: of that the verdict's figure is all there is.
        assert after.pop("loop_lag") == {"p99": before.pop("loop_lag")["p99"]}
        assert after == before
    assert {name: summary[name] for name in again} == again
    assert (run.path / "summary.json").exists()


def test_every_prompt_and_every_token_of_the_real_model_is_counted(cli, tmp_path):
    cli("loadgen", "run", *FAST, "--agents", "2", "--request-count", "10")
    for record in run_of(tmp_path).records():
        assert (record.prompt_tokens, record.output_tokens, record.chunks) == (8, 4, 4)
        assert record.server is not None
        assert record.server.prefill > 0
        assert record.server.decode > 0
        assert record.server.peak_memory_bytes > 1e6


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_drains_keeps_everything_and_marks_the_run_partial(
    start, fake, tmp_path, wait_until, number, code
):
    url = fake("--slots", "2")
    process = start("loadgen", "run", "--backend", "openai", "--base-url", url, "--metrics-port",
                    "0", "--agents", "4", "--duration", "60")  # fmt: skip
    requests = tmp_path / "runs" / "latest" / "requests.jsonl"
    wait_until(lambda: requests.exists() and requests.read_bytes().count(b"\n") > 8)
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == code
    run = run_of(tmp_path)
    assert run.status == "partial"
    assert not run.stages[0].complete
    outcomes = Counter(record.outcome for record in run.records())
    assert outcomes == {"ok": run.stages[0].sent}


def test_a_server_killed_for_good_is_exit_3_with_what_was_measured(
    start, tmp_path, wait_until, error_line
):
    server = start("loadgen.fakes.openai_server", "--slots", "2", "--service-seconds", "0.05")
    url = server.stdout.readline().split()[-1]
    process = start("loadgen", "run", "--backend", "openai", "--base-url", url, "--metrics-port",
                    "0", "--agents", "2", "--duration", "3", "--json")  # fmt: skip
    requests = tmp_path / "runs" / "latest" / "requests.jsonl"
    wait_until(lambda: requests.exists() and requests.read_bytes().count(b"\n") > 20)
    server.kill()
    out, err = process.communicate(timeout=60)
    done = subprocess.CompletedProcess([], process.returncode, out, err)
    assert "the target went away in stage 1 (2 agents)" in error_line(done, 3)
    (stage,) = json.loads(out)["stages"]
    assert stage["complete"] is False
    assert stage["outcomes"]["ok"] >= 15
    assert run_of(tmp_path).status == "partial"
    assert [record.outcome for record in run_of(tmp_path).records()][-3:] == ["unreachable"] * 3


def killed_in(start, tmp_path, wait_until, stage):
    """A run over 1..6 agents, killed with -9 while its `stage`-th stage is under way."""
    process = start("loadgen", "run", *FAST, "--agents", "1..6", "--duration", "1")
    stages = tmp_path / "runs" / "latest" / "stages.jsonl"
    requests = stages.with_name("requests.jsonl")
    under_way = f'"stage":{stage},'.encode()
    wait_until(lambda: requests.exists() and under_way in requests.read_bytes())
    assert stages.read_bytes().count(b"\n") == stage - 1
    process.kill()
    process.wait()


def test_killed_in_its_fifth_stage_a_run_is_fitted_on_four_and_names_the_rest(
    start, cli, tmp_path, wait_until
):
    killed_in(start, tmp_path, wait_until, 5)
    assert run_of(tmp_path).status == "partial"
    done = cli("analysis", "fit", "--run", "runs/latest", "--json", "--include-failed-verdicts")
    assert done.returncode == 0, done.stderr
    fitted = json.loads(done.stdout)
    assert [p["agents"] for p in fitted["points"] if p["used"]] == [1, 2, 3, 4]
    warnings = [line for line in done.stderr.splitlines() if line.startswith("warning:")]
    assert any("5" in line for line in warnings)
    assert any("6" in line for line in warnings)


def test_killed_in_its_third_stage_a_run_is_not_fittable_and_its_points_are_printed(
    start, cli, tmp_path, wait_until, error_line
):
    killed_in(start, tmp_path, wait_until, 3)
    done = cli("analysis", "fit", "--run", "runs/latest", "--include-failed-verdicts")
    assert "level" in error_line(done, 5)
    rows = [line.split()[0] for line in done.stdout.splitlines() if line.strip()[:1].isdigit()]
    assert {"1", "2"} <= set(rows)


def test_two_runs_at_once_do_not_disturb_each_others_folders(start, tmp_path):
    both = [start("loadgen", "run", *FAST, "--agents", "1", "--request-count", "5") for _ in "ab"]
    for process in both:
        process.communicate(timeout=120)
        assert process.returncode == 0
    runs = [entry for entry in (tmp_path / "runs").iterdir() if not entry.is_symlink()]
    assert len(runs) == 2
    assert all(Run.open(entry).status == "complete" for entry in runs)
