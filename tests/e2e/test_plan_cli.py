import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
REFERENCE = ("--model-size", "3b", "--request-rate", "2", "--budget", "50")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "analysis", *arguments],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


def plan(*arguments: str) -> subprocess.CompletedProcess[str]:
    return run("plan", *arguments)


def plan_json(*arguments: str) -> dict[str, Any]:
    done = plan(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return dict(json.loads(done.stdout))


def fitted(path: Path, **values: float) -> str:
    numbers = {"hinge_m": 1.2, "service_time": 0.2, "output_tokens": 24.0, "prompt_tokens": 60.0}
    coefficients = {
        name: {"value": value, "class": "fitted", "source": ["run:r1"], "domain": [1, 8]}
        for name, value in {**numbers, **values}.items()
    }
    key = {"model": "tiny", "backend": "hf", "hardware": "AMD EPYC", "quantization": "fp32"}
    entry = {
        "key": key,
        "runs": ["r1"],
        "law": {"name": "hinge"},
        "coefficients": coefficients,
    }
    path.write_text(json.dumps({"schema": 1, "models": [entry]}))
    return str(path)


def test_version() -> None:
    assert run("--version").stdout == "loadstone 0.1.0\n"


def test_the_reference_question() -> None:
    done = plan(*REFERENCE)
    assert done.returncode == 0
    first = done.stdout.splitlines()[1].split()
    assert first[:4] == ["1", "llama3.2-3b", "vllm", "FP16"]
    assert "25.20" in first
    assert "left out as disputed: llama3.2-3b on ollama" in done.stdout


def test_every_figure_in_json_has_unit_class_and_source() -> None:
    answer = plan_json(*REFERENCE)
    best = answer["candidates"][0]
    figures = {name: each for name, each in best.items() if isinstance(each, dict)}
    assert len(figures) >= 10
    for name, figure in figures.items():
        assert {"value", "unit", "class", "source"} <= set(figure), name
        assert figure["source"], name
    assert best["monthly_usd"]["value"] == pytest.approx(25.2)
    assert best["p95_seconds"]["class"] == "fitted"


def test_candidates_come_cheapest_first() -> None:
    costs = [each["monthly_usd"]["value"] for each in plan_json(*REFERENCE)["candidates"]]
    assert costs == sorted(costs)
    assert max(costs) <= 50


def test_disputed_values_only_on_request() -> None:
    arguments = ("--model-size", "3b", "--request-rate", "0.1", "--backend", "ollama")
    assert plan(*arguments).returncode == 6
    found = plan_json(*arguments, "--include-disputed")["candidates"]
    assert [each["quantization"] for each in found] == ["FP16"]
    assert any(each.startswith("disputed") for each in found[0]["warnings"])


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--request-rate", "nan"), 2, "--request-rate: 'nan'"),
        (("--request-rate", "-1"), 2, "--request-rate"),
        (("--request-rate", "0"), 2, "--request-rate: '0'"),
        (("--request-rate", "1", "--budget", "inf"), 2, "--budget: 'inf'"),
        (("--request-rate", "1", "--latency-slo", "0"), 2, "--latency-slo: '0'"),
        (("--request-rate", "1", "--quality-target", "1.1"), 2, "at most 1"),
        (("--request-rate", "1", "--output-tokens", "0"), 2, "--output-tokens: '0'"),
        (("--request-rate", "1e300"), 2, "--request-rate: '1e300' is not a finite number at least"),
        (("--request-rate", "1", "--output-tokens", "9" * 25), 2, "and at most 10000000"),
        (("--request-rate", "1", "--prompt-tokens", "9" * 25), 2, "and at most 10000000"),
        (("--request-rate", "\u0661"), 2, "'\u0661' is not a number"),
        (("--request-rate", "1_0"), 2, "'1_0' is not a number"),
        (("--request-rate", "1", "--latency-slo", "5e-324"), 2, "--latency-slo: '5e-324'"),
        (("--request-rate", "1", "--hourly-usd", "1"), 2, "--hourly-usd: given without --models"),
        (("--request-rate", "1", "--hardware", ""), 2, "--hardware: an empty text is given"),
        (("--request-rate", "1", "--models", ""), 2, "--models: an empty text is given"),
        (("--request-rate", "1", "--model-size", ""), 2, "--model-size: an empty text is given"),
        (("--request-rate", "1", "--backend", ""), 2, "--backend: an empty text is given"),
        (("--request-rate", "1", "--quantization", " "), 2, "--quantization: ' ' given"),
        (("--request-rate", "1", "--backend", "llama-server"), 6, "nothing known for this"),
        ((), 2, "--request-rate: nothing given"),
        (("--request-rate", "1", "--model-size", "banana"), 2, "allowed: 0.1b, 0.5b, 1b"),
        (("--request-rate", "1", "--model-size", "2b"), 2, "did you mean"),
        (("--request-rate", "1", "--hardware", "RTX 4090"), 2, "did you mean 'RTX 4090 24GB'"),
        (("--request-rate", "1", "--backend", "vlm"), 2, "did you mean 'vllm'"),
        (("--request-rate", "1", "--quantization", "Q4"), 2, "allowed: FP16, Q8_0"),
        (("--request-rate", "1", "--models", "no/such.json"), 4, "no/such.json: no such file"),
        (("--request-rat", "1"), 2, "--request-rate"),
        (("--model-size", "3b", "--request-rate", "2", "--budget", "10"), 6, "25.20 USD/month"),
    ],
)
def test_what_is_wrong_is_one_line(arguments: tuple[str, ...], code: int, said: str) -> None:
    done = plan(*arguments)
    assert done.returncode == code
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert said in done.stderr


def test_nothing_fits_still_prints_its_json() -> None:
    done = plan("--model-size", "3b", "--request-rate", "2", "--budget", "10", "--json")
    assert done.returncode == 6
    answer = json.loads(done.stdout)
    assert answer["candidates"] == []
    assert answer["nearest_miss"]["misses"][0]["gate"] == "budget"
    assert answer["relax"][0].startswith("--budget 25.20 USD/month would do")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "question",
    [
        ("--request-rate", "2", "--budget", "1"),
        ("--request-rate", "2", "--budget", "20"),
        ("--request-rate", "2", "--latency-slo", "1"),
        ("--request-rate", "2", "--budget", "0"),
        ("--request-rate", "2", "--budget", "1", "--latency-slo", "1"),
        ("--request-rate", "2", "--quality-target", "0.99"),
        ("--request-rate", "0.1", "--model-size", "8b", "--quantization", "FP16"),
        ("--request-rate", "0.1", "--model-size", "3b", "--backend", "ollama"),
        ("--request-rate", "0.01", "--backend", "transformers-cpu", "--hardware", "L4 24GB"),
    ],
)
def test_every_hint_that_is_followed_does(question: tuple[str, ...]) -> None:
    done = plan(*question)
    assert done.returncode == 6
    hints = re.findall(r"[;,] (?:or )?(--.*?) would do", done.stderr)
    assert hints
    for hint in hints:
        changes = re.findall(r'(--[a-z-]+)(?: "([^"]+)"| ([0-9.]+))?', hint)
        flags = [each for flag, *value in changes for each in (flag, "".join(value)) if each]
        assert plan(*question, *flags).returncode == 0, hint


def test_a_question_of_money_is_answered_with_money() -> None:
    for budget in ("1", "0"):
        said = plan("--request-rate", "2", "--budget", budget).stderr
        assert f"25.20 USD/month, asked {budget}; --budget 25.20 USD/month would do" in said
        assert "GiB" not in said


def test_the_relaxation_it_names_does() -> None:
    question = ("--model-size", "3b", "--request-rate", "9", "--backend", "tgi")
    done = plan(*question, "--latency-slo", "3200", "--budget", "90")
    assert done.returncode == 6
    budget = done.stderr.split("--budget ")[1].split(" USD")[0]
    slo = done.stderr.split("--latency-slo ")[1].split(" ms")[0]
    assert plan(*question, "--latency-slo", "3200", "--budget", budget).returncode == 0
    assert plan(*question, "--latency-slo", slo, "--budget", "90").returncode == 0


def test_own_fit_names_its_run_and_follows_its_coefficients(tmp_path: Path) -> None:
    path = tmp_path / "fitted_models.json"
    arguments = ("--request-rate", "0.01", "--hourly-usd", "0.1", "--backend", "hf", "--models")
    before = plan_json(*arguments, fitted(path))["candidates"][0]
    after = plan_json(*arguments, fitted(path, service_time=0.1))["candidates"][0]
    assert before["runs"] == ["r1"]
    assert before["p95_seconds"]["source"] == ["run:r1"]
    for name in ("p95_seconds", "utilisation", "usd_per_1m_tokens_at_peak"):
        assert after[name]["value"] == pytest.approx(before[name]["value"] / 2), name


def test_half_a_value_leaves_its_interval_behind_and_says_so(tmp_path: Path) -> None:
    path = Path(fitted(tmp_path / "fitted_models.json"))
    document = json.loads(path.read_text())
    document["models"][0]["coefficients"]["service_time"].update(value=0.1, low=0.19, high=0.21)
    path.write_text(json.dumps(document))
    question = ("--request-rate", "0.01", "--hourly-usd", "0.1", "--models", str(path))
    done = plan(*question)
    assert done.returncode == 0
    said = [line for line in done.stderr.splitlines() if "does not hold" in line]
    assert len(said) == 1
    assert said[0].startswith(f"warning: {path}: models[0].coefficients.service_time: interval")
    assert f"warning: {plan_json(*question)['warnings'][0]}" == said[0]


def test_what_the_scores_confuse_is_said_in_both_forms() -> None:
    question = (*REFERENCE, "--quality-target", "0.5")
    [note] = plan_json(*question)["warnings"]
    assert "base models" in note
    assert f"warning: {note}" in plan(*question).stderr.splitlines()
    assert plan_json(*REFERENCE)["warnings"] == []


def test_own_fit_of_unknown_price_comes_after_the_priced(tmp_path: Path) -> None:
    models = fitted(tmp_path / "fitted_models.json")
    answer = plan_json(*REFERENCE, "--models", models)
    last = answer["candidates"][-1]
    assert (last["model"], last["budget_judged"]) == ("tiny", False)
    text = plan(*REFERENCE, "--models", models, "--top", "1").stdout
    assert "price of AMD EPYC unknown, budget not judged" in text


@pytest.mark.parametrize("text", ["{", '{"schema": 9, "models": []}', "[]"])
def test_a_corrupted_fit_is_unreadable_data(tmp_path: Path, text: str) -> None:
    path = tmp_path / "fitted_models.json"
    path.write_text(text)
    done = plan("--request-rate", "1", "--models", str(path))
    assert done.returncode == 4
    assert done.stderr.startswith(f"error: {path}: ")
    assert done.stderr.count("\n") == 1


def test_lists() -> None:
    hardware = plan("--list-hardware").stdout
    assert {"RTX 4060 8GB", "H100 80GB"} <= {line.split("  ")[0] for line in hardware.splitlines()}
    assert "disputed: the public figure of this card is 432 GB/s" in hardware
    head, first = plan("--list-models").stdout.splitlines()[:2]
    assert head.split()[:2] == ["models", "size"]
    assert first.split() == ["gpt2", "0.1b", "0.124", "12", "12", "12", "64"]
    assert max(map(len, hardware.splitlines())) <= 100
    assert "memory, bandwidth: TR133 appendix B" in hardware
    assert set(json.loads(plan("--list-models", "--json").stdout)) == {"models"}


def test_planning_imports_the_standard_library_and_ours_only() -> None:
    code = (
        "import sys; before = set(sys.modules); from analysis.cli import main; "
        f"assert main({['plan', *REFERENCE, '--latency-slo', '9000']!r}) == 0; "
        "names = {name.partition('.')[0] for name in set(sys.modules) - before}; "
        "print(sorted(names - set(sys.stdlib_module_names)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "['analysis', 'contract']"
