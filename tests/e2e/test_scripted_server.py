"""What loadgen says about a server that knows the truth about itself."""

import json

import pytest


def in_flight(requests, start, end):
    """Time average over [start, end) of requests between arrival and end, by overlap."""
    overlaps = (min(r["end"], end) - max(r["arrival"], start) for r in requests)
    return sum(max(0.0, overlap) for overlap in overlaps) / (end - start)


def test_sixteen_agents_on_one_slot(cli, fake, log_of):
    url = fake("--slots", "1", "--service-seconds", "0.05")
    done = cli("loadgen", "run", "--backend", "openai", "--base-url", url, "--metrics-port", "0",
               "--agents", "16", "--duration", "5", "--osl", "4", "--json")  # fmt: skip
    assert done.returncode == 0, done.stderr
    stage = json.loads(done.stdout)["stages"][0]
    log = log_of(url)
    # Preflight, ramp and drain aside.
    loaded = log["requests"][-(stage["outcomes"]["ok"] + 16) : -16]
    service = sum(request["service_seconds"] for request in loaded) / len(loaded)
    assert log["in_flight_max"] == 16
    assert in_flight(log["requests"], loaded[16]["arrival"], loaded[-1]["end"]) >= 15.9
    assert 0.95 <= stage["requests_per_second"] * service <= 1.0
    assert stage["e2e"]["mean"] == pytest.approx(16 * service, rel=0.05)
    # A busy machine may rightly make it doubt its first tokens.
    failed = {verdict["name"] for verdict in stage["verdicts"] if not verdict["ok"]}
    assert stage["complete"]
    assert failed <= {"generator"}


def test_three_slots_are_found_as_a_hinge_at_three(cli, fake, tmp_path):
    url = fake("--slots", "3", "--service-seconds", "0.1")
    run = cli("loadgen", "run", "--backend", "openai", "--base-url", url, "--metrics-port", "0",
              "--agents", "1..8", "--duration", "3", "--osl", "4", "--json")  # fmt: skip
    assert run.returncode == 0, run.stderr
    done = cli("analysis", "fit", "--run", "runs/latest", "--json")
    assert done.returncode == 0, done.stderr
    fitted = json.loads(done.stdout)
    assert fitted["law"]["name"] == "hinge"
    assert fitted["coefficients"]["hinge_m"]["value"] == pytest.approx(3, abs=0.15)
    assert fitted["coefficients"]["service_time"]["value"] == pytest.approx(0.1 / 3, rel=0.05)
