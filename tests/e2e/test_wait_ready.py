"""Commands that wait for a server that is still to come."""

import json
import signal

import pytest

from contract.rundir import Run, find_run


@pytest.fixture
def starting(start, free_port):
    """`starting("vllm", 1.5)`: the URL at which an emulator will listen in so many seconds."""

    def starting(protocol, seconds):
        start("loadgen", "serve-fake", "--protocol", protocol, "--port", free_port, "--cold",
              "--load-seconds", seconds)  # fmt: skip
        return f"http://127.0.0.1:{free_port}"

    return starting


def test_a_run_begins_once_its_server_is_there(cli, starting, tmp_path):
    url = starting("vllm", 4)
    done = cli("loadgen", "run", "--backend", "vllm", "--base-url", url, "--wait-ready", "120",
               "--metrics-port", "0", "--agents", "1", "--request-count", "3", "--isl", "8",
               "--osl", "4")  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = done.stderr.splitlines()
    assert said[0].startswith(f"waiting for {url}, 0 of 120 s: no server at {url} (connection ref")
    assert any(line.startswith(f"{url} is ready after ") for line in said)
    run = Run.open(find_run(tmp_path / "runs", "latest"))
    assert run.status == "complete"
    assert {record.outcome for record in run.records()} == {"ok"}


def test_a_check_waits_too(cli, starting):
    url = starting("tgi", 4)
    done = cli("loadgen", "check", "--backend", "tgi", "--base-url", url, "--wait-ready", "120",
               "--json")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["model"] == "tiny"


@pytest.mark.parametrize(
    "words", [("run",), ("find", "--goodput", "ttft:200"), ("check",)], ids=lambda words: words[0]
)
def test_in_vain_it_is_exit_3_with_how_long(cli, error_line, free_port, tmp_path, words):
    port = () if words[0] == "check" else ("--metrics-port", "0")
    done = cli("loadgen", *words, "--backend", "vllm", "--base-url",
               f"http://127.0.0.1:{free_port}", "--wait-ready", "1", *port)  # fmt: skip
    line = error_line(done, 3)
    assert "start 'vllm serve MODEL' there" in line
    assert "waited 1.0 s for it" in line
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("command", "number", "code"),
    [("run", signal.SIGINT, 130), ("run", signal.SIGTERM, 143), ("check", signal.SIGINT, 130),
     ("check", signal.SIGTERM, 143)],
)  # fmt: skip
def test_a_signal_ends_the_waiting_and_nothing_was_written(
    start, free_port, tmp_path, command, number, code
):
    port = () if command == "check" else ("--metrics-port", "0")
    process = start("loadgen", command, "--backend", "ollama", "--base-url",
                    f"http://127.0.0.1:{free_port}", "--wait-ready", "100", *port)  # fmt: skip
    assert process.stderr.readline().startswith("waiting for ")
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (code, "", "")
    assert list(tmp_path.iterdir()) == []


def test_a_model_in_this_process_is_not_waited_for(cli, error_line):
    assert "--wait-ready: not for backend 'hf'" in error_line(
        cli("loadgen", "run", "--wait-ready", "5"), 2
    )
