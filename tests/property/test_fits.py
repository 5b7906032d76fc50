"""Fits return what was planted, do not depend on units, and give intervals that cover."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.fits.scaling import AMDAHL, HINGE, LAWS, POWER, Law, fit_law
from analysis.fits.scaling_fit import ScalingPoint, fit_scaling

LEVELS = np.arange(1.0, 9.0)
SHAPES = {
    "hinge": st.floats(1.0, 8.0),
    "amdahl": st.floats(0.0, 1.0),
    "power": st.floats(0.0, 1.5),
}


def _throughput(law: Law, scale: float, shape: float, agents: np.ndarray = LEVELS) -> np.ndarray:
    return np.asarray(scale * np.exp(law.log_gain(agents, np.array([[shape]]))[0]))


def _points(law: Law, shape: float, seed: int, levels: np.ndarray = LEVELS) -> list[ScalingPoint]:
    """Stages of twenty one-second blocks, 1.5 % standard error on each throughput."""
    rng = np.random.default_rng(seed)
    points = []
    for agents, x in zip(levels, _throughput(law, 10.0, shape, levels), strict=True):
        blocks = x * (1.0 + 0.015 * np.sqrt(20) * rng.standard_normal(20))
        points.append(ScalingPoint(int(agents), float(blocks.mean()), tuple(blocks), 1.0))
    return points


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.name)
@given(data=st.data(), scale=st.floats(1e-3, 1e4))
@settings(max_examples=60, deadline=None)
def test_exact_data_return_their_law(law: Law, data: st.DataObject, scale: float) -> None:
    shape = data.draw(SHAPES[law.name])
    fit = fit_law(law, LEVELS, _throughput(law, scale, shape))
    assert fit.shape == pytest.approx(shape, rel=1e-6, abs=1e-7)
    assert fit.throughput_n1 == pytest.approx(scale, rel=1e-6)
    assert fit.rss == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.name)
@given(seed=st.integers(0, 10**6), unit=st.floats(1e-3, 1e3))
@settings(max_examples=30, deadline=None)
def test_another_unit_of_throughput_changes_the_scale_alone(
    law: Law, seed: int, unit: float
) -> None:
    x = np.exp(np.random.default_rng(seed).normal(0.0, 0.5, len(LEVELS))).cumsum()
    one, other = fit_law(law, LEVELS, x), fit_law(law, LEVELS, unit * x)
    assert other.shape == pytest.approx(one.shape, rel=1e-5, abs=1e-6)
    assert other.throughput_n1 == pytest.approx(unit * one.throughput_n1, rel=1e-5)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.name)
@given(seed=st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_no_other_shape_fits_better(law: Law, seed: int) -> None:
    log_x = np.random.default_rng(seed).normal(0.0, 0.5, len(LEVELS)) + np.log(LEVELS) / 2
    fit = fit_law(law, LEVELS, np.exp(log_x))
    for shape in np.linspace(*law.bounds(LEVELS), 500):
        residual = log_x - law.log_gain(LEVELS, np.array([[shape]]))[0]
        assert fit.rss <= ((residual - residual.mean()) ** 2).sum() + 1e-9


@given(seed=st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_three_slots_in_front_of_a_queue_are_found(seed: int) -> None:
    fit = fit_scaling(_points(HINGE, 3.0, seed), resamples=200)
    assert fit.law == "hinge"
    assert fit.indistinguishable_from == ()
    assert fit.parameters["hinge_m"].value == pytest.approx(3.0, abs=0.15)
    assert fit.parameters["service_time"].value == pytest.approx(1.0 / 30.0, rel=0.05)
    assert (fit.domain, fit.n, fit.selected) == ((1, 8), 8, True)


@pytest.mark.parametrize(
    ("law", "shape", "name"),
    [
        (HINGE, 3.0, "hinge_m"),
        (HINGE, 1.5, "hinge_m"),
        (AMDAHL, 0.1, "amdahl_sigma"),
        (POWER, 0.4, "power_alpha"),
    ],
)
def test_intervals_cover_what_was_planted(law: Law, shape: float, name: str) -> None:
    """95 % intervals: over 100 seeds, at least 88 must cover (99.9 % of honest ones do)."""
    levels, covered = np.array([1.0, 2.0, 3.0, 4.0, 8.0, 16.0]), 0
    for seed in range(100):
        fit = fit_scaling(_points(law, shape, seed, levels), resamples=300)
        assert fit.law == law.name
        estimate = fit.parameters[name]
        covered += estimate.low <= shape <= estimate.high
    assert covered >= 88


def test_one_slot_is_a_hinge_that_no_law_can_be_told_from() -> None:
    levels = np.array([1.0, 2.0, 4.0, 8.0])
    for seed in range(20):
        fit = fit_scaling(_points(HINGE, 1.0, seed, levels), resamples=300)
        assert fit.law == "hinge"
        assert fit.indistinguishable_from == ("amdahl", "power")
        assert fit.parameters["hinge_m"].low == 1.0
        assert fit.parameters["hinge_m"].value == pytest.approx(1.0, abs=0.08)


def test_the_same_seed_gives_the_same_fit() -> None:
    points = _points(AMDAHL, 0.2, 5)
    assert fit_scaling(points, seed=4, resamples=200) == fit_scaling(points, seed=4, resamples=200)
    assert fit_scaling(points, seed=4, resamples=200) != fit_scaling(points, seed=5, resamples=200)
