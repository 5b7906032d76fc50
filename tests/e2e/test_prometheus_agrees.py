"""The truth and its view: a real model, a real Prometheus, the sidecar beside them."""

import json
import shutil
import urllib.parse
import urllib.request

import pytest

from analysis.planner.own import THROUGHPUT

SECONDS = 20
LEVELS = "1..4"


def instant(url, query):
    with urllib.request.urlopen(
        f"{url}/api/v1/query?{urllib.parse.urlencode({'query': query})}", timeout=10
    ) as answer:
        return json.load(answer)["data"]["result"]


@pytest.fixture
def two_ports(free_port):
    """A port for the run and one for the sidecar."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return free_port, probe.getsockname()[1]


def test_a_run_and_prometheus_give_the_same_counts_and_the_same_fit(
    cli, start, scraping, tmp_path, wait_until, two_ports
):
    load, side = two_ports
    with scraping(load, side) as url:
        start("agent", "run", "--port", str(side))
        wait_until(lambda: instant(url, "loadstone_host_memory_total_bytes"))
        run = cli("loadgen", "run", "--model", "tiny-gpt2", "--isl", "16", "--osl", "24",
                  "--agents", LEVELS, "--duration", str(SECONDS),
                  "--metrics-port", str(load), "--json")  # fmt: skip
        assert run.returncode == 0, run.stderr
        stages = json.loads(run.stdout)["stages"]
        everything = ("--include-failed-verdicts", "--json")
        directory = cli("analysis", "fit", "--run", "runs/latest", *everything)
        assert directory.returncode == 0, directory.stderr
        truth = json.loads(directory.stdout)

        shutil.move(tmp_path / "runs", tmp_path / "away")
        viewed = cli("analysis", "fit", "--from-prometheus", url, *everything)
        assert viewed.returncode == 0, viewed.stderr
        view = json.loads(viewed.stdout)

        assert view["key"] == truth["key"]
        assert view["runs"] == truth["runs"]
        for stage, point in zip(stages, view["points"], strict=True):
            assert stage["outcomes"]["ok"] >= 200
            assert point["agents"] == stage["agents"]
            assert point["requests"] == pytest.approx(stage["outcomes"]["ok"], rel=0.005)
        for ours, theirs in zip(truth["points"], view["points"], strict=True):
            assert theirs["requests_per_second"] == pytest.approx(
                ours["requests_per_second"], rel=0.005
            )
        for agents, x in predicted(truth).items():
            assert predicted(view)[agents] == pytest.approx(x, rel=0.05)
        assert float(instant(url, "loadstone_host_load1")[0]["value"][1]) >= 0
        assert instant(url, 'loadstone_probe_success{probe="host"}')[0]["value"][1] == "1"


def predicted(fitted):
    """X at every N, from the law and the coefficients alone, as the planner computes it."""
    coefficients = {name: entry["value"] for name, entry in fitted["coefficients"].items()}
    throughput = THROUGHPUT[fitted["law"]["name"]]
    return {p["agents"]: throughput(p["agents"], coefficients) for p in fitted["points"]}


def test_an_empty_prometheus_is_exit_4_and_an_absent_one_exit_3(
    cli, scraping, error_line, free_port
):
    with scraping(free_port) as url:
        assert "prometheus.yml" in error_line(cli("analysis", "fit", "--from-prometheus", url), 4)
    absent = cli("analysis", "fit", "--from-prometheus", url)
    assert url.removeprefix("http://") in error_line(absent, 3)
    assert "not found" in error_line(cli("analysis", "fit", "--run", "runs/none"), 4)
