"""When requests come: as the schedule says, from the command to the server's own log."""

import json

import numpy as np
import pytest
from scipy import stats

from contract.rundir import Run, find_run

QUICK = ("--backend", "openai", "--metrics-port", "0", "--isl", "8")
RATE, SECONDS = 100, 2


@pytest.fixture
def arrived(cli, fake, log_of, tmp_path):
    """`arrived(…)` drives an open loop: seconds after its begin at which each request was due,
    and how late the server saw it come, both in the order of their due instants."""

    def arrived(*words):
        url = fake("--slots", "64", "--service-seconds", "0.002")
        done = cli("loadgen", "run", *QUICK, "--base-url", url, "--seed", "11", *words)
        assert done.returncode == 0, done.stderr
        run, log = Run.open(find_run(tmp_path / "runs", "latest")), log_of(url)
        records = sorted(run.records(), key=lambda record: record.seq)
        epoch = run.manifest.epoch_unix + log["now"] - log["now_unix"]
        came = {visit["request_id"]: visit["arrival"] - epoch for visit in log["requests"]}
        dues = np.array([record.due for record in records])
        lates = [came[f"{r.run}-{r.stage}-{r.agent}-{r.seq}"] - r.due for r in records]
        return dues - run.stages[0].began, np.array(lates)

    return arrived


@pytest.mark.parametrize("shape", [1.0, 0.1, 4.0])
def test_arrivals_are_of_their_law_when_they_come_to_the_server(arrived, shape):
    words = ("poisson",) if shape == 1 else ("gamma", "--burstiness", str(shape))
    dues, lates = arrived("--request-rate", RATE, "--duration", SECONDS, "--arrival", *words,
                          "--warmup-requests", "0")  # fmt: skip

    gaps = np.diff(dues) * RATE
    cv = shape**-0.5
    assert abs(gaps.mean() - 1) < 4 * cv / len(gaps) ** 0.5
    assert abs(gaps.std() / gaps.mean() - cv) < 4 * cv * ((1 + cv**2) / (2 * len(gaps))) ** 0.5
    # Of a bursty law many gaps are below what an instant resolves: the others are of the rest.
    law, least = stats.gamma(shape, scale=1 / shape), 1e-6
    above = stats.kstest(gaps[gaps > least], lambda gap: 1 - law.sf(gap) / law.sf(least))
    assert above.pvalue > 0.001
    assert lates.min() > -0.005  # two clocks were read for it, one after the other


def test_a_trace_is_replayed_to_the_timestamp(arrived, tmp_path):
    at = np.cumsum([0, 0.013, 0.2, 0.0, 0.3171, 0.000001, 0.5, 0.0432, 0.1])
    rows = [{"at": 1000 + t, "input_tokens": 8, "output_tokens": 2} for t in at.round(6)]
    (tmp_path / "trace.jsonl").write_text("\n".join(map(json.dumps, rows)))
    dues, lates = arrived("--trace", "trace.jsonl", "--warmup-requests", "0")

    assert dues == pytest.approx(at, abs=2e-9)  # records are kept to the nanosecond
    assert lates.min() > -0.005
    assert np.median(lates) < 0.05
