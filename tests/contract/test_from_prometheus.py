"""A run read from a real Prometheus equals the run read from its directory."""

from __future__ import annotations

import json
import math
import shutil
import socket
import subprocess
import time
from collections import defaultdict
from dataclasses import replace

import pytest

from analysis.fit_command import add_parser
from analysis.from_prometheus import table_from_prometheus
from analysis.from_rundir import table_from_run
from analysis.prometheus_api import Prometheus
from contract.commandline import Parser, run
from contract.errors import ConfigError, DataError, TargetError
from contract.exporter import Instruments
from contract.rundir import Run
from loadgen.observe import Observer

DAY = 86400.0


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def events(run, observer):
    """What the load generator tells its observer, as (seconds since the epoch, call)."""
    stop = len(run.levels) if run.finished is None else run.finished
    for place, key in enumerate(run.keys()):
        if place > stop:
            return
        start, _ = run.window(place)
        yield (
            start,
            lambda place=place, key=key, start=start: observer.opened(place + 1, key, start),
        )
        for record in run.records(place):
            yield record.ended, lambda record=record: observer.record(record)
        if place < stop:
            stage = run.stage(place)
            yield stage.drained, lambda stage=stage: observer.closed(stage)


def scrapes(run, interval):
    """Every sample a scrape each `interval` seconds sees: (family, type, name, labels, t, v)."""
    instruments = Instruments("loadgen")
    todo = sorted(events(run, Observer(instruments, run.manifest())), key=lambda e: e[0])
    at, last = -0.63, todo[-1][0] + 2 * interval
    while at < last:
        while todo and todo[0][0] <= at:
            todo.pop(0)[1]()
        for family in instruments.registry.collect():
            for sample in family.samples:
                if not sample.name.endswith(("_bucket", "_created")):
                    labels = tuple(sorted(sample.labels.items()))
                    where = (family.name, family.type, sample.name, labels)
                    yield *where, run.epoch_unix + at, sample.value
        at += interval


def open_metrics(histories, instance):
    """The samples of several runs of one target as the text promtool backfills from."""
    series = defaultdict(lambda: defaultdict(list))
    for history in histories:
        for family, kind, name, labels, at, value in history:
            # Counts and sums alone are no histogram in the text format; untyped they stay.
            kept = kind if kind != "histogram" else "unknown"
            owner = family if kept != "unknown" else name
            series[(owner, kept)][(name, labels)].append((at, value))
    lines = []
    for (family, kind), members in series.items():
        lines.append(f"# TYPE {family} {kind}")
        for (name, labels), samples in members.items():
            text = ",".join(f'{label}="{value}"' for label, value in labels)
            text += f'{"," if text else ""}job="loadgen",instance="{instance}"'
            lines += [f"{name}{{{text}}} {value} {at:.3f}" for at, value in sorted(samples)]
    return "\n".join([*lines, "# EOF", ""])


@pytest.fixture
def serve(tmp_path, prometheus_binary, promtool_binary):
    """Start Prometheus on backfilled runs, given as {instance: [(run, scrape interval)]}."""
    started = []

    def call(targets):
        data = tmp_path / f"data{len(started)}"
        data.mkdir()
        for instance, runs in targets.items():
            text = tmp_path / "history.om"
            text.write_text(open_metrics([scrapes(*each) for each in runs], instance))
            blocks = tmp_path / f"blocks{len(started)}-{instance.replace(':', '-')}"
            command = [promtool_binary, "tsdb", "create-blocks-from", "openmetrics", text, blocks]
            subprocess.run(command, check=True, capture_output=True)
            for block in blocks.iterdir():
                shutil.move(block, data / block.name)
        config = tmp_path / "prometheus.yml"
        config.write_text("global: {}\n")
        port = free_port()
        process = subprocess.Popen(
            [
                prometheus_binary,
                f"--config.file={config}",
                f"--storage.tsdb.path={data}",
                "--storage.tsdb.retention.time=30d",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert any("ready to receive web requests" in line for line in process.stderr)
        return f"http://127.0.0.1:{port}"

    yield call
    for process in started:
        process.terminate()
        process.communicate(timeout=30)


@pytest.fixture
def past():
    """An epoch three hours ago: within a day, older than anything the server makes itself."""
    return math.floor(time.time()) - 3 * 3600.0


def read(url, run_id=None, lookback=DAY):
    return table_from_prometheus(Prometheus(url, timeout=30.0), run_id=run_id, lookback=lookback)


def figures(table):
    return [(row.stage, row.agents, row.repeat, row.requests, row.outcomes) for row in table.levels]


@pytest.mark.parametrize("interval", [1.0, 15.0])
def test_counts_equal_those_of_the_run_directory(serve, synthetic_run, tmp_path, past, interval):
    planted = synthetic_run(epoch_unix=past)
    truth = table_from_run(Run.open(planted.write(tmp_path / "runs")))
    view = read(serve({"127.0.0.1:9210": [(planted, interval)]}))
    assert figures(view) == figures(truth)
    assert [row.requests for row in view.levels] == [80, 160, 200, 200, 200, 200]
    assert view.key == truth.key
    assert view.runs == truth.runs
    assert (view.missing, view.warnings) == ([], [])
    for seen, real in zip(view.levels, truth.levels, strict=True):
        assert seen.seconds == pytest.approx(real.seconds, abs=1e-6)
        assert seen.requests_per_second == pytest.approx(real.requests_per_second)
        assert seen.mean_latency == pytest.approx(real.mean_latency)
        assert seen.mean_output_tokens == pytest.approx(real.mean_output_tokens)
        assert seen.mean_prompt_tokens == pytest.approx(real.mean_prompt_tokens)
        assert math.fsum(seen.block_counts) == pytest.approx(seen.requests)
        assert len(seen.block_counts) * seen.block_seconds == pytest.approx(seen.seconds)


def test_blocks_follow_the_scrapes_inside_the_window(serve, synthetic_run, past):
    planted = synthetic_run(levels=(1, 2, 4), epoch_unix=past)
    rows = [
        read(serve({"127.0.0.1:9210": [(planted, interval)]})).levels[0] for interval in (1.0, 15.0)
    ]
    assert [row.note for row in rows] == ["", "Poisson interval, too few scrapes in the window"]
    fine, coarse = (row.block_counts for row in rows)
    # Even completions: blocks of two scrapes show little scatter, unresolved ones that of Poisson.
    assert max(fine) - min(fine) < 3
    assert max(coarse) - min(coarse) == pytest.approx(2 * 8 * math.sqrt(9 / 80))


def test_two_sources_give_the_same_fit(serve, synthetic_run, tmp_path, past, capsys):
    planted = synthetic_run(epoch_unix=past)
    planted.write(tmp_path / "runs")
    url = serve({"127.0.0.1:9210": [(planted, 1.0)]})
    parser = Parser(prog="analysis")
    add_parser(parser.add_subparsers())
    coefficients = []
    for source in (["--runs-dir", str(tmp_path / "runs")], ["--from-prometheus", url]):
        output = tmp_path / "fitted.json"
        assert run(lambda: parser, ["fit", *source, "--output", str(output)]) == 0
        coefficients.append(json.loads(output.read_text())["models"][0]["coefficients"])
    assert "(prometheus; it holds no verdicts)" in capsys.readouterr().out
    truth, view = coefficients
    assert truth.keys() == view.keys()
    for name, coefficient in truth.items():
        assert view[name]["value"] == pytest.approx(coefficient["value"], rel=1e-5)


def test_the_newest_run_of_a_target_is_read_and_not_mixed(serve, synthetic_run, past):
    older = synthetic_run(name="older", epoch_unix=past - 3600, seconds=40.0)
    newer = synthetic_run(name="newer", epoch_unix=past, seconds=20.0)
    url = serve({"127.0.0.1:9210": [(older, 5.0), (newer, 5.0)]})
    assert read(url).runs == ["newer"]
    assert [row.requests for row in read(url).levels] == [80, 160, 200, 200, 200, 200]
    assert [row.requests for row in read(url, "older").levels] == [160, 320, 400, 400, 400, 400]


def test_two_targets_at_the_same_time_are_not_mixed(serve, synthetic_run, past):
    one = synthetic_run(name="one", epoch_unix=past)
    two = synthetic_run(name="two", epoch_unix=past + 7, levels=(1, 2, 3), seconds=40.0)
    url = serve({"host-a:9210": [(one, 5.0)], "host-b:9210": [(two, 5.0)]})
    assert [row.requests for row in read(url, "one").levels] == [80, 160, 200, 200, 200, 200]
    assert [row.requests for row in read(url, "two").levels] == [160, 320, 400]


def test_repeats_stay_apart_where_a_scrape_falls_between_them(serve, synthetic_run, past):
    planted = synthetic_run(levels=(1, 2, 4, 1), epoch_unix=past)
    view = read(serve({"127.0.0.1:9210": [(planted, 10.0)]}))
    assert [(row.stage, row.agents, row.repeat, row.requests) for row in view.levels] == [
        (1, 1, 0, 80),
        (2, 2, 0, 160),
        (3, 4, 0, 200),
        (4, 1, 1, 80),
    ]
    assert view.warnings == []


def test_repeats_no_scrape_tells_apart_are_pooled_and_said_so(serve, synthetic_run, past):
    planted = synthetic_run(levels=(1, 1, 2, 4), epoch_unix=past)
    # Scrapes at -0.63, 119.37, 239.37, …: none in [22, 102], between the two single agents.
    view = read(serve({"127.0.0.1:9210": [(planted, 120.0)]}))
    assert [(row.stage, row.requests, row.seconds) for row in view.levels] == [
        (1, 160, pytest.approx(40.0)),
        (3, 160, pytest.approx(20.0)),
        (4, 200, pytest.approx(20.0)),
    ]
    assert view.warnings == [
        "stages 1, 2 (agents 1) are pooled into one point: no scrape falls between them"
    ]


def test_stages_that_did_not_finish_are_named(serve, synthetic_run, past):
    planted = synthetic_run(finished=4, epoch_unix=past)
    view = read(serve({"127.0.0.1:9210": [(planted, 1.0)]}))
    assert [row.agents for row in view.levels] == [1, 2, 3, 4]
    assert view.missing == ["stage 5 (agents 5)", "a later stage (agents 6)"]
    assert "stage 5 (agents 5) did not finish" in view.warnings
    assert "a later stage (agents 6) did not finish" in view.warnings


def test_lookback_bounds_which_runs_are_seen(serve, synthetic_run, past):
    url = serve({"127.0.0.1:9210": [(synthetic_run(epoch_unix=past), 15.0)]})
    with pytest.raises(DataError, match=r"within the last 60 min; .*--lookback"):
        read(url, lookback=3600.0)
    with pytest.raises(DataError, match=r"within the last 1 s; "):
        read(url, lookback=1.0)
    assert len(read(url, lookback=4 * 3600.0).levels) == 6


def open_at(kind, place):
    """A run of `kind` whose stage at `place` is an open loop."""

    class Opened(kind):
        def keys(self):
            keys = super().keys()
            keys[place] = replace(keys[place], agents=0, request_rate=2.0)
            return keys

        def records(self, at):
            records = super().records(at)
            return [replace(r, agents=0) for r in records] if at == place else records

    return Opened


def test_an_open_loop_is_shown_and_never_fitted(serve, synthetic_run, past, tmp_path, capsys):
    planted = open_at(synthetic_run, 4)(levels=(1, 2, 4, 8, 3), epoch_unix=past)
    url = serve({"127.0.0.1:9210": [(planted, 1.0)]})
    parser = Parser(prog="analysis")
    add_parser(parser.add_subparsers())
    output = tmp_path / "fitted.json"
    argv = ["fit", "--from-prometheus", url, "--output", str(output), "--include-failed-verdicts"]
    assert run(lambda: parser, argv) == 0
    assert capsys.readouterr().out.split("no: open loop")[0].splitlines()[-1].split()[0] == "-"
    [entry] = json.loads(output.read_text())["models"]
    points = [(p["agents"], p["requests"], p["used"], p["why"]) for p in entry["points"]]
    assert points[3:] == [(8, 200, True, ""), (0, 200, False, "open loop")]
    assert entry["coefficients"]["hinge_m"]["n"] == 4


def test_a_poisson_interval_is_said_beside_its_point(serve, synthetic_run, past, tmp_path, capsys):
    url = serve({"127.0.0.1:9210": [(synthetic_run(epoch_unix=past), 15.0)]})
    parser = Parser(prog="analysis")
    add_parser(parser.add_subparsers())
    output = tmp_path / "fitted.json"
    assert run(lambda: parser, ["fit", "--from-prometheus", url, "--output", str(output)]) == 0
    said = capsys.readouterr().out
    assert said.count("yes; Poisson interval, too few scrapes in the window") == 6
    [entry] = json.loads(output.read_text())["models"]
    assert {point["note"].split(",")[0] for point in entry["points"]} == {"Poisson interval"}


def test_an_unknown_run_id_suggests_the_nearest(serve, synthetic_run, past):
    url = serve({"127.0.0.1:9210": [(synthetic_run(name="first", epoch_unix=past), 15.0)]})
    with pytest.raises(DataError, match=r"run 'frist' not found .* did you mean 'first'\?"):
        read(url, "frist")


def test_an_empty_prometheus_says_what_to_scrape(serve):
    with pytest.raises(DataError, match=r"scrape loadgen as prometheus/prometheus.yml does"):
        read(serve({}))


def test_a_refused_query_is_a_data_error(serve):
    with pytest.raises(DataError, match=r"HTTP 400 \(.*parse error"):
        Prometheus(serve({}), timeout=30.0).raw("a{", 0.0, 1.0)


def test_an_absent_prometheus_ends_with_3_and_says_what_to_start(capsys):
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(TargetError, match=r"start it with: prometheus --config\.file="):
        read(url)
    parser = Parser(prog="analysis")
    add_parser(parser.add_subparsers())
    assert run(lambda: parser, ["fit", "--from-prometheus", url]) == 3
    assert capsys.readouterr().err.startswith(f"error: Prometheus at {url} does not answer")


@pytest.mark.parametrize("url", ["localhost:9090", "ftp://x", "http://", "http://x:port", ""])
def test_what_is_no_address_is_refused(url):
    with pytest.raises(ConfigError, match="--from-prometheus: "):
        Prometheus(url, timeout=1.0)
