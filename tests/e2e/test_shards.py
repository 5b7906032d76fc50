"""`loadgen run --shards`: several processes as one load generator, whatever befalls them."""

import json
import os
import resource
import signal
import subprocess
import urllib.request
from collections import Counter
from pathlib import Path

import psutil
import pytest

from contract.rundir import Run, find_run
from loadgen.workload.words import nonce

TARGET = ("--backend", "openai", "--isl", "8", "--osl", "4")


def run_of(folder):
    return Run.open(find_run(folder / "runs", "latest"))


def words_for(url, *more, shards=3):
    return ("loadgen", "run", *TARGET, "--base-url", url, "--metrics-port", "0", "--shards",
            shards, *more)  # fmt: skip


def shards_of(process):
    """The shards of a run, as they are now, by number."""
    children = psutil.Process(process.pid).children()
    return [child for child in children if "loadgen.shards.process" in child.cmdline()]


def under_way(folder, wait_until, lines=30):
    """Wait until so many requests are merged; their file."""
    requests = folder / "runs" / "latest" / "requests.jsonl"
    wait_until(lambda: requests.exists() and requests.read_bytes().count(b"\n") >= lines)
    return requests


def check_phases(run, stage, records):
    """Phases follow the window, and everything is there once and in order."""
    own = [record for record in records if record.stage == stage.stage]
    assert len(own) == stage.sent == len({(r.agent, r.seq) for r in own})
    assert [r.ended for r in own] == sorted(r.ended for r in own)
    for record in own:
        inside = stage.start <= record.ended < stage.end
        assert (record.phase == "measured") == (inside and record.ended != stage.start)
        assert record.phase != "drain" or record.ended >= stage.end
    measured = Counter(r.outcome for r in own if r.phase == "measured")
    assert measured == stage.outcomes


def test_three_shards_are_one_generator(cli, fake, log_of, tmp_path):
    url = fake("--slots", "4", "--service-seconds", "0.05")
    done = cli(*words_for(url, "--agents", "2,8", "--request-count", "120", "--json"))
    assert done.returncode == 0, done.stderr
    run = run_of(tmp_path)
    assert run.status == "complete"
    records = list(run.records())
    for stage in run.stages:
        check_phases(run, stage, records)
        assert stage.outcomes == {"ok": 120}
        assert {r.agent for r in records if r.stage == stage.stage} == {*range(stage.key.agents)}
    served = log_of(url)
    assert len(served["requests"]) == len(records)
    assert served["in_flight_max"] == 8
    summary = json.loads(done.stdout)
    for stage in summary["stages"]:
        assert stage["outcomes"] == {"ok": 120}
        assert stage["in_flight"] == pytest.approx(stage["agents"], rel=0.02)
        assert stage["loop_lag"]["n"] > 0
        assert stage["generator"]["reads"] > 120
        assert 0 < stage["generator"]["declared"] < 1
    assert sorted(entry.name for entry in run.path.glob("requests*")) == [
        "requests.jsonl",
        "requests.parquet",
    ]


def test_agents_are_in_flight_at_the_server_all_the_time_and_never_more(cli, fake, log_of):
    url = fake("--slots", "3", "--service-seconds", "0.1")
    done = cli(*words_for(url, "--agents", "9", "--duration", "6", "--json"))
    (stage,) = json.loads(done.stdout)["stages"]
    served = log_of(url)
    assert served["in_flight_max"] == 9
    loaded = served["requests"][-(stage["outcomes"]["ok"] + 9) : -9]
    start, end = loaded[9]["arrival"], loaded[-1]["end"]
    held = sum(max(0.0, min(r["end"], end) - max(r["arrival"], start)) for r in served["requests"])
    assert held / (end - start) >= 0.98 * 9


def said(folder):
    """Prompts by agent and number, without the words that name their run; and instants from the
    beginning of the stage."""
    run = run_of(folder)
    lines = (run.path / "replies.jsonl").read_text().splitlines()
    salted = slice(len(nonce(0, 3)), len(nonce(0, 3)) + 2)
    prompts = {}
    for reply in map(json.loads, lines):
        words = reply["prompt"].split()
        del words[salted]
        prompts[reply["agent"], reply["seq"]] = words
    assert len(prompts) == len(lines)
    (stage,) = run.stages
    dues = {(r.agent, r.seq): r.due - stage.began for r in run.records()}
    return prompts, dues


def test_a_schedule_is_the_same_whole_and_in_shards(cli, fake, tmp_path):
    url = fake("--slots", "8", "--service-seconds", "0.01")
    found = []
    for shards in (1, 3):
        words = ("--rate-stages", "40:2,60:1", "--save-text", "--max-concurrency", "20")
        done = cli(*words_for(url, *words, shards=shards))
        assert done.returncode == 0, done.stderr
        found.append(said(tmp_path))
    (prompts, dues), (prompts_in_shards, dues_in_shards) = found
    assert len(prompts) > 100
    assert prompts_in_shards == prompts
    assert dues_in_shards == pytest.approx(dues, abs=1e-6)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_drains_all_shards(start, fake, tmp_path, wait_until, number, code):
    url = fake("--slots", "2")
    process = start(*words_for(url, "--agents", "5", "--duration", "60"))
    under_way(tmp_path, wait_until)
    shards = shards_of(process)
    assert len(shards) == 3
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    run = run_of(tmp_path)
    assert (run.status, run.stages[0].complete) == ("partial", False)
    records = list(run.records())
    check_phases(run, run.stages[0], records)
    assert {record.outcome for record in records} == {"ok"}
    wait_until(lambda: not any(shard.is_running() for shard in shards))


def test_a_second_signal_cancels_what_is_in_flight(start, fake, log_of, tmp_path, wait_until):
    url = fake("--slots", "4", "--service-seconds", "60")
    process = start(*words_for(url, "--agents", "4", "--duration", "60"))
    wait_until(lambda: log_of(url)["in_flight"] == 4)
    process.send_signal(signal.SIGINT)
    wait_until(lambda: "again to abort" in process.stderr.readline())
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    run = run_of(tmp_path)
    assert run.status == "partial"
    assert Counter(record.outcome for record in run.records()) == {"cancelled": 4}


def test_a_shard_killed_for_good_marks_the_run_partial_and_keeps_what_it_wrote(
    start, fake, log_of, tmp_path, wait_until, error_line
):
    url = fake("--slots", "4", "--service-seconds", "0.05")
    process = start(*words_for(url, "--agents", "6", "--duration", "60", "--json"))
    under_way(tmp_path, wait_until, lines=60)
    path = (tmp_path / "runs" / "latest").resolve()
    victim = next(shard for shard in shards_of(process) if kept_open(shard, path, 1))
    victim.kill()
    out, err = process.communicate(timeout=60)
    line = error_line(subprocess.CompletedProcess([], process.returncode, out, err), 128 + 9)
    assert f"shard 1 (process {victim.pid}) was killed by SIGKILL" in line
    run = run_of(tmp_path)
    assert (run.status, run.stages[0].complete) == ("partial", False)
    assert "shard 1" in run.manifest.note
    records = list(run.records())
    check_phases(run, run.stages[0], records)
    by_agent = Counter(record.agent for record in records)
    assert set(by_agent) == {0, 1, 2, 3, 4, 5}
    assert {record.outcome for record in records} == {"ok"}  # the others drained
    # Of all that was served whole, only what the lost one had in flight has no record.
    assert len(log_of(url)["requests"]) - len(records) <= 2
    assert json.loads(out)["stages"][0]["outcomes"]["ok"] == run.stages[0].outcomes["ok"]


def kept_open(shard, path, number):
    return any(Path(file.path) == path / f"requests.{number}.jsonl" for file in shard.open_files())


def test_killed_for_good_the_conductor_leaves_nobody_behind_and_all_lines_are_read(
    start, cli, fake, log_of, tmp_path, wait_until
):
    url = fake("--slots", "4", "--service-seconds", "0.05")
    process = start(*words_for(url, "--agents", "6", "--duration", "60"))
    under_way(tmp_path, wait_until, lines=60)
    shards = shards_of(process)
    process.kill()
    process.wait()
    wait_until(lambda: not any(shard.is_running() for shard in shards))
    run = run_of(tmp_path)
    assert run.status == "partial"
    records = list(run.records())
    lines = sum(
        (run.path / f"requests.{shard}.jsonl").read_bytes().count(b"\n") for shard in range(3)
    )
    assert len(records) == lines == len({(r.agent, r.seq) for r in records})
    assert len(log_of(url)["requests"]) - lines <= 6
    exported = cli("loadgen", "export", "latest", "--format", "csv")
    assert exported.returncode == 0, exported.stderr
    assert (run.path / "metrics.csv").read_text().count("e2e_kv") == sum(
        record.outcome == "ok" for record in records
    )


def test_metrics_show_what_all_shards_did(start, fake, free_port, tmp_path, wait_until):
    url = fake("--slots", "4", "--service-seconds", "0.02")
    words = words_for(url, "--agents", "4", "--request-count", "200", "--metrics-linger", "10")
    process = start(*map(str, words), "--metrics-port", free_port)

    def counted():
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{free_port}/metrics", timeout=5) as page:
                text = page.read().decode()
        except OSError:
            return None
        return sum(
            float(line.split()[-1])
            for line in text.splitlines()
            if line.startswith("loadstone_requests_total") and 'phase="measured"' in line
        )

    wait_until(lambda: counted() == 200.0)
    process.communicate(timeout=60)
    assert run_of(tmp_path).stages[0].outcomes == {"ok": 200}


def test_an_idle_shard_holds_nothing_up(cli, fake, tmp_path):
    url = fake("--slots", "1", "--service-seconds", "0.01")
    done = cli(*words_for(url, "--agents", "1", "--request-count", "30", shards=4))
    assert done.returncode == 0, done.stderr
    (stage,) = run_of(tmp_path).stages
    assert stage.outcomes == {"ok": 30}


def test_mistakes_are_one_line(cli, error_line, tmp_path):
    assert "allowed: 1" in error_line(cli("loadgen", "run", "--shards", "2"), 2)
    assert "--shards: '0'" in error_line(cli("loadgen", "run", "--shards", "0"), 2)
    (tmp_path / "run.yaml").write_text("backend: openai\nshards: 2\n")
    done = cli("loadgen", "find", "--config", "run.yaml", "--goodput", "ttft:200")
    assert "a search drives one process" in error_line(done, 2)
    assert not (tmp_path / "runs").exists()
    assert os.listdir(tmp_path) == ["run.yaml"]


def test_a_full_disk_ends_all_shards_and_no_line_is_lost(start, fake, tmp_path, error_line):
    url = fake("--slots", "8", "--service-seconds", "0.005")

    def limited():
        # What is merged is three times what each shard writes, and meets the limit first.
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))

    process = start(*words_for(url, "--agents", "6", "--duration", "30"), preexec_fn=limited)
    out, err = process.communicate(timeout=60)
    done = subprocess.CompletedProcess([], process.returncode, out, err)
    assert "requests.jsonl: cannot be written (File too large)" in error_line(done, 4)
    run = run_of(tmp_path)
    assert run.status in ("partial", "failed")
    records = list(run.records())
    lines = sum(
        (run.path / f"requests.{shard}.jsonl").read_bytes().count(b"\n") for shard in range(3)
    )
    assert len(records) == lines == len({(r.agent, r.seq) for r in records})
    assert lines > (run.path / "requests.jsonl").read_bytes().count(b"\n")
