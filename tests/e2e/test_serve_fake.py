"""`loadgen serve-fake` as a process: its line, its errors, its signals, a cold start."""

import json
import signal
import socket
import time
import urllib.error
import urllib.request

import pytest

PROTOCOLS = {
    "vllm": ("/v1/completions", {"model": "tiny", "prompt": "a b", "max_tokens": 3}),
    "openai": ("/v1/completions", {"model": "tiny", "prompt": "a b", "max_tokens": 3}),
    "ollama": ("/api/generate", {"model": "tiny", "prompt": "a b", "options": {"num_predict": 3}}),
    "tgi": ("/generate_stream", {"inputs": "a b", "parameters": {"max_new_tokens": 3}}),
    "llama-server": ("/completion", {"prompt": "a b", "n_predict": 3, "stream": True}),
}


def post(url, document):
    with urllib.request.urlopen(url, json.dumps(document).encode(), timeout=30) as answer:
        return answer.read()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_protocol_serves_and_keeps_its_log(serve, log_of, protocol):
    path, asked = PROTOCOLS[protocol]
    process, url = serve(protocol, "--step-seconds", "0.002", "--sequence-seconds", "0.001")
    post(url + path, asked)
    log = log_of(url)
    (request,) = log["requests"]
    process.send_signal(signal.SIGTERM)

    assert process.wait(10) == 143
    assert (request["outcome"], request["output_tokens"]) == ("ok", 3)
    assert request["last"] - request["first"] == pytest.approx(2 * 0.003)
    assert request["arrival"] <= request["start"] < request["first"]
    assert request["end"] == request["last"]
    assert (log["steps"], log["loads"]) == (3, 0)
    assert log["lag_seconds_max"] >= 0


def test_ctrl_c_ends_it_with_130_even_in_mid_stream(serve):
    process, url = serve("vllm", "--step-seconds", "5")
    path, asked = PROTOCOLS["vllm"]
    body = json.dumps(asked | {"stream": True}).encode()
    with urllib.request.urlopen(url + path, body, timeout=30):
        process.send_signal(signal.SIGINT)

        assert process.wait(10) == 130
    assert "Traceback" not in process.stderr.read()


def test_a_cold_server_opens_its_port_once_it_has_loaded(start, free_port):
    process = start("loadgen", "serve-fake", "--protocol", "vllm", "--port", free_port,
                    "--cold", "--load-seconds", "1.5")  # fmt: skip
    url, begun, refused = f"http://127.0.0.1:{free_port}/health", time.monotonic(), 0
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                break
        except urllib.error.URLError:
            refused += 1
            assert time.monotonic() < begun + 60
            time.sleep(0.05)

    assert refused > 0
    assert time.monotonic() - begun >= 1.5
    assert process.poll() is None


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--protocol", "ollma"], "'ollma', did you mean 'ollama'?; allowed: vllm, openai"),
        (["--protocol", "tgi", "--step-seconds", "nan"], "--step-seconds: 'nan' is not a finite"),
        (["--protocol", "tgi", "--slots", "0"], "--slots: '0' is not a whole number of at least 1"),
        (["--protocol", "vllm", "--fail", "1=cutt"], "'1=cutt', did you mean 'cut'?"),
        (["--protocol", "vllm", "--fail", "x=cut"], "INDEX is a request's number"),
        (["--protocol", "llama-server", "--queue-limit", "4"], "llama-server never refuses"),
        (["--protocol", "vllm", "--preempt"], "--preempt: wants --kv-tokens"),
        (["--protocol", "tgi", "--idle-seconds", "4"], "--idle-seconds: tgi unloads nothing"),
        (["--protocol", "tgi", "--model", "a", "--model", "b"], "tgi serves one, given 2"),
        (["--protocol", "tgi", "--host", "no.such.host.invalid"], "--host"),
        ([], "--protocol"),
    ],
)
def test_mistakes_are_one_line(cli, error_line, words, says):
    assert says in error_line(cli("loadgen", "serve-fake", *words), 2)


def test_a_busy_port_is_one_line(cli, error_line):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = cli("loadgen", "serve-fake", "--protocol", "tgi", "--port", port)

    line = error_line(done, 2)
    assert f"--port {port}" in line
    assert "in use" in line
