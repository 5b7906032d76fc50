"""`loadgen find` as a process, over TCP against servers whose capacity is known."""

import json
import re

import pytest

from contract.rundir import Run, find_run
from tests.oracle.queues import attained, sojourns, widths_from

COMMON = ("--backend", "vllm", "--metrics-port", "0", "--isl", "16", "--osl", "8")


@pytest.fixture
def server(start):
    """The URL of an emulator with four slots; eight tokens take 80 ms, whoever else is there."""
    process = start("loadgen", "serve-fake", "--protocol", "vllm", "--slots", "4",
                    "--step-seconds", "0.01", "--sequence-seconds", "0",
                    "--prefill-token-seconds", "0")  # fmt: skip
    return re.search(r"http://[\d.:]+", process.stdout.readline())[0]


def test_it_finds_the_slots_of_a_server(cli, server, tmp_path):
    """Of five agents one always waits for a slot, for a whole service of 80 ms."""
    target, limit, count = 0.95, 0.05, 100
    # As simulated, first tokens 70 ms before the end: of four agents all requests meet the limit,
    # of five so few that the target is two interval widths away.
    fits, over = (sojourns(agents, False, 4, lambda: 0.08) for agents in (4, 5))
    assert attained(fits, limit + 0.07) == (1.0, 1.0)
    assert widths_from(target, over, limit + 0.07, 3 * count) < -2

    done = cli("loadgen", "find", *COMMON, "--base-url", server, "--goodput", "ttft:50",
               "--request-count", count, "--start", "4", "--max", "16", "--json")  # fmt: skip
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["attainment"] == target
    assert document["found"]["level"] == pytest.approx(4, abs=1)
    assert document["missed"]["level"] == document["found"]["level"] + 1

    path = find_run(tmp_path / "runs", "latest")
    run = Run.open(path)
    assert (run.status, run.missing) == ("complete", [])
    assert [stage.key for stage in run.stages] == run.manifest.planned
    assert len(run.stages) == sum(level["stages"] for level in document["levels"])
    assert {record.stage for record in run.records()} == {stage.stage for stage in run.stages}
    assert json.loads((path / "find.json").read_text()) == document

    assert cli("loadgen", "show").returncode == 0
    fitted = cli("analysis", "fit", "--run", path)
    assert fitted.returncode == 0, fitted.stderr


def test_nothing_that_meets_the_objectives_is_exit_6_with_a_way_out(cli, server, error_line):
    done = cli("loadgen", "find", *COMMON, "--base-url", server, "--goodput", "e2el:30",
               "--request-count", "30")  # fmt: skip
    says = error_line(done, 6)
    assert "nothing meets e2el:30" in says
    limit = re.search(r"--goodput e2el:(\d+)", says)
    assert 75 <= int(limit[1]) <= 300
    assert "1 agent" in done.stdout


def test_a_missing_target_is_exit_3(cli, free_port, error_line):
    url = f"http://127.0.0.1:{free_port}"
    done = cli("loadgen", "find", *COMMON, "--base-url", url, "--goodput", "ttft:90")
    assert str(free_port) in error_line(done, 3)


def test_an_objective_is_wanted(cli, error_line):
    assert "--goodput" in error_line(cli("loadgen", "find", *COMMON), 2)
