"""Connections that the limit on file descriptors does not carry, and those that it does."""

import re
import resource
from functools import partial

import pytest

from contract.rundir import Run, find_run


def limited(soft, hard):
    """What a process does before it becomes a command."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def command(*urls):
    return ("loadgen", "run", "--backend", "openai", "--base-url", ",".join(urls), "--metrics-port",
            "0", "--isl", "8", "--osl", "2")  # fmt: skip


def outcomes(folder):
    run = Run.open(find_run(folder / "runs", "latest"))
    return {record.outcome for record in run.records()}, run.stages[0].sent


@pytest.mark.parametrize(
    "words", [(), ("--stamps", "user"), ("--client", "aiohttp")], ids=["kernel", "user", "aiohttp"]
)
def test_what_is_said_to_fit_fits_and_one_more_is_refused(cli, fake, error_line, tmp_path, words):
    url = fake("--slots", "500", "--service-seconds", "0.3")
    limit = partial(limited, 160, 160)

    done = cli(*command(url), *words, "--agents", "1,4096", preexec_fn=limit)
    line = error_line(done, 2)
    most = int(re.search(r"--agents: 4096 .* do not fit, ulimit -n 160 carries (\d+);", line)[1])
    assert 40 < most < 160
    assert not (tmp_path / "runs").exists()

    done = cli(*command(url), *words, "--agents", most + 1, preexec_fn=limit)
    assert f"ulimit -n 160 carries {most};" in error_line(done, 2)

    done = cli(*command(url), *words, "--agents", most, "--request-count", 2 * most,
               preexec_fn=limit)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert outcomes(tmp_path) == ({"ok"}, 4 * most - 1)


def test_two_servers_share_what_fits(cli, fake, error_line, tmp_path):
    urls = [fake("--slots", "500", "--service-seconds", "0.3") for _ in range(2)]
    limit = partial(limited, 160, 160)

    line = error_line(cli(*command(*urls), "--agents", "500", preexec_fn=limit), 2)
    most = int(re.search(r"carries (\d+);", line)[1])
    done = cli(*command(*urls), "--agents", most, "--request-count", most, preexec_fn=limit)

    assert done.returncode == 0, done.stderr
    assert outcomes(tmp_path)[0] == {"ok"}


def test_every_shard_carries_as_much(cli, fake, error_line, tmp_path):
    url = fake("--slots", "500", "--service-seconds", "0.3")
    limit, found = partial(limited, 128, 128), []
    for shards in (1, 3):
        words = ("--agents", "900", "--shards", shards)
        line = error_line(cli(*command(url), *words, preexec_fn=limit), 2)
        found.append(int(re.search(r"carries (\d+);", line)[1]))
    one, three = found
    assert three == 3 * one
    done = cli(*command(url), "--agents", three, "--request-count", three, "--shards", "3",
               preexec_fn=limit)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert outcomes(tmp_path)[0] == {"ok"}


def test_a_low_limit_is_raised_as_far_as_it_goes(cli, fake, tmp_path):
    url = fake("--slots", "500", "--service-seconds", "0.3")
    done = cli(*command(url), "--agents", "300", "--request-count", "300",
               preexec_fn=partial(limited, 100, 2000))  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert outcomes(tmp_path) == ({"ok"}, 899)


def test_an_open_loop_names_its_cap_and_a_search_its_most(cli, error_line):
    limit = partial(limited, 128, 128)
    rate = ("--request-rate", "5", "--max-concurrency", "1000", "--dry-run")
    done = cli(*command("http://127.0.0.1:9"), *rate, preexec_fn=limit)
    assert error_line(done, 2).startswith("error: --max-concurrency: 1000 connections do not fit")
    done = cli("loadgen", "find", "--backend", "vllm", "--goodput", "ttft:99", preexec_fn=limit)
    assert error_line(done, 2).startswith("error: --max: 1024 connections do not fit, ulimit -n 12")


def test_the_limit_that_is_asked_for_carries_what_was_asked(cli, error_line):
    words = (*command("http://127.0.0.1:9"), "--agents", "200", "--dry-run")
    line = error_line(cli(*words, preexec_fn=partial(limited, 128, 128)), 2)
    enough = int(re.search(r"or allow (\d+)", line)[1])
    assert cli(*words, preexec_fn=partial(limited, enough, enough)).returncode == 0


def test_without_a_cap_or_a_server_nothing_is_counted(cli):
    limit = partial(limited, 128, 128)
    for words in (("--request-rate", "5", "--backend", "vllm"), ("--agents", "4096")):
        assert cli("loadgen", "run", *words, "--dry-run", preexec_fn=limit).returncode == 0


@pytest.mark.parametrize("client", ["wire", "aiohttp"])
def test_an_open_loop_that_runs_out_of_them_names_this_machine_not_the_target(
    cli, fake, tmp_path, client
):
    url = fake("--slots", "1", "--service-seconds", "0.5")
    words = ("--request-rate", "60", "--duration", "4", "--grace-period", "0", "--client", client)
    done = cli(*command(url), *words, preexec_fn=partial(limited, 120, 120))
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if "not ok:" in line]
    assert re.search(r"60 requests/s: not ok: (\d+) unreachable; most often, \1 times: ", line)
    assert line.endswith("no file descriptor left on this machine: raise ulimit -n")
    run = Run.open(find_run(tmp_path / "runs", "latest"))
    assert run.stages[0].complete
