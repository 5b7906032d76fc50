"""Percentiles as asked for: refused in one line or stated everywhere by their own names."""

import csv
import json

import pytest

from contract.config import validate
from contract.errors import ConfigError
from contract.rundir import Run
from contract.steady import quantile
from loadgen.config import RunConfig
from loadgen.figures.percentiles import named, parse_percentiles
from loadgen.figures.summary import table
from loadgen.files.close import close_files, counted, tallied


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("50,90,95,99,99.9", (50, 90, 95, 99, 99.9)),
        ("99, 50", (50, 99)),
        ([99.9, "50"], (50, 99.9)),
        (99.9, (99.9,)),
        ("0.1,99.9999", (0.1, 99.9999)),
    ],
)
def test_text_a_number_and_a_list_are_read_alike(given, read):
    assert validate(RunConfig, {"percentiles": given}).percentiles == read


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("50,x", "percentiles: 'x' is not a number"),
        ("", "percentiles: "),
        ([], "percentiles: 0 given"),
        ("0", "percentiles: 0 given"),
        ("100", "percentiles: 100 given"),
        ("-5", "percentiles: -5 given"),
        ("nan", "percentiles: nan given"),
        ("50,inf", "percentiles: inf given"),
        ("99.99999999999999", "percentiles: 99.99999999999999 given"),
        ("99,99.0", "percentiles: 99 is given twice"),
        (",".join(map(str, range(1, 12))), "percentiles: 11 given"),
        ([[50]], "percentiles: '[50]' is not a number"),
        (True, "percentiles: "),
    ],
)
def test_what_is_none_is_refused_in_one_line(given, says):
    with pytest.raises(ConfigError) as refused:
        validate(RunConfig, {"percentiles": given})
    assert str(refused.value).startswith(says)
    assert "\n" not in str(refused.value)


def summed(run):
    """The summary of a run as it is made from its records."""
    return counted(run, tallied(run))


def test_names_are_those_of_the_numbers():
    assert [named(p) for p in parse_percentiles("50,99.9,2.5")] == ["p2.5", "p50", "p99.9"]


def run_with(synthetic_run, tmp_path, **config):
    path = synthetic_run(levels=(1, 4)).write(tmp_path)
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**manifest, "config": config}))
    return Run.open(path)


def test_the_chosen_ones_rule_table_summary_and_columns(synthetic_run, tmp_path):
    run = run_with(synthetic_run, tmp_path, percentiles=[25.0, 99.9])
    assert close_files(run.path) == []
    first = json.loads((run.path / "summary.json").read_text())["stages"][0]
    measured = [r for r in run.records() if r.stage == 1 and r.phase == "measured"]
    ttfts = [record.ttft for record in measured]
    assert list(first["ttft"]) == ["mean", "p25", "p99.9", "n"]
    assert first["ttft"]["p25"] == quantile(ttfts, 0.25)
    assert first["ttft"]["p99.9"] == quantile(ttfts, 0.999)
    assert list(first["send_lag"]) == ["mean", "p25", "p99", "p99.9", "n"]  # of lags p99 always
    with (run.path / "summary.csv").open(newline="") as file:
        row = next(csv.DictReader(file))
    assert float(row["e2e_p99.9"]) == first["e2e"]["p99.9"]
    assert not {"e2e_p50", "e2e_p99"} & set(row)
    shown = table(summed(run)["stages"])
    assert "milliseconds, p25/p99.9; the lags above are p99" in shown
    assert shown.splitlines()[-1].split()[1].count("/") == 1


def test_a_run_from_before_there_was_a_choice_states_the_customary_ones(synthetic_run, tmp_path):
    run = run_with(synthetic_run, tmp_path)
    document = summed(run)
    assert list(document["stages"][0]["e2e"]) == ["mean", "p50", "p95", "p99", "n"]
    assert "milliseconds, p50/p95/p99" in table(document["stages"])
