"""How the commands behave towards shells: closed and full streams, lost terminals, odd words."""

import json
import os
import signal
import subprocess
import sys

import pytest

from contract.rundir import Run, find_run

FAST = ("--model", "tiny-gpt2", "--isl", "8", "--osl", "4", "--metrics-port", "0")


def shell(environment, tmp_path, line):
    """One line of shell, with `PY` for this interpreter."""
    return subprocess.run(
        ["bash", "-c", line], cwd=tmp_path, env=environment | {"PY": sys.executable}, text=True,
        capture_output=True, check=False, timeout=120,
    )  # fmt: skip


@pytest.mark.parametrize(
    "command", ["loadgen models", "analysis plan --request-rate 2", "loadgen --help"]
)
def test_a_result_that_cannot_be_printed_is_exit_4_but_where_nobody_reads_on(
    environment, tmp_path, command, error_line
):
    full = shell(environment, tmp_path, f"$PY -m {command} >/dev/full")
    assert "standard output: the result cannot be printed (No space" in error_line(full, 4)
    closed = shell(environment, tmp_path, f"$PY -m {command} >&-")
    assert "standard output: the result cannot be printed (it is closed)" in error_line(closed, 4)
    assert shell(environment, tmp_path, f"$PY -m {command} >&- 2>&-").returncode == 4
    headed = shell(environment, tmp_path, f"set -o pipefail; $PY -m {command} | head -1")
    assert (headed.returncode, headed.stderr, headed.stdout.count("\n")) == (0, "", 1)


@pytest.mark.parametrize(("closed", "code"), [(">&-", 4), ("2>&-", 0), (">&- 2>&-", 4)])
def test_a_run_without_streams_is_written_all_the_same(environment, tmp_path, closed, code):
    line = f"$PY -m loadgen run {' '.join(FAST)} --agents 1 --request-count 5 --json {closed}"
    done = shell(environment, tmp_path, line)
    assert done.returncode == code
    if "2>&-" not in closed:
        assert "error: standard output" in done.stderr
        assert "run directory: runs/" in done.stderr
    run = Run.open(find_run(tmp_path / "runs", "latest"))
    assert run.status == "complete"
    assert len(list(run.records())) >= 6


@pytest.mark.parametrize("lost", [">&-", ">/dev/full", "| true"])
def test_what_a_run_failed_of_is_said_wherever_its_table_went(environment, tmp_path, fake, lost):
    url = fake("--fail", "all=busy")
    words = f"--backend openai --base-url {url} --metrics-port 0 --agents 1 --request-count 2"
    done = shell(environment, tmp_path, f"set -o pipefail; $PY -m loadgen run {words} {lost}")
    assert done.returncode == 3
    assert done.stderr.splitlines()[-1].startswith("error: no request succeeded in stage 1 (1 ag")


def test_a_terminal_that_knows_no_signs_still_shows_the_table(environment, tmp_path):
    poor = environment | {"PYTHONIOENCODING": "ascii"}
    line = f"$PY -m loadgen run {' '.join(FAST)} --agents 1 --request-count 5"
    done = shell(poor, tmp_path, line)
    assert done.returncode == 0, done.stderr
    assert "5/5" in done.stdout


def test_a_lost_terminal_drains_and_keeps_everything(start, fake, tmp_path, wait_until):
    url = fake("--slots", "2")
    process = start("loadgen", "run", "--backend", "openai", "--base-url", url, "--metrics-port",
                    "0", "--agents", "4", "--duration", "60")  # fmt: skip
    requests = tmp_path / "runs" / "latest" / "requests.jsonl"
    wait_until(lambda: requests.exists() and requests.read_bytes().count(b"\n") > 8)
    os.kill(process.pid, signal.SIGHUP)
    process.communicate(timeout=30)
    assert process.returncode == 129
    run = Run.open(find_run(tmp_path / "runs", "latest"))
    assert (run.status, len(run.stages)) == ("partial", 1)


@pytest.mark.parametrize(
    "words",
    [
        ("loadgen", "run", "--model", ""),
        ("loadgen", "run", "--backend", "vllm", "--base-url", ""),
        ("loadgen", "run", "--output-dir", ""),
        ("loadgen", "serve-fake", "--protocol", "vllm", "--model", "a", "--model", ""),
        ("loadgen", "show", ""),
        ("analysis", "plan", "--request-rate", "2", "--hardware", ""),
        ("analysis", "fit", "--run", ""),
    ],
)
def test_an_empty_word_is_refused_not_read_as_the_default(cli, error_line, words):
    assert "empty" in error_line(cli(*words), 2)


@pytest.mark.parametrize(
    ("word", "meant"),
    [("--dur", "--duration"), ("--agnets", "--agents"), ("--base-rul", "--base-url")],
)
def test_the_option_that_was_meant_is_named(cli, error_line, word, meant):
    assert f"did you mean '{meant}'?" in error_line(cli("loadgen", "run", word, "3"), 2)


def test_a_word_like_no_option_gets_no_advice(cli, error_line):
    assert "did you mean" not in error_line(cli("loadgen", "run", "--bogus", "3"), 2)


def test_tokens_nobody_counted_are_unknown_not_zero(cli, fake):
    url = fake("--no-usage", "--service-seconds", "0.02")
    done = cli("loadgen", "run", "--backend", "openai", "--base-url", url, "--metrics-port", "0",
               "--agents", "1", "--request-count", "20", "--json")  # fmt: skip
    stage = json.loads(done.stdout)["stages"][0]
    assert stage["outcomes"] == {"ok": 20}
    assert stage["output_tokens_per_second"] is None
    assert stage["output_tokens_mean"] is None
    shown = cli("loadgen", "show").stdout.splitlines()[1].split()
    assert shown[3] == "-"


def test_hardware_is_what_the_user_says_it_is(cli, fake, tmp_path):
    url = fake("--service-seconds", "0.02")
    cli("loadgen", "run", "--backend", "openai", "--base-url", url, "--metrics-port", "0",
        "--agents", "1", "--request-count", "5", "--hardware", "RTX 4090 24GB")  # fmt: skip
    run = Run.open(find_run(tmp_path / "runs", "latest"))
    assert run.manifest.hardware == "RTX 4090 24GB"


def test_a_web_server_is_not_called_an_llm_server(start, cli, error_line, free_port, wait_until):
    start("http.server", str(free_port), "--bind", "127.0.0.1")

    def answers():
        return subprocess.run(
            ["bash", "-c", f"exec 3<>/dev/tcp/127.0.0.1/{free_port}"], check=False,
            capture_output=True,
        ).returncode == 0  # fmt: skip

    wait_until(answers)
    done = cli("loadgen", "run", "--backend", "openai", "--base-url",
               f"http://127.0.0.1:{free_port}", "--model", "x", "--metrics-port", "0")  # fmt: skip
    assert "not as an LLM server does" in error_line(done, 3)


def test_a_header_can_hold_a_secret_that_stands_in_no_file(start, fake, environment, tmp_path, cli):
    url = fake("--service-seconds", "0.02")
    words = ("loadgen", "run", "--backend", "openai", "--base-url", url, "--metrics-port", "0",
             "--agents", "1", "--request-count", "5", "--header", "X: $TENANT_SECRET")  # fmt: skip
    missing = cli(*words)
    assert missing.returncode == 2
    assert "TENANT_SECRET" in missing.stderr
    environment["TENANT_SECRET"] = "hunter2hunter2"
    try:
        done = cli(*words, "--client", "aiohttp")
        again = cli(*words, "--stamps", "user")
    finally:
        del environment["TENANT_SECRET"]
    assert (done.returncode, again.returncode) == (0, 0), done.stderr + again.stderr
    files = [file for file in (tmp_path / "runs").rglob("*") if file.is_file()]
    assert files
    assert not any(b"hunter2" in file.read_bytes() for file in files)
    records = list(Run.open(find_run(tmp_path / "runs", "latest")).records())
    assert {record.stamps for record in records} == {"user"}


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ("NoColon", "has no colon"),
        ("a b: c", "no header name"),
        ("Host: x", "by the client itself"),
    ],
)
def test_a_header_that_cannot_be_is_exit_2(cli, error_line, header, says):
    done = cli("loadgen", "run", "--backend", "vllm", "--header", header)
    assert says in error_line(done, 2)
