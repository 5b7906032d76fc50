"""Every golden case of a covered kind, and that the cases really test `analysis`."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

HERE = Path(__file__).parent
CASES = json.loads((HERE.parent / "golden" / "cases.json").read_text())


def _load_adapter() -> ModuleType:
    spec = importlib.util.spec_from_file_location("golden_adapter", HERE / "adapter.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


adapter = _load_adapter()


def _close(got: Any, want: Any, tolerance: dict[str, float]) -> bool:
    if isinstance(want, bool | str):
        return bool(got == want)
    if isinstance(want, list):
        return len(got) == len(want) and all(
            _close(g, w, tolerance) for g, w in zip(got, want, strict=True)
        )
    return bool(abs(got - want) <= max(tolerance["abs"], tolerance["rel"] * abs(want)))


def _misses(case: dict[str, Any]) -> dict[str, Any]:
    got = adapter.evaluate(case["kind"], case["inputs"])
    return {
        key: (got[key], want)
        for key, want in case["expected"].items()
        if not _close(got[key], want, case["tolerance"])
    }


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_a_golden_case_holds(case: dict[str, Any]) -> None:
    assert _misses(case) == {}


def test_every_covered_kind_has_a_case() -> None:
    assert {case["kind"] for case in CASES} == set(adapter.KINDS)


def test_an_unknown_kind_is_a_key_error_naming_it() -> None:
    with pytest.raises(KeyError, match="md1_men"):
        adapter.evaluate("md1_men", {})


BEHIND = {
    "amdahl_efficiency": "analysis.fits.scaling.amdahl_efficiency",
    "bandwidth_ratio": "analysis.capacity.bandwidth_ratio",
    "batch_birth_death": "analysis.batching.batch_birth_death",
    "batch_mean_field": "analysis.batching.batch_mean_field",
    "closed_mva": "analysis.queueing.closed_mva",
    "cost_per_1m": "analysis.capacity.cost_per_1m",
    "counter_increase": "analysis.samples.counter_increase",
    "fit_amdahl": "analysis.fits.legacy.legacy_fit_amdahl",
    "fit_hinge": "analysis.fits.legacy.fit_hinge_efficiency",
    "fit_power_free": "analysis.fits.legacy.legacy_fit_power_free",
    "histogram_quantile": "analysis.samples.histogram_quantile",
    "little_law": "analysis.queueing.little_law",
    "md1_mean": "analysis.queueing.md1_mean",
    "md1_percentiles": "analysis.queueing.md1_percentiles",
    "md1_wait_cdf": "analysis.queueing.md1_wait_cdf",
    "mm1": "analysis.queueing.mm1",
    "mmc": "analysis.queueing.mmc",
    "service_time": "analysis.capacity.service_time",
    "workers_and_cost": "analysis.capacity.workers_and_cost",
}


class _WrongAnswer(Exception):
    """What the planted function raises instead of answering."""


@pytest.mark.parametrize("kind", adapter.KINDS)
def test_cases_fail_when_the_function_behind_them_is_replaced(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def planted(*_: object, **__: object) -> None:
        raise _WrongAnswer

    monkeypatch.setattr(BEHIND[kind], planted)
    for case in CASES:
        if case["kind"] == kind:
            with pytest.raises(_WrongAnswer):
                _misses(case)
