"""Secrets of the environment are told nobody, whatever a server says back."""

import json
import re
import urllib.request
from itertools import cycle

import pytest

from contract.rundir import Run, find_run
from tests.e2e.byte_server import MODELS, STREAM, completion, event, page

KEY = "sk-Zq/7+xWvTrNpLmKjHgFdSc"
TENANT = "hunter2~hunter3~hunter4"
QUICK = ("--isl", "8", "--osl", "2", "--metrics-port", "0")


def told(asked):
    """All that a careless server could say back."""
    return f"you sent {asked.field('authorization')} for {asked.field('x-tenant')}"


def slashed(asked):
    return json.dumps(told(asked)).replace("/", "\\/")


def cut_in_two(asked):
    """So long a page that its excerpt ends within the key."""
    return "<p>" + "x" * 175 + f" {told(asked)} {'y' * 800}"


def spoken(asked):
    return completion(*told(asked))  # a letter a token


# Every way in which a server may put into its answer what stood in our head.
WAYS = (
    lambda asked: page({"error": {"message": told(asked)}}, "401 Unauthorized"),
    lambda asked: page({"detail": [told(asked)]}, "422 Unprocessable"),
    lambda asked: page(cut_in_two(asked), "500 Internal Server Error"),
    lambda asked: f"HTTP/1.1 302 Found\r\nLocation: /{told(asked)}\r\n\r\n".encode(),
    lambda asked: STREAM + event({"error": {"message": told(asked)}}),
    lambda asked: STREAM + b'data: {"said":' + slashed(asked).encode() + b"\n\n",
    lambda asked: STREAM.replace(b"event-stream", b"html") + cut_in_two(asked).encode(),
    lambda asked: f"{told(asked)}\r\n\r\n".encode(),
)


@pytest.fixture
def echoing(bytes_server):
    """A server that says back what its requests' heads hold, and a version that is their key."""
    ways = cycle(way for failing in WAYS for way in (failing, spoken))

    def answer(asked):
        if asked.generates:
            yield next(ways)(asked)
        else:
            version = {"version": asked.field("authorization")}
            yield MODELS if asked.path == "/v1/models" else page(version)

    return bytes_server(answer)


@pytest.fixture
def secretive(environment):
    """An environment that holds a key and a header's value, for as long as a test lasts."""
    environment |= {"LOADSTONE_API_KEY": KEY, "TENANT": TENANT}
    yield ("--header", "X-Tenant: $TENANT")
    for name in ("LOADSTONE_API_KEY", "TENANT"):
        del environment[name]


def leaks(*texts):
    """The pieces of a secret in any of the texts: eight characters of one are too many."""
    spelt = (KEY, KEY.replace("/", "\\/"), TENANT)
    pieces = {secret[i : i + 8] for secret in spelt for i in range(len(secret) - 7)}
    return {piece for piece in pieces for text in texts if piece in text}


def files_of(folder):
    files = [file for file in folder.rglob("*") if file.is_file()]
    return [file.read_bytes().decode("latin-1") for file in files]


@pytest.mark.parametrize("client", ["wire", "aiohttp"])
def test_a_key_that_a_server_echoes_is_in_no_file_message_or_metric(
    start, echoing, secretive, tmp_path, wait_until, client
):
    process = start("loadgen", "run", "--backend", "vllm", "--base-url", echoing.url, *QUICK,
                    *secretive, "--client", client, "--agents", "8", "--duration", "1", "--json",
                    "--warmup-requests", "0", "--save-text", "--metrics-linger", "1")  # fmt: skip
    first = process.stderr.readline()
    series = f"http://127.0.0.1:{re.search('port ([0-9]+)', first)[1]}/metrics"
    requests = tmp_path / "runs" / "latest" / "requests.jsonl"
    wait_until(lambda: requests.exists() and requests.read_bytes().count(b"\n") > 2 * len(WAYS))
    metrics = urllib.request.urlopen(series, timeout=10).read().decode()
    out, err = process.communicate(timeout=60)

    assert process.returncode == 0, err
    assert f"Bearer {KEY}" in {asked.field("authorization") for asked in echoing.asked}
    assert TENANT in {asked.field("x-tenant") for asked in echoing.asked}
    run = Run.open(find_run(tmp_path / "runs", "latest"))
    errors = {record.error for record in run.records() if record.error}
    assert "HTTP 401: you sent Bearer [API key] for [X-Tenant]" in errors
    replies = (run.path / "replies.jsonl").read_text()
    assert '"text":"you sent Bearer [API key] for [X-Tenant]"' in replies
    assert "loadstone_requests_total{" in metrics
    assert run.manifest.server["version"] == "Bearer [API key]"
    assert leaks(out, err, first, metrics, *files_of(tmp_path)) == set()


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("check",), 3),
        (("run", *QUICK), 3),
        (("find", *QUICK, "--goodput", "ttft:200"), 3),
        (("run", *QUICK, "--dry-run"), 0),
    ],
    ids=["check", "run", "find", "dry run"],
)
def test_nor_is_it_in_what_a_command_says_of_its_target(
    cli, bytes_server, secretive, tmp_path, words, code
):
    server = bytes_server(lambda asked: [page({"error": {"message": told(asked)}}, "404 No")])
    done = cli("loadgen", *words, "--backend", "vllm", "--base-url", server.url, "--model", "m",
               *secretive)  # fmt: skip
    assert done.returncode == code, done.stderr
    assert "$" in done.stdout or "you sent Bearer [API key] for [X-Tenant]" in done.stderr
    assert leaks(done.stdout, done.stderr, *files_of(tmp_path)) == set()
