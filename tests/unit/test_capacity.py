from __future__ import annotations

import subprocess
import sys

import pytest

from analysis import capacity


def test_prompt_and_output_tokens_cost_their_own_rates() -> None:
    assert capacity.request_seconds(2000, 100, prefill_tps=2000, decode_tps=50) == 3.0
    assert capacity.request_seconds(0, 100, prefill_tps=2000, decode_tps=50) == 2.0
    assert capacity.request_usd(3.0, usd_hour=1.2) == pytest.approx(0.001)


@pytest.mark.parametrize(
    ("rate", "utilisation", "replicas"),
    [(0.1, 1.0, 1), (6.0, 1.0, 3), (6.01, 1.0, 4), (6.0, 0.9, 4)],
)
def test_replicas_are_whole(rate: float, utilisation: float, replicas: int) -> None:
    assert capacity.replicas_needed(rate, 2.0, utilisation) == replicas


def test_rounding_does_not_buy_a_replica() -> None:
    assert capacity.replicas_needed(0.3, 0.1) == 3


def test_a_month_of_replicas_is_720_hours_of_each() -> None:
    assert capacity.month_usd(3, 0.5) == 1080.0


def test_four_bit_weights_need_a_quarter_of_the_bandwidth() -> None:
    full = capacity.required_bandwidth_gb_s(3.21, 16, 95.9)
    assert full == pytest.approx(615.678)
    assert capacity.required_bandwidth_gb_s(3.21, 4, 95.9) == pytest.approx(full / 4)


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
def test_a_rate_that_is_none_is_refused_by_name(bad: float) -> None:
    with pytest.raises(ValueError, match=r"^tps: .* a positive finite number allowed$"):
        capacity.service_time(128, bad)


def test_what_the_planner_computes_with_needs_the_standard_library_alone() -> None:
    code = (
        "import sys; from analysis import batching, capacity, queueing, samples;"
        "heavy = {'numpy', 'scipy', 'pydantic', 'torch', 'aiohttp', 'rich'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
