from __future__ import annotations

import numpy as np
import pytest

from analysis.fits.bootstrap import stage_interval, uncorrelated_blocks
from analysis.fits.scaling import AMDAHL, HINGE, POWER
from analysis.fits.scaling_fit import ScalingPoint, fit_scaling
from analysis.fits.selection import leave_one_level_out, select
from contract.errors import FitError


def _point(agents: int, x: float, wobble: float = 0.02, repeat: int = 0) -> ScalingPoint:
    blocks = tuple(x * (1.0 + wobble * sign) for sign in (1, -1, -1, 1, 1, -1, -1, 1))
    return ScalingPoint(agents, x, blocks, 1.0, repeat)


def _errors(hinge: list[float], amdahl: list[float], power: list[float]) -> dict[str, np.ndarray]:
    return {"hinge": np.array(hinge), "amdahl": np.array(amdahl), "power": np.array(power)}


def test_the_smallest_error_wins_when_nothing_is_near() -> None:
    choice = select(_errors([0.3, 0.31], [0.01, 0.011], [0.2, 0.21]))
    assert choice.law is AMDAHL
    assert choice.tied == ()
    assert choice.loo_error == pytest.approx({"hinge": 0.305, "amdahl": 0.0105, "power": 0.205})


def test_a_tie_within_one_standard_error_goes_to_the_first_law() -> None:
    # power: mean 0.02, standard error 0.01, so up to 0.03 is tied
    choice = select(_errors([0.029, 0.029], [0.031, 0.031], [0.01, 0.03]))
    assert choice.law is HINGE
    assert choice.tied == (POWER,)


def test_alike_errors_do_not_make_a_law_surer_than_its_measurements() -> None:
    errors = _errors([0.02, 0.02], [0.012, 0.012], [0.5, 0.5])
    assert select(errors).law is AMDAHL
    assert select(errors, measured=0.015).law is HINGE


def test_the_lowest_level_is_never_left_out() -> None:
    errors = leave_one_level_out(HINGE, [1, 1, 2, 4, 8], [10.0, 10.0, 20.0, 30.0, 30.0])
    assert errors == pytest.approx([0.0, 0.0, 0.0], abs=1e-9)


def test_the_last_level_is_predicted_not_interpolated() -> None:
    errors = leave_one_level_out(POWER, [1, 2, 4, 8], [10.0, 20.0, 40.0, 40.0])
    assert errors[-1] == pytest.approx(1.0)


def test_two_levels_are_refused_and_the_points_printed() -> None:
    with pytest.raises(FitError, match=r"2 level\(s\) found, at least 3 .*N=1 X=10/s, N=2 X=19"):
        fit_scaling([_point(1, 10.0), _point(2, 19.0)])


def test_no_points_are_refused() -> None:
    with pytest.raises(FitError, match=r"0 level\(s\) found.*points: none"):
        fit_scaling([])


def test_a_stage_without_throughput_is_refused_by_name() -> None:
    points = [_point(1, 10.0), _point(2, 19.0), _point(4, 0.0)]
    with pytest.raises(FitError, match=r"^agents=4: 0\.0 requests/s found"):
        fit_scaling(points)


def test_a_stage_of_one_block_has_no_scatter() -> None:
    points = [_point(1, 10.0), _point(2, 19.0), ScalingPoint(4, 30.0, (30.0,), 1.0)]
    with pytest.raises(FitError, match=r"^agents=4: 1 block"):
        fit_scaling(points)


def test_three_levels_assume_the_hinge_and_say_so() -> None:
    fit = fit_scaling([_point(1, 10.0), _point(2, 15.0), _point(4, 15.0)], resamples=200)
    assert (fit.law, fit.selected, fit.loo_error) == ("hinge", False, {})
    assert fit.indistinguishable_from == ("amdahl", "power")
    assert fit.parameters["hinge_m"].value == pytest.approx(1.5)


def test_a_knee_beyond_the_levels_is_one_sided() -> None:
    points = [_point(n, 10.0 * n, wobble=0.001) for n in (1, 2, 4)]
    knee = fit_scaling(points, resamples=200).parameters["hinge_m"]
    assert (knee.value, knee.high, knee.one_sided) == (pytest.approx(4.0), 4.0, True)
    assert 3.9 < knee.low < 4.0


def test_repetitions_give_the_interval_where_there_are_three() -> None:
    spread = (0.97, 1.0, 1.03)
    repeated = [
        _point(n, 10.0 * min(n, 2) * factor, wobble=1e-6, repeat=i)
        for n in (1, 2, 4, 8)
        for i, factor in enumerate(spread)
    ]
    single = [_point(n, 10.0 * min(n, 2), wobble=1e-6) for n in (1, 2, 4, 8)]
    wide = fit_scaling(repeated, resamples=400).parameters["throughput_n1"]
    narrow = fit_scaling(single, resamples=400).parameters["throughput_n1"]
    assert wide.high - wide.low > 0.3
    assert narrow.high - narrow.low < 0.3  # what counting whole requests leaves


def test_a_stage_interval_is_the_t_interval_of_its_batch_means() -> None:
    point = ScalingPoint(1, 10.0, (9.0, 11.0, 10.0, 10.0), 1.0)
    estimate = stage_interval(point)
    # s = sqrt(2/3), se = s / 2, t(3) = 3.18245
    assert estimate.high - 10.0 == pytest.approx(3.18245 * 0.408248, rel=1e-4)
    assert 10.0 - estimate.low == pytest.approx(estimate.high - 10.0)


def test_blocks_that_follow_each_other_are_merged_and_keep_their_mean() -> None:
    slow = [5.0] * 20 + [9.0] * 20
    assert list(uncorrelated_blocks(slow)) == [5.0] * 5 + [9.0] * 5
    assert list(uncorrelated_blocks(slow[:19])) == slow[:19]


def test_completions_like_clockwork_still_leave_the_error_of_counting_them() -> None:
    point = ScalingPoint(1, 15.0, (15.0,) * 10, 1.0)
    estimate = stage_interval(point)
    # Each edge of the window cuts one of the 150 requests at a uniform place.
    error = 15.0 / (150 * 6**0.5)
    assert estimate.high - estimate.value == pytest.approx(2.262 * error, rel=1e-3)
    assert estimate.value - estimate.low == pytest.approx(2.262 * error, rel=1e-3)
