"""A law is fitted in one room and priced in another; both must know every law."""

import math

import numpy as np
import pytest

from analysis.fits.scaling import LAWS
from analysis.fitted import UNITS
from analysis.planner import fitted, own


def test_the_planner_reads_every_law_that_is_fitted_and_no_other():
    names = {law.name for law in LAWS}
    assert set(fitted.LAWS) == names
    assert set(own.THROUGHPUT) == names
    for law in LAWS:
        assert law.shape in fitted.LAWS[law.name]


def test_every_coefficient_the_planner_wants_has_a_unit():
    wanted = {name for coefficients in fitted.LAWS.values() for name in coefficients}
    assert wanted <= set(UNITS)


def test_fit_and_planner_compute_the_same_throughput():
    for law, shape in zip(LAWS, (2.5, 0.2, 0.3), strict=True):
        for n in (1.0, 2.0, 4.0, 7.0):
            x1 = 3.0
            gain = float(law.log_gain(np.array([n]), np.array([[shape]]))[0, 0])
            coefficients = {law.shape: shape, "throughput_n1": x1, "service_time": 1 / (x1 * shape)}
            planned = own.THROUGHPUT[law.name](n, coefficients)
            assert planned == pytest.approx(x1 * math.exp(gain), rel=1e-12)
