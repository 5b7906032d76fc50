import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from analysis.planner.candidates import Asked
from analysis.planner.catalog import load_catalog
from analysis.planner.fitted import read_fitted
from analysis.planner.latency import Batch
from analysis.planner.own import own_candidates
from analysis.planner.report import Answer, figures, plan_json, text_report, warnings_of
from analysis.planner.search import Plan, judge
from contract.errors import DataError

RUN = "20261120T104500-1a2b"
ASKED = Asked(rate=1.0, hardware="RTX 4080 12GB", hourly=0.1)


def coefficient(value: float, **more: Any) -> dict[str, Any]:
    return {"value": value, "class": "fitted", "source": [f"run:{RUN}"], "domain": [1, 8], **more}


COMMON = {"output_tokens": coefficient(24.0), "prompt_tokens": coefficient(60.0)}
LAWS: dict[str, dict[str, Any]] = {
    "hinge": {"hinge_m": coefficient(1.5), "service_time": coefficient(0.2)},
    "amdahl": {
        "throughput_n1": coefficient(5.0),
        "amdahl_sigma": coefficient(0.1),
        "service_time": coefficient(0.2),
    },
    "power": {
        "throughput_n1": coefficient(5.0),
        "power_alpha": coefficient(0.3),
        "service_time": coefficient(0.2),
    },
}


def document(law: str = "hinge", backend: str = "hf") -> dict[str, Any]:
    key = {"model": "tiny", "backend": backend, "hardware": "AMD EPYC", "quantization": "fp32"}
    entry = {"key": key, "runs": [RUN], "law": {"name": law}}
    return {"schema": 1, "models": [deepcopy({**entry, "coefficients": {**LAWS[law], **COMMON}})]}


def planned(tmp_path: Path, given: dict[str, Any], asked: Asked = ASKED) -> dict[str, Any]:
    found = figures(judged(tmp_path, given, asked), asked)
    return {name: value.value for name, value in found.items()}


def judged(tmp_path: Path, given: dict[str, Any], asked: Asked = ASKED) -> Plan:
    path = tmp_path / "fitted_models.json"
    path.write_text(json.dumps(given))
    candidate = own_candidates(load_catalog(), asked, read_fitted(str(path)))[0]
    return judge(candidate, asked)


def halved(given: dict[str, Any], name: str) -> dict[str, Any]:
    changed = deepcopy(given)
    changed["models"][0]["coefficients"][name]["value"] *= 0.5
    return changed


def test_hinge_numbers(tmp_path: Path) -> None:
    found = planned(tmp_path, document())
    assert found["utilisation"] == pytest.approx(0.2)
    assert found["p95_seconds"] == pytest.approx(0.1 + 0.2 * 1.859, rel=1e-3)
    assert found["peak_tokens_per_second"] == pytest.approx(24 / 0.2)
    assert found["usd_per_1m_tokens_at_peak"] == pytest.approx(0.1 / (120 * 3600) * 1e6)
    assert found["context_tokens"] == 84


def test_hinge_peak_below_the_knee_is_the_law_at_the_domains_end(tmp_path: Path) -> None:
    given = document()
    given["models"][0]["coefficients"]["hinge_m"].update(value=16.0)
    assert planned(tmp_path, given)["peak_tokens_per_second"] == pytest.approx(8 / (16 * 0.2) * 24)


def test_amdahl_on_one_slot_is_md1_and_its_peak_the_law(tmp_path: Path) -> None:
    found = planned(tmp_path, document("amdahl"))
    assert found["p95_seconds"] == pytest.approx(0.2 * 1.859, rel=1e-3)
    assert found["peak_tokens_per_second"] == pytest.approx(24 * 5 * 8 / 1.7)


def test_amdahl_on_a_batching_engine_is_a_batching_step(tmp_path: Path) -> None:
    found = planned(tmp_path, document("amdahl", backend="vllm"), ASKED._replace(rate=10.0))
    capacity = 8 / (0.2 * (1 + 0.1 * 7))
    assert found["utilisation"] == pytest.approx(10.0 / capacity)


def test_power_peak(tmp_path: Path) -> None:
    found = planned(tmp_path, document("power"))
    assert found["peak_tokens_per_second"] == pytest.approx(24 * 5 * 8**0.7)


@pytest.mark.parametrize(
    ("law", "name", "changed"),
    [
        ("hinge", "service_time", {"p95_seconds", "utilisation", "peak_tokens_per_second"}),
        ("hinge", "hinge_m", {"p95_seconds", "single_stream"}),
        ("hinge", "output_tokens", {"peak_tokens_per_second", "usd_per_1m_tokens_at_peak"}),
        ("hinge", "prompt_tokens", {"context_tokens"}),
        ("amdahl", "throughput_n1", {"peak_tokens_per_second", "usd_per_1m_tokens_at_peak"}),
        ("amdahl", "amdahl_sigma", {"peak_tokens_per_second", "usd_per_1m_tokens_at_peak"}),
        ("amdahl", "service_time", {"p95_seconds", "utilisation"}),
        ("power", "throughput_n1", {"peak_tokens_per_second", "usd_per_1m_tokens_at_peak"}),
        ("power", "power_alpha", {"peak_tokens_per_second", "usd_per_1m_tokens_at_peak"}),
        ("power", "service_time", {"p95_seconds", "utilisation"}),
    ],
)
def test_every_coefficient_tells(tmp_path: Path, law: str, name: str, changed: set[str]) -> None:
    before = planned(tmp_path, document(law))
    after = planned(tmp_path, halved(document(law), name))
    assert changed <= {figure for figure in before if before[figure] != after[figure]}


def test_the_hinge_point_tells(tmp_path: Path) -> None:
    given = document()
    given["models"][0]["coefficients"]["hinge_m"]["value"] = 3.0
    assert planned(tmp_path, given)["p95_seconds"] == pytest.approx(0.4 + 0.2 * 1.859, rel=1e-3)


@pytest.mark.parametrize("knee", [1.0, 1.018, 3.0])
def test_half_of_any_hinge_point_is_a_plan_with_other_numbers(tmp_path: Path, knee: float) -> None:
    """Alone a request takes M S, also where that is less than the S between completions."""
    given = document()
    given["models"][0]["coefficients"]["hinge_m"]["value"] = knee
    quiet = ASKED._replace(rate=0.01)
    before = planned(tmp_path, given, quiet)
    plan = judged(tmp_path, halved(given, "hinge_m"), quiet)
    after = {name: value.value for name, value in figures(plan, quiet).items()}
    assert before["p95_seconds"] == pytest.approx(0.2 * knee)
    assert after["p95_seconds"] == pytest.approx(0.1 * knee)
    assert after["utilisation"] == before["utilisation"]
    assert plan.candidate.pace is not None
    assert plan.candidate.pace.basis == "fitted"
    assert plan.candidate.runs == (RUN,)
    below = [each for each in plan.candidate.assumptions if "hinge_m below 1" in each]
    assert len(below) == (knee < 2.0)


def test_a_single_stream_takes_its_whole_response_time(tmp_path: Path) -> None:
    """Three places at 0.2 s between completions: alone a request takes 0.6 s."""
    given = document()
    given["models"][0]["coefficients"]["hinge_m"]["value"] = 3.0
    assert planned(tmp_path, given)["single_stream"] == pytest.approx(24.0 / 0.6)
    assert planned(tmp_path, document("amdahl"))["single_stream"] == pytest.approx(24.0 / 0.2)


def test_twice_the_tokens_take_twice_as_long_in_every_place(tmp_path: Path) -> None:
    given = document()
    given["models"][0]["coefficients"]["hinge_m"]["value"] = 3.0
    asked = ASKED._replace(rate=0.01, output_tokens=48, tokens_given=True)
    found = planned(tmp_path, given, asked)
    assert found["p95_seconds"] == pytest.approx(1.2)
    assert found["single_stream"] == pytest.approx(24.0 / 0.6)


@pytest.mark.parametrize(("law", "backend"), [("hinge", "hf"), ("amdahl", "vllm"), ("power", "hf")])
def test_without_token_counts_there_are_figures_per_request(
    tmp_path: Path, law: str, backend: str
) -> None:
    counted, uncounted = document(law, backend), document(law, backend)
    for name in ("output_tokens", "prompt_tokens"):
        del uncounted["models"][0]["coefficients"][name]
    known, found = planned(tmp_path, counted), planned(tmp_path, uncounted)
    for name in ("p95_seconds", "utilisation", "monthly_usd"):
        assert found[name] == pytest.approx(known[name], rel=1e-6), name
    assert not [name for name in found if "token" in name or name == "single_stream"]
    plan = judged(tmp_path, uncounted)
    assert "output tokens of the run unknown: figures per request only" in warnings_of(plan)
    answer = Answer([plan], [], [], None)
    cells = text_report(answer, ASKED, 5).splitlines()[1].split()
    assert cells[-3:] == ["?", "?", "fitted"]
    assert plan_json(plan, ASKED)["output_tokens"] is None


def test_an_unknown_length_is_not_scaled_and_says_so(tmp_path: Path) -> None:
    given = document()
    del given["models"][0]["coefficients"]["output_tokens"]
    asked = ASKED._replace(output_tokens=48, tokens_given=True)
    plan = judged(tmp_path, given, asked)
    assert plan.load is not None
    assert plan.load.utilisation == pytest.approx(0.2)
    assert any("unknown, not scaled to 48" in each for each in plan.candidate.assumptions)


def test_an_interval_of_another_value_is_dropped_and_said(tmp_path: Path) -> None:
    given = document()
    given["models"][0]["coefficients"]["service_time"].update(low=0.18, high=0.25)
    path = tmp_path / "fitted_models.json"
    path.write_text(json.dumps(given))
    assert read_fitted(str(path))[0].warnings == ()
    path.write_text(json.dumps(halved(given, "service_time")))
    [entry] = read_fitted(str(path))
    assert entry.warnings == (
        f"{path}: models[0].coefficients.service_time: interval [0.18, 0.25] does not hold the "
        "value 0.1, so no interval is shown",
    )
    candidate = own_candidates(load_catalog(), ASKED, [entry])[0]
    p95 = figures(judge(candidate, ASKED), ASKED)["p95_seconds"]
    assert (p95.low, p95.high) == (None, None)


def test_an_interval_that_ends_at_saturation_has_no_upper_end(tmp_path: Path) -> None:
    """Just below it the queue is stable and its quantile out of reach of any patience."""
    given = document()
    given["models"][0]["coefficients"]["service_time"].update(low=0.1, high=0.9999999999)
    p95 = figures(judged(tmp_path, given), ASKED)["p95_seconds"]
    assert p95.low is not None
    assert p95.high is None


def test_a_price_from_the_command_line_is_a_prior(tmp_path: Path) -> None:
    hourly = figures(judged(tmp_path, document()), ASKED)["hourly_usd"]
    assert (hourly.basis, hourly.source) == ("prior", ("--hourly-usd",))


def test_half_the_prompt_shows_in_the_context(tmp_path: Path) -> None:
    plans = [judged(tmp_path, each) for each in (document(), halved(document(), "prompt_tokens"))]
    whole, half = (text_report(Answer([p], [], [], None), ASKED, 5) for p in plans)
    assert "context 84 tokens, 60 of prompt" in whole
    assert "context 54 tokens, 30 of prompt" in half


def test_llama_server_batches(tmp_path: Path) -> None:
    plan = judged(tmp_path, document("amdahl", "llama-server"))
    assert isinstance(plan.candidate.server, Batch)
    assert plan.candidate.assumptions == ()


def test_half_the_service_time_halves_latency_and_price(tmp_path: Path) -> None:
    slow = ASKED._replace(rate=0.01)
    before = planned(tmp_path, document(), slow)
    after = planned(tmp_path, halved(document(), "service_time"), slow)
    for name in ("p95_seconds", "utilisation", "usd_per_1m_tokens_at_peak"):
        assert after[name] == pytest.approx(before[name] / 2)


def test_an_interval_carries_through_to_p95(tmp_path: Path) -> None:
    given = document()
    given["models"][0]["coefficients"]["service_time"].update(low=0.18, high=0.25)
    path = tmp_path / "fitted_models.json"
    path.write_text(json.dumps(given))
    candidate = own_candidates(load_catalog(), ASKED, read_fitted(str(path)))[0]
    p95 = figures(judge(candidate, ASKED), ASKED)["p95_seconds"]
    assert p95.low is not None
    assert p95.high is not None
    assert p95.low < p95.value < p95.high


def test_other_output_tokens_scale_the_service_time_and_say_so(tmp_path: Path) -> None:
    path = tmp_path / "fitted_models.json"
    path.write_text(json.dumps(document()))
    asked = ASKED._replace(output_tokens=48, tokens_given=True)
    candidate = own_candidates(load_catalog(), asked, read_fitted(str(path)))[0]
    found = figures(judge(candidate, asked), asked)
    assert found["utilisation"].value == pytest.approx(0.4)
    assert found["utilisation"].basis == "extrapolated"
    assert candidate.assumptions == ("service time scaled from 24 to 48 output tokens",)


def test_a_missing_class_is_unknown(tmp_path: Path) -> None:
    given = document()
    del given["models"][0]["coefficients"]["service_time"]["class"]
    path = tmp_path / "fitted_models.json"
    path.write_text(json.dumps(given))
    candidate = own_candidates(load_catalog(), ASKED, read_fitted(str(path)))[0]
    assert candidate.pace.basis == "unknown"
    assert candidate.runs == (RUN,)


def test_unknown_price_and_known_hardware(tmp_path: Path) -> None:
    asked = ASKED._replace(hourly=None)
    assert "monthly_usd" not in planned(tmp_path, document(), asked)
    given = document()
    given["models"][0]["key"]["hardware"] = "RTX 4090 24GB"
    assert planned(tmp_path, given, asked)["monthly_usd"] == pytest.approx(43.20)


def test_a_catalog_model_of_another_size_is_not_what_was_asked_for(tmp_path: Path) -> None:
    given = document()
    given["models"][0]["key"]["model"] = "llama3.2-1b"
    path = tmp_path / "fitted_models.json"
    path.write_text(json.dumps(given))
    entries = read_fitted(str(path))
    catalog = load_catalog()
    assert own_candidates(catalog, ASKED._replace(size="3b"), entries) == []
    assert len(own_candidates(catalog, ASKED._replace(size="1b"), entries)) == 1


def set_in(given: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    *parents, last = path.split(".")
    target: Any = given
    for part in parents:
        target = target[int(part) if part.isdigit() else part]
    target[last] = value
    return given


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("schema", 2, "schema: found 2, expected 1"),
        ("schema", None, "schema: found None, expected 1"),
        ("models", {}, "models: found {}, expected a list"),
        ("models.0.law", None, "models[0].law: found None, expected an object"),
        ("models.0.law.name", "usl", "models[0].law.name: found 'usl', expected one of hinge"),
        ("models.0.key.model", "", "models[0].key.model: found '', expected a name"),
        ("models.0.runs", "x", "models[0].runs: found 'x', expected a list of run ids"),
        (
            "models.0.coefficients.service_time.value",
            -1.0,
            "models[0].coefficients.service_time.value: found -1.0, "
            "expected a finite number from 1e-06 to 1e+06",
        ),
        (
            "models.0.coefficients.service_time.value",
            float("nan"),
            "models[0].coefficients.service_time.value: found nan, expected a finite number",
        ),
        (
            "models.0.coefficients.service_time.low",
            float("inf"),
            "models[0].coefficients.service_time.low: found inf, expected a finite number",
        ),
        (
            "models.0.coefficients.hinge_m.value",
            1e308,
            "models[0].coefficients.hinge_m.value: found 1e+308, "
            "expected a finite number from 0.001 to 100000",
        ),
        (
            "models.0.coefficients.service_time.value",
            1e308,
            "models[0].coefficients.service_time.value: found 1e+308, "
            "expected a finite number from 1e-06 to 1e+06",
        ),
        (
            "models.0.coefficients.service_time.value",
            10**400,
            "models[0].coefficients.service_time.value: found 1000",
        ),
        (
            "models.0.coefficients.service_time.low",
            0,
            "models[0].coefficients.service_time.low: found 0, "
            "expected a finite number from 1e-06 to 1e+06",
        ),
        (
            "models.0.coefficients.hinge_m.domain",
            [1, 1e308],
            "models[0].coefficients.hinge_m.domain[1]: found 1e+308, "
            "expected a finite number from 1 to 100000",
        ),
        (
            "models.0.coefficients.hinge_m.domain",
            [8, 1],
            "models[0].coefficients.hinge_m.domain: found [8, 1], expected [lowest, highest]",
        ),
        (
            "models.0.key.model",
            "tiny\x1b[31m",
            "models[0].key.model: found 'tiny\\x1b[31m', expected printable characters",
        ),
        (
            "models.0.runs",
            ["a\nb"],
            "models[0].runs[0]: found 'a\\nb', expected printable characters",
        ),
        (
            "models.0.coefficients.service_time.source",
            ["run:\u202e"],
            "models[0].coefficients.service_time.source: found 'run:\\u202e', expected printable",
        ),
        (
            "models.0.coefficients.output_tokens",
            None,
            "models[0].coefficients.output_tokens: found None, expected an object",
        ),
    ],
)
def test_a_bad_field_is_named(tmp_path: Path, path: str, value: object, said: str) -> None:
    file = tmp_path / "fitted_models.json"
    file.write_text(json.dumps(set_in(document(), path, value)))
    with pytest.raises(DataError) as error:
        read_fitted(str(file))
    assert str(error.value).startswith(f"{file}: {said}")


@pytest.mark.parametrize("text", ["", "{", "[1]", "\x00", '{"schema": 1}', "[" * 100_000])
def test_a_broken_file_is_unreadable_data(tmp_path: Path, text: str) -> None:
    file = tmp_path / "fitted_models.json"
    file.write_text(text)
    with pytest.raises(DataError):
        read_fitted(str(file))
