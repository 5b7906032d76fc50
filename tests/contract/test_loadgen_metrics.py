"""The metric table and the load generator's exporter, held against each other, with values."""

import math
from dataclasses import replace

import pytest
from prometheus_client import generate_latest

from contract.exporter import Instruments, MetricsServer
from contract.metrics import METRICS
from contract.records import OUTCOMES, PHASES
from loadgen.observe import BACKLOG, PORTION, Observer


@pytest.fixture
def observed(synthetic_run):
    """Instruments after one run's records, its manifest, and those records."""
    run = synthetic_run(levels=(1, 2))
    instruments = Instruments("loadgen")
    observer = Observer(instruments, run.manifest())
    before = samples(instruments)
    records = [*run.records(0), *run.records(1)]
    records.append(replace(records[-1], outcome="timed_out", phase="measured", last_token=None))
    for record in records:
        observer.record(record)
    for place in (0, 1):
        observer.opened(run.stage(place).stage, run.keys()[place], run.stage(place).start)
        observer.closed(run.stage(place))
    observer.load(2, 2)
    observer.loop_lag(0.004)
    return before, samples(instruments), records, run


def samples(instruments):
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in instruments.registry.collect()
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def total(found, name, **labels):
    return sum(
        value
        for (sample, pairs), value in found.items()
        if sample == name and labels.items() <= dict(pairs).items()
    )


def test_every_row_of_the_table_is_exported_and_nothing_else(observed):
    _, after, _, _ = observed
    stems = {metric.name for metric in METRICS if metric.source == "loadgen"}
    exported = set()
    for name, _ in after:
        for suffix in ("_bucket", "_count", "_sum"):
            if name.removesuffix(suffix) in stems:
                exported.add(name.removesuffix(suffix))
        exported.add(name) if name in stems else None
    assert exported == stems
    assert all(
        any(name == stem or name.startswith(f"{stem}_") for stem in stems) for name, _ in after
    )


def test_label_sets_are_born_at_zero(observed):
    before, _, _, _ = observed
    counters = {k: v for k, v in before.items() if k[0].endswith("requests_total")}
    assert len(counters) == 2 * len(PHASES) * len(OUTCOMES)
    assert set(counters.values()) == {0.0}


def test_counters_carry_level_and_phase_and_move_by_the_records(observed):
    _, after, records, _ = observed
    for agents in (1, 2):
        own = [r for r in records if r.agents == agents and r.phase == "measured"]
        ok = [r for r in own if r.outcome == "ok"]
        level = {"agents": str(agents), "phase": "measured"}
        assert total(after, "loadstone_requests_total", **level) == len(own)
        assert total(after, "loadstone_requests_total", **level, outcome="ok") == len(ok)
        tokens = total(after, "loadstone_output_tokens_total", **level)
        assert tokens == sum(r.output_tokens for r in ok)


def test_a_few_records_at_a_time_are_counted_in_turns_and_none_is_lost(synthetic_run):
    run = synthetic_run(levels=(1, 2))
    instruments = Instruments("loadgen")
    observer = Observer(instruments, run.manifest())
    records = [*run.records(0), *run.records(1)]
    for record in records:
        observer.record(record)
    turns = 1
    while observer.fold_some():
        turns += 1
    assert turns == math.ceil(len(records) / PORTION) > 2
    counted = sum(v for (name, _), v in samples(instruments).items() if "requests_total" in name)
    assert counted == len(records)


def test_records_do_not_pile_up_while_nobody_looks(synthetic_run):
    run = synthetic_run(levels=(1,))
    instruments = Instruments("loadgen")
    observer = Observer(instruments, run.manifest())
    instruments.before_scrape = lambda: None  # what is shown is what was counted already
    records = (run.records(0) * 100)[:5000]
    for record in records:
        observer.record(record)
    counted = sum(v for (name, _), v in samples(instruments).items() if "requests_total" in name)
    assert len(records) == 5000
    assert counted >= 5000 - BACKLOG


def test_a_page_has_every_family_of_the_registry(synthetic_run):
    instruments = Instruments("loadgen")
    Observer(instruments, synthetic_run(levels=(1, 2)).manifest()).load(2, 2)
    server = MetricsServer(instruments.registry, "127.0.0.1", 0)
    try:
        status, _, page = server.answer("/metrics", "")
    finally:
        server.close()
    assert (status, page) == (200, generate_latest(instruments.registry))


def test_histograms_hold_measured_requests_that_ended_ok(observed):
    _, after, records, _ = observed
    ok = [r for r in records if r.phase == "measured" and r.outcome == "ok"]
    for name, values in (
        ("request_duration_seconds", [r.latency for r in ok]),
        ("time_to_first_token_seconds", [r.ttft for r in ok]),
        ("time_per_output_token_seconds", [r.tpot for r in ok]),
        ("send_lag_seconds", [r.send_lag for r in ok]),
    ):
        assert total(after, f"loadstone_{name}_count") == len(ok)
        assert total(after, f"loadstone_{name}_sum") == pytest.approx(sum(values))


def test_stage_windows_are_unix_times_and_a_cut_stage_has_no_end(observed, synthetic_run):
    _, after, _, run = observed
    stage = {"run_id": run.name, "stage": str(run.stage(1).stage), "agents": "2"}
    start = total(after, "loadstone_stage_start_timestamp_seconds", **stage)
    assert start == pytest.approx(run.stage(1).start_unix)
    assert total(after, "loadstone_stage_end_timestamp_seconds", **stage) == pytest.approx(
        run.stage(1).end_unix
    )
    instruments = Instruments("loadgen")
    Observer(instruments, run.manifest()).closed(replace(run.stage(0), complete=False))
    assert not any("stage_end" in name for name, _ in samples(instruments))
