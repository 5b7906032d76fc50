"""Several servers behind one run, through the commands."""

import json

import pytest
from pyarrow import parquet

from contract.rundir import Run, find_run

QUICK = ("--backend", "openai", "--isl", "8", "--osl", "4", "--metrics-port", "0")


@pytest.fixture
def pair(fake):
    """The addresses of a slow and a fast server."""
    return fake("--slots", "8", "--service-seconds", "0.08"), fake(
        "--slots", "8", "--service-seconds", "0.01"
    )


def test_every_stage_is_told_apart_by_address(cli, pair, log_of, tmp_path):
    slow, quick = pair
    done = cli("loadgen", "run", *QUICK, "--base-url", f"{slow},{quick}", "--route", "least-busy",
               "--agents", "2,4", "--request-count", "40", "--json")  # fmt: skip
    assert done.returncode == 0, done.stderr
    stages = json.loads(done.stdout)["stages"]
    for stage in stages:
        one, other = stage["addresses"]
        assert (one["address"], other["address"]) == pair
        assert one["ok"] + other["ok"] == stage["outcomes"]["ok"] == 40
        assert 2 * one["ok"] < other["ok"]
        assert one["e2e"]["p50"] > 0.08 > other["e2e"]["p50"] > 0.01

    run = Run.open(find_run(tmp_path / "runs", "latest"))
    asked = [len(log_of(url)["requests"]) for url in pair]
    column = parquet.read_table(run.path / "requests.parquet")["address"].to_pylist()
    assert [column.count(place) for place in (0, 1)] == asked
    assert column == [record.address for record in run.records()]
    assert "address" not in (run.path / "summary.csv").read_text()
    assert json.loads((run.path / "summary.json").read_text())["stages"][0]["addresses"]

    shown = cli("loadgen", "show").stdout.splitlines()
    below = shown[shown.index("by address; milliseconds, p50/p95/p99") + 2 :]
    assert [line.split()[:2] for line in below] == [
        [str(agents), url] for agents in (2, 4) for url in pair
    ]
    assert cli("loadgen", "export", "--format", "parquet").returncode == 0


def test_a_search_finds_what_two_servers_can_take_together(cli, fake):
    """Two slots each: of five agents one always waits."""
    urls = [fake("--slots", "2", "--service-seconds", "0.06") for _ in range(2)]
    done = cli("loadgen", "find", *QUICK, "--base-url", urls[0], "--base-url", urls[1], "--route",
               "least-busy", "--goodput", "e2el:80", "--attainment", "0.8", "--request-count",
               "60", "--max", "12", "--json")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["found"]["level"] == pytest.approx(4, abs=1)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--base-url", "http://h:1", "--url", "http://h:1/v1"], "http://h:1 is given twice"),
        (["--base-url", "http://h:1,"], "an empty address is given"),
        (["--base-url", "http://h:1", "--route", "least-busy"], "with several base_url"),
        (["--route", "round-robin"], "with several base_url"),
        (["--base-url", "http://h:1,h:2"], "'h:2' is not an HTTP address"),
        (["--base-url", "http://h:1,http://me:secret@h:2"], "must not hold a user or password"),
    ],
)
def test_addresses_that_make_no_sense_are_one_line(cli, error_line, words, says):
    line = error_line(cli("loadgen", "run", *QUICK, *words), 2)
    assert says in line
    assert "secret" not in line


def test_in_process_there_is_no_address_to_choose(cli, error_line):
    done = cli("loadgen", "run", "--backend", "hf", "--route", "least-busy")
    assert "--route: not for backend 'hf', only for openai" in error_line(done, 2)
