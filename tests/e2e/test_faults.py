"""What befalls a server or a run, by its outcome in the records and by the exit code."""

import asyncio
import resource
import signal
import subprocess
import sys
from collections import Counter

import pytest

from contract.rundir import Run, find_run
from loadgen.fakes.script import Script
from loadgen.fakes.server import FakeServer
from tests.e2e.byte_server import MODELS, STREAM, completion

QUICK = ("--backend", "openai", "--metrics-port", "0", "--isl", "8", "--osl", "6")

# What a request comes to that suffers one of the scripted failures.
OUTCOMES = {
    "error_event": "server_error",
    "cut": "bad_stream",
    "reset": "bad_stream",
    "stall": "timed_out",
    "no_finish": "truncated",
    "not_json": "bad_stream",
    "drop": "bad_stream",
    "html": "bad_stream",
    "redirect": "bad_stream",
    "busy": "rejected",
    "rate_limit": "rejected",
    "internal": "server_error",
}


def run_of(folder):
    return Run.open(find_run(folder / "runs", "latest"))


def name_of(record):
    """As the request was named to the server."""
    return f"{record.run}-{record.stage}-{record.agent}-{record.seq}"


def test_each_fault_is_the_outcome_of_the_request_it_befell(cli, fake, log_of, tmp_path):
    # A dropped request is asked once more on a connection of its own, and served.
    befalls = {**OUTCOMES, "drop": "ok", "no_done": "ok"}
    struck = {20 + 7 * place: name for place, name in enumerate(befalls)}
    fails = [f"--fail={index}={name}" for index, name in struck.items()]
    url = fake("--slots", "4", "--service-seconds", "0.01", *fails)
    done = cli("loadgen", "run", *QUICK, "--base-url", url, "--agents", "4", "--request-count",
               "150", "--timeout", "0.5")  # fmt: skip
    assert done.returncode == 0, done.stderr

    records = {name_of(record): record for record in run_of(tmp_path).records()}
    visits = log_of(url)["requests"]
    assert {visit["request_id"] for visit in visits} == set(records)
    came_to = {
        struck.get(visit["index"], "nothing"): records[visit["request_id"]] for visit in visits
    }
    assert {name: record.outcome for name, record in came_to.items()} == {
        **befalls, "nothing": "ok",
    }  # fmt: skip
    assert {name for name, record in came_to.items() if record.retries} == {"drop"}
    failed = Counter(record.outcome for record in records.values() if record.outcome != "ok")
    assert failed == Counter(outcome for outcome in befalls.values() if outcome != "ok")


@pytest.mark.parametrize(("failure", "outcome"), OUTCOMES.items(), ids=OUTCOMES)
def test_where_every_request_fails_it_is_exit_3_and_says_why(
    cli, error_line, fake, tmp_path, failure, outcome
):
    url = fake("--fail", f"all={failure}", "--service-seconds", "0.01", "--slots", "2")
    patience = "0.3" if outcome == "timed_out" else "10"  # which a busy machine keeps as well
    done = cli("loadgen", "run", *QUICK, "--base-url", url, "--agents", "2,4", "--duration", "2",
               "--timeout", patience)  # fmt: skip
    line = error_line(done, 3)
    assert "no request succeeded in stage 1 (2 agents)" in line
    assert f"most often {outcome}: " in line
    run = run_of(tmp_path)
    assert run.status == "failed"
    assert {record.outcome for record in run.records()} == {outcome}


@pytest.mark.asyncio
async def test_a_server_that_is_started_again_is_survived(start, tmp_path, wait_until):
    script = Script(service_seconds=0.02, slots=4)
    requests = tmp_path / "runs" / "latest" / "requests.jsonl"
    async with FakeServer(script) as server:
        process = start("loadgen", "run", *QUICK, "--base-url", server.url, "--agents", "4",
                        "--duration", "3")  # fmt: skip
        await asyncio.to_thread(
            wait_until, lambda: requests.exists() and requests.read_bytes().count(b"\n") > 20
        )
    await asyncio.sleep(0.3)
    async with FakeServer(script, port=int(server.url.rpartition(":")[2])) as again:
        _, err = await asyncio.to_thread(process.communicate, timeout=30)
    assert process.returncode == 0, err

    run = run_of(tmp_path)
    records = list(run.records())
    assert run.status == "complete"
    assert {record.outcome for record in records} == {"ok", "bad_stream", "unreachable"}
    served = {visit.request_id for visit in again.log.visits if visit.outcome == "ok"}
    assert served - {None} <= {name_of(record) for record in records if record.outcome == "ok"}
    assert {record.agent for record in records if name_of(record) in served} == {0, 1, 2, 3}


# The command in a process that says in the end how much memory it ever held, in kB.
MEASURED = """
import sys
from loadgen.cli import main
code = main()
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")))
sys.exit(code)
"""


BLOCK = b"x" * 2**20
CHUNKED = STREAM.replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n")


@pytest.mark.parametrize(
    ("head", "block", "says"),
    [
        (STREAM, BLOCK, "a line of the stream is over 16777216 bytes"),
        (CHUNKED, b"100000\r\n" + BLOCK + b"\r\n", "a line of the stream is over 16777216 bytes"),
        (CHUNKED + b"40000000\r\n", BLOCK, "a line of the stream is over 16777216 bytes"),
        (STREAM.replace(b"event-stream", b"html"), BLOCK, "the body is over 67108864 bytes"),
        (STREAM[:-2] + b"X-Long: ", BLOCK, "the head is over 65536 bytes"),
        (CHUNKED + b"1;", BLOCK, "a chunk size is over 4096 bytes"),
    ],
    ids=["to the end", "chunked", "one chunk", "page", "head", "chunk size"],
)
def test_a_line_of_a_gigabyte_is_given_up_in_bounded_memory(
    bytes_server, environment, tmp_path, head, block, says
):
    def endless(asked):
        yield head if asked.generates else MODELS
        for _ in range(1024 * asked.generates):
            yield block

    server = bytes_server(endless)
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, "run", *QUICK, "--base-url", server.url,
         "--agents", "1", "--duration", "5"],
        cwd=tmp_path, env=environment, text=True, capture_output=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert says in done.stderr
    records = list(run_of(tmp_path).records())
    assert [record.outcome for record in records] == ["bad_stream"]
    assert int(done.stdout.split()[-2]) < 300_000


@pytest.fixture
def speaking(bytes_server, certificate):
    """A server of each kind, by whether it speaks TLS."""

    def answer(asked):
        yield completion("a", "b") if asked.generates else MODELS

    return {kind: bytes_server(answer, tls=kind and certificate.server) for kind in (None, True)}


@pytest.mark.parametrize(
    ("scheme", "tls", "says"),
    [
        ("https", None, "TLS: "),
        ("http", True, "without an answer"),
        ("https", True, "self-signed certificate"),
    ],
    ids=["TLS to a plain port", "plain to a TLS port", "self-signed"],
)
def test_where_tls_does_not_fit_there_is_no_server_and_it_is_exit_3(
    cli, error_line, speaking, scheme, tls, says
):
    url = f"{scheme}://127.0.0.1:{speaking[tls].port}"
    line = error_line(cli("loadgen", "run", *QUICK, "--base-url", url), 3)
    assert f"no server at {url} (" in line
    assert says in line
    assert speaking[tls].asked == []


def test_a_certificate_that_is_trusted_is_no_fault(
    cli, speaking, certificate, environment, tmp_path
):
    environment["SSL_CERT_FILE"] = str(certificate.path)
    try:
        done = cli("loadgen", "run", *QUICK, "--base-url", speaking[True].url, "--agents", "2",
                   "--request-count", "10")  # fmt: skip
    finally:
        del environment["SSL_CERT_FILE"]
    assert done.returncode == 0, done.stderr
    assert {record.outcome for record in run_of(tmp_path).records()} == {"ok"}


def test_a_name_that_does_not_resolve_is_exit_3(cli, error_line):
    url = "http://does-not-exist.invalid:8000"
    line = error_line(cli("loadgen", "run", *QUICK, "--base-url", url), 3)
    assert f"no server at {url} (the name does not resolve)" in line


def test_killed_outright_it_has_written_all_that_its_server_completed_but_what_was_in_flight(
    start, fake, log_of, tmp_path, wait_until
):
    agents = 16
    url = fake("--slots", agents, "--service-seconds", "0.01")
    process = start("loadgen", "run", *QUICK, "--base-url", url, "--agents", agents,
                    "--duration", "60")  # fmt: skip
    requests = tmp_path / "runs" / "latest" / "requests.jsonl"
    wait_until(lambda: requests.exists() and requests.read_bytes().count(b"\n") > 300)
    process.kill()
    process.wait()
    wait_until(lambda: log_of(url)["in_flight"] == 0)

    run = run_of(tmp_path)
    written = [name_of(record) for record in run.records()]
    visits = log_of(url)["requests"]
    completed = {visit["request_id"] for visit in visits if visit["outcome"] == "ok"}
    assert run.status == "partial"
    assert len(written) == len(set(written)) >= 300
    assert set(written) <= completed
    lost = sorted(int(name.split("-")[-2]) for name in completed - set(written))
    assert lost == sorted(set(lost))  # of an agent at most the one that it had in flight


def limit_files():
    """No file may grow past 36 kB: what a full disk does, without filling one."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (36_000, 36_000))


def test_on_a_disk_that_takes_no_more_sending_stops_at_once_and_what_was_written_stays(
    cli, error_line, fake, log_of, tmp_path
):
    url = fake("--slots", "8", "--service-seconds", "0.1")
    done = cli("loadgen", "run", *QUICK, "--base-url", url, "--agents", "8", "--duration", "30",
               preexec_fn=limit_files)  # fmt: skip
    assert "requests.jsonl: cannot be written (File too large)" in error_line(done, 4)

    run, log = run_of(tmp_path), log_of(url)
    records = {name_of(record): record for record in run.records()}
    # What was in flight then may still have fitted, behind the last whole line.
    written = [record for record in records.values() if record.outcome == "ok"]
    assert run.status == "partial"
    assert "requests.jsonl: cannot be written" in run.manifest.note
    assert {record.outcome for record in records.values()} - {"cancelled"} == {"ok"}
    assert len(written) > 40

    # The server's clock, its requests, and when the last line that fitted was written.
    skew = log["now"] - log["now_unix"]
    last = run.manifest.epoch_unix + max(record.ended for record in written) + skew
    sent = {visit["request_id"]: visit["arrival"] for visit in log["requests"]}
    assert records.keys() <= sent.keys()
    assert max(sent.values()) < last + 1
    assert len(sent) - len(written) <= 3 * 8


@pytest.mark.parametrize("folder", ["/proc/runs", "a-file/runs", "a-file"])
def test_a_folder_that_takes_no_run_is_refused_before_anything_is_asked(
    cli, error_line, bytes_server, tmp_path, folder
):
    (tmp_path / "a-file").touch()
    server = bytes_server(lambda _asked: [MODELS])
    for command in (("run",), ("find", "--goodput", "ttft:100")):
        line = error_line(cli("loadgen", *command, *QUICK, "--base-url", server.url,
                              "--output-dir", folder), 2)  # fmt: skip
        assert line.startswith(f"error: --output-dir: cannot create a run in '{folder}' (")
    assert server.asked == []
    assert [entry.name for entry in tmp_path.iterdir()] == ["a-file"]


def test_a_second_signal_aborts_what_is_in_flight(start, cli, fake, log_of, tmp_path, wait_until):
    url = fake("--fail", "all=stall", "--slots", "4")
    process = start("loadgen", "run", *QUICK, "--base-url", url, "--agents", "4")
    wait_until(lambda: log_of(url)["in_flight"] == 4)
    process.send_signal(signal.SIGINT)
    draining = next(line for line in process.stderr if "draining" in line)
    assert draining == "stopping: draining 4 requests in flight, 30 s at most; again to abort\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert err.splitlines()[0] == "aborting: 4 requests in flight, recorded as cancelled"
    assert "cut short; failed failures" in out
    assert "4 agents: failures: no request ended in the window" in out
    assert run_of(tmp_path).status == "partial"
    note = "interrupted by SIGINT, 4 requests in flight aborted"
    assert run_of(tmp_path).manifest.note == note
    shown = cli("loadgen", "show")
    assert f"(partial): {note}\n" in shown.stderr
    assert [record.outcome for record in run_of(tmp_path).records()] == ["cancelled"] * 4
