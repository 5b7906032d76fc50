import pytest

from analysis.planner.candidates import line_at
from analysis.planner.latency import Batch, Slot, quantized_step

# Exact p95 of the M/D/1 sojourn at S = 1.
EXACT = [(0.1, 1.541), (0.5, 3.051), (0.7, 5.103), (0.9, 15.13)]


@pytest.mark.parametrize(("rho", "p95"), EXACT)
def test_slot_is_exact_md1(rho: float, p95: float) -> None:
    load = Slot(service=2.0).under(rho / 2.0)
    assert load.p95 == pytest.approx(2.0 * p95, rel=1e-3)
    assert load.utilisation == pytest.approx(rho)


def test_time_outside_the_slot_adds_to_latency_and_not_to_load() -> None:
    bare, with_outside = Slot(0.5), Slot(0.5, outside=0.2)
    assert with_outside.under(1.0).p95 == pytest.approx(bare.under(1.0).p95 + 0.2)
    assert with_outside.capacity == bare.capacity == 2.0
    assert with_outside.unloaded == 0.7


def test_batch_carries_more_than_one_sequence_alone() -> None:
    batch = Batch(0.01573, 0.0012, tokens=128, limit=11)
    assert batch.capacity == pytest.approx(11 / (128 * (0.01573 + 11 * 0.0012)))
    assert batch.unloaded == pytest.approx(128 * 0.01693)
    load = batch.under(2.0)
    assert load.utilisation == pytest.approx(2.0 / batch.capacity)
    assert 128 * 0.01693 < load.p95 < 128 * (0.01573 + 11 * 0.0012) * 2
    assert 1.0 < load.in_flight < 11


def test_batch_in_flight_of_the_reference_case() -> None:
    batch = Batch(0.01573, 0.0012, tokens=128, limit=32)
    assert batch.under(2.7711065952336966).in_flight == pytest.approx(10.4552400643, rel=1e-6)


def test_quantization_speeds_up_one_sequence_by_its_factor_and_leaves_the_share_alone() -> None:
    fixed = quantized_step(15.73, 1.2, 1.9)
    assert (15.73 + 1.2) / (fixed + 1.2) == pytest.approx(1.9)
    assert quantized_step(15.73, 1.2, 1.0) == pytest.approx(15.73)
    assert quantized_step(0.5, 1.0, 3.0) == 0.0


def test_line_through_points() -> None:
    assert line_at([1.0, 2.0, 3.0], [3.0, 5.0, 7.0], 10.0) == pytest.approx(21.0)
