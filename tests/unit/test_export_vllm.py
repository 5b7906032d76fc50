"""The vLLM export: its keys are those of vLLM 0.32.0, its numbers follow vLLM's definitions."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from contract.errors import ConfigError, DataError
from contract.records import RequestRecord
from loadgen.cli import build_parser
from loadgen.figures.goodput import parse_goodput
from loadgen.files.export_vllm import Bench, document, file_name

SETUP = [
    *("date", "endpoint_type", "backend", "label", "model_id", "tokenizer_id", "num_prompts"),
    *("request_rate", "burstiness", "max_concurrency", "duration", "completed", "failed"),
    *("total_input_tokens", "total_output_tokens", "request_throughput", "request_goodput"),
    *("output_throughput", "total_token_throughput"),
]
LISTS = [
    *("input_lens", "output_lens", "ttfts", "itls", "latencies", "start_times", "queue_times"),
    *("generated_texts", "errors"),
]
PEAKS = ["max_output_tokens_per_s", "max_concurrent_requests", "rtfx"]


def statistics(*names):
    return [f"{part}_{name}_ms" for name in names for part in ("mean", "median", "std", "p99")]


def record(due, tokens, gaps, **changes):
    """Sent 0.1 s late, first token 0.5 s after that."""
    first = due + 0.6
    return RequestRecord(
        **{
            "run": "r",
            "stage": 1,
            "agent": 0,
            "seq": 0,
            "agents": 3,
            "phase": "measured",
            "outcome": "ok",
            "due": due,
            "sent": due + 0.1,
            "first_token": first,
            "last_token": first + sum(gaps) / 1e6,
            "ended": first + sum(gaps) / 1e6 + 0.01,
            "prompt_tokens": 7,
            "output_tokens": tokens,
            "chunks": len(gaps) + 1,
            "gaps_us": gaps,
            **changes,
        }
    )


@pytest.fixture
def exported(synthetic_run):
    run = synthetic_run(levels=(3,))

    def export(*records, detailed=False, objectives=None, rate=None, config=None, **asked):
        stage = run.stage(0)
        if rate is not None:
            stage = replace(stage, key=replace(stage.key, agents=0, request_rate=rate))
        manifest = replace(run.manifest(), config=config or {})
        bench = Bench(start=stage.start, detailed=detailed, objectives=objectives)
        for one in records:
            bench.add(one)
        return document(bench, stage, manifest, **asked)

    return export


def test_the_keys_are_vllms_in_its_order(exported):
    plain = exported(record(3.0, 3, [100_000, 200_000]))
    lists = ["latencies", "queue_times"]
    assert list(plain) == SETUP + lists + PEAKS + statistics("ttft", "tpot", "itl")
    detailed = exported(record(3.0, 3, [100_000, 200_000]), detailed=True)
    assert list(detailed) == SETUP + LISTS + PEAKS + statistics("ttft", "tpot", "itl")


def test_metrics_and_percentiles_are_chosen_as_in_vllm(exported):
    found = exported(record(3.0, 3, [1, 2]), metrics=("e2el", "ttft"), percentiles=(50.0, 99.9))
    chosen = [f"{part}_{name}_ms" for name in ("ttft", "e2el")
              for part in ("mean", "median", "std", "p50", "p99.9")]  # fmt: skip
    assert [name for name in found if name.endswith("_ms")] == chosen


def test_clocks_start_when_a_request_is_sent(exported):
    found = exported(record(3.0, 3, [100_000, 300_000]), metrics=("ttft", "tpot", "itl", "e2el"))
    assert found["mean_ttft_ms"] == pytest.approx(500)
    assert found["mean_e2el_ms"] == pytest.approx(900)
    assert found["mean_tpot_ms"] == pytest.approx(200)
    assert (found["median_itl_ms"], found["std_itl_ms"]) == pytest.approx((200, 100))
    assert found["p99_itl_ms"] == pytest.approx(298)
    assert found["queue_times"] == pytest.approx([0.1])
    assert found["latencies"] == pytest.approx([0.9])


def test_only_the_measured_phase_counts_and_failures_apart(exported):
    good = record(3.0, 10, [50_000] * 9)
    failed = replace(good, outcome="timed_out", last_token=None, error="30 s", due=4.0, sent=4.1)
    others = [replace(good, phase=phase) for phase in ("warmup", "drain")]
    found = exported(good, failed, *others, detailed=True)
    assert (found["num_prompts"], found["completed"], found["failed"]) == (2, 1, 1)
    assert (found["total_input_tokens"], found["total_output_tokens"]) == (7, 10)
    assert found["request_throughput"] == pytest.approx(1 / 20)
    assert found["total_token_throughput"] == pytest.approx(17 / 20)
    assert found["output_lens"] == [10, 0]
    assert found["errors"] == ["", "30 s"]
    assert found["latencies"] == pytest.approx([0.95, 0.0])
    assert found["itls"][0] == [0.05] * 9


def test_a_stage_in_which_nothing_ended_ok_is_zeros(exported):
    found = exported()
    assert found["completed"] == found["mean_ttft_ms"] == found["p99_itl_ms"] == 0
    assert (found["max_concurrent_requests"], found["max_output_tokens_per_s"]) == (0, 0.0)
    assert found["request_goodput"] is None


def test_peaks(exported):
    # Windows open at 2 s; two requests overlap, the third is sent as the second ends.
    second = record(3.2, 4, [100_000])  # sent 3.3, two chunks of two tokens at 3.8 and 3.9
    third = record(second.last_token - 0.1, 1, [])
    found = exported(record(3.0, 8, [50_000] * 7), second, third)
    assert found["max_concurrent_requests"] == 2
    assert found["max_output_tokens_per_s"] == pytest.approx(12)


def test_goodput_is_a_rate_where_objectives_were_asked(exported):
    requests = [record(3.0, 3, [100_000] * 2), record(3.0, 3, [900_000] * 2)]
    found = exported(*requests, objectives=parse_goodput("e2el:1000"))
    assert found["request_goodput"] == pytest.approx(1 / 20)


def test_one_token_has_no_tpot(exported):
    assert exported(record(3.0, 1, []))["mean_tpot_ms"] == 0
    assert exported(record(3.0, 1, []), record(3.0, 2, [70_000]))["mean_tpot_ms"] == pytest.approx(
        70
    )


def test_an_open_loop_has_its_rate_and_no_limit_but_the_one_asked_for(exported):
    found = exported(rate=2.5)
    assert (found["request_rate"], found["max_concurrency"]) == (2.5, None)
    assert file_name({**found, "date": "D"}) == "hf-2.5qps-gpt2-25m-D.json"
    asked = {"max_concurrency": 8, "burstiness": 0.5, "backend": {"endpoint": "chat"}}
    found = exported(rate=2.5, config=asked)
    assert (found["max_concurrency"], found["burstiness"]) == (8, 0.5)
    assert found["endpoint_type"] == "openai-chat"


def test_the_file_is_named_as_vllm_names_it(exported):
    named = file_name({**exported(), "date": "20261120-104500", "model_id": "org/model"})
    assert named == "hf-infqps-concurrency3-model-20261120-104500.json"
    named = file_name({**exported(), "date": "d", "model_id": "m\x1b[31m", "backend": "h\nf"})
    assert named == "h_f-infqps-concurrency3-m_[31m-d.json"


def export(*argv):
    arguments = build_parser().parse_args(["export", *map(str, argv)])
    return arguments.command(arguments)


def test_every_stage_is_a_file(synthetic_run, tmp_path, capsys):
    path = synthetic_run(levels=(1, 2)).write(tmp_path)
    assert export(path, "--format", "vllm", "--output", tmp_path / "out") == 0
    files = capsys.readouterr().out.split()
    assert len(files) == 2
    found = [json.loads(Path(file).read_text()) for file in files]
    assert [one["max_concurrency"] for one in found] == [1, 2]
    assert [one["completed"] for one in found] == [80, 160]
    assert export(path, "--format", "vllm", "--stage", 2, "--output", tmp_path / "a.json") == 0
    assert json.loads((tmp_path / "a.json").read_text()) == found[1]


def test_closing_again_prints_what_was_made(synthetic_run, tmp_path, capsys):
    path = synthetic_run(levels=(1, 2)).write(tmp_path)
    assert export(path) == 0
    made = ["requests.parquet", "metrics.csv", "summary.json", "summary.csv"]
    assert capsys.readouterr().out.split() == [str(path / name) for name in made]
    target = tmp_path / "columns.parquet"
    assert export(path, "--format", "parquet", "--output", target) == 0
    assert target.read_bytes()[:4] == b"PAR1"
    assert not list(tmp_path.glob("tmp*"))


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--format", "vllm", "--stage", "7"], "--stage: 7 is no finished stage, finished: 1, 2"),
        (["--format", "vllm", "--output", "x.json"], "one file, 2 stages are written"),
        (["--format", "csv", "--output", "x.csv"], "one file, 2 are written; give a folder"),
        (["--stage", "1"], "--stage: belongs to --format vllm"),
        (["--save-detailed"], "--save-detailed: belongs to --format vllm"),
        (["--format", "vlm"], "did you mean 'vllm'?"),
        (["--percentile-metrics", "ttft,tpt"], "'tpt' is not one of ttft, tpot, itl, e2el"),
        (["--metric-percentiles", "101"], "'101' is not a finite number"),
        (["--slice-seconds", "0"], "'0' is not a finite number at least 0.001"),
    ],
)
def test_a_mistake_is_one_line(synthetic_run, tmp_path, flags, says):
    path = synthetic_run(levels=(1, 2)).write(tmp_path)
    with pytest.raises(ConfigError) as caught:
        export(path, *flags)
    assert says in str(caught.value)


def test_what_was_asked_for_by_name_must_be_made(synthetic_run, tmp_path):
    path = synthetic_run(levels=(1,)).write(tmp_path)
    (path / "requests.parquet").mkdir()
    with pytest.raises(DataError, match=r"requests.parquet: cannot be written \(Is a directory"):
        export(path, "--format", "parquet")
