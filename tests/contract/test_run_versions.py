"""Every past schema version stays readable: one real run of each lies in tests/golden/runs."""

from collections import Counter
from pathlib import Path

import pytest

from contract.records import OUTCOMES, SCHEMA_VERSION
from contract.rundir import Run

RUNS = Path(__file__).parent.parent / "golden" / "runs"


def test_there_is_a_golden_run_of_every_version():
    assert {int(folder.name) for folder in RUNS.iterdir()} == set(range(1, SCHEMA_VERSION + 1))


@pytest.mark.parametrize("folder", sorted(RUNS.iterdir()), ids=lambda folder: folder.name)
def test_a_golden_run_reads_and_its_counts_agree(folder):
    run = Run.open(folder)
    assert run.manifest.schema == int(folder.name)
    assert (run.status, run.missing) == ("complete", [])
    records = list(run.records())
    assert run.warnings == []
    for stage in run.stages:
        own = [r for r in records if r.stage == stage.stage]
        measured = Counter(r.outcome for r in own if r.phase == "measured")
        assert len(own) == stage.sent
        assert measured == stage.outcomes
        assert all(r.agents == stage.key.agents for r in own)


@pytest.mark.parametrize("folder", sorted(RUNS.iterdir()), ids=lambda folder: folder.name)
def test_records_are_ordered_in_time_and_phases_follow_the_window(folder):
    run = Run.open(folder)
    windows = {stage.stage: (stage.start, stage.end) for stage in run.stages}
    for record in run.records():
        assert record.outcome in OUTCOMES
        instants = [record.due, record.sent, record.first_token, record.last_token, record.ended]
        assert instants == sorted(instants)
        assert len(record.gaps_us) == record.chunks - 1
        assert sum(record.gaps_us) / 1e6 == pytest.approx(
            record.last_token - record.first_token, abs=1e-5
        )
        start, end = windows[record.stage]
        # The very request whose end opens the window still is warm-up.
        fits = {
            "warmup": record.ended <= start,
            "measured": start <= record.ended < end,
            "drain": record.ended >= end,
        }
        assert fits[record.phase]
