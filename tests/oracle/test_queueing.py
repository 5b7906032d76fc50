"""Queues against independent computations: event simulation, high precision, a step simulator."""

from __future__ import annotations

import heapq
import math

import mpmath
import numpy as np
import numpy.typing as npt
import pytest

from analysis import batching, queueing

Array = npt.NDArray[np.float64]


def _alternating_series(rho: float, x: float) -> float:
    """P(W <= x) of M/D/1, s = 1, by the textbook series (Erlang 1909) in 200 digits."""
    with mpmath.workdps(200):
        terms = []
        for j in range(math.floor(x) + 1):
            u = mpmath.mpf(rho) * (j - mpmath.mpf(x))
            terms.append(mpmath.exp(-u) * u**j / mpmath.factorial(j))
        return float((1 - mpmath.mpf(rho)) * mpmath.fsum(terms))


def _lindley_waits(rho: float, customers: int, seed: int) -> Array:
    """Waits of successive M/D/1 customers, s = 1: W' = max(0, W + 1 - gap) (Lindley 1952)."""
    gaps = np.random.default_rng(seed).exponential(1.0 / rho, customers)
    walk = np.cumsum(1.0 - gaps)
    return np.asarray(walk - np.minimum(np.minimum.accumulate(walk), 0.0))


@pytest.mark.parametrize("rho", [0.05, 0.3, 0.7, 0.9, 0.98, 0.999])
@pytest.mark.parametrize("x", [0.0, 0.4, 1.0, 2.5, 20.25, 63.9, 150.0])
def test_md1_wait_cdf_agrees_with_the_series_in_200_digits(rho: float, x: float) -> None:
    assert queueing.md1_wait_cdf(rho, 1.0, x) == pytest.approx(
        _alternating_series(rho, x), abs=1e-12
    )


@pytest.mark.parametrize("rho", [0.1, 0.5, 0.9, 0.98])
@pytest.mark.parametrize("p", [0.5, 0.95, 0.99, 0.99999])
def test_md1_quantile_inverts_the_cdf(rho: float, p: float) -> None:
    wait = queueing.md1_wait_quantile(rho, 2.5, p)
    if p <= 1.0 - rho:
        assert wait == 0.0
    else:
        assert _alternating_series(rho, wait / 2.5) == pytest.approx(p, abs=1e-10)


@pytest.mark.parametrize("rho", [0.3, 0.6, 0.8])
def test_md1_agrees_with_an_event_simulation(rho: float) -> None:
    waits = _lindley_waits(rho, 2_000_000, seed=7)
    assert queueing.md1_mean(rho, 1.0).wq == pytest.approx(waits.mean(), rel=0.02)
    for p in (0.9, 0.95, 0.99):
        exact = queueing.md1_wait_quantile(rho, 1.0, p)
        assert exact == pytest.approx(np.quantile(waits, p), rel=0.02)


def test_md1_mean_is_the_integral_of_its_tail() -> None:
    x = np.linspace(0.0, 60.0, 6001)
    tail = [1.0 - queueing.md1_wait_cdf(0.8, 1.0, float(v)) for v in x]
    assert np.trapezoid(tail, x) == pytest.approx(queueing.md1_mean(0.8, 1.0).wq, rel=1e-4)


def test_mva_of_one_queue_is_the_machine_repairman() -> None:
    n, d, z = 5, 0.4, 1.1
    weights = [math.perm(n, k) * (d / z) ** k for k in range(n + 1)]
    busy = 1.0 - weights[0] / sum(weights)
    assert queueing.closed_mva(n, d, z)["x"] == pytest.approx(busy / d, rel=1e-12)


def test_mmc_with_one_server_is_mm1() -> None:
    many, one = queueing.mmc(1, 0.7, 1.0), queueing.mm1(0.7, 1.0)
    assert many["p_wait"] == pytest.approx(0.7)
    assert many["wq"] == pytest.approx(one["wq"])


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda: queueing.md1_mean(1.0, 1.0), "rho"),
        (lambda: queueing.md1_mean(math.nan, 1.0), "rho"),
        (lambda: queueing.md1_wait_quantile(0.5, -1.0, 0.9), "s"),
        (lambda: queueing.md1_wait_quantile(0.5, 1.0, 1.0), "p"),
        (lambda: queueing.mmc(2, 2.0, 1.0), "offered"),
        (lambda: queueing.closed_mva(0, 1.0, 1.0), "n"),
        (lambda: queueing.little_law(-1.0, 1.0), "lam"),
    ],
)
def test_outside_its_domain_a_queue_names_the_argument(call, field) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=f"^{field}: .* allowed$"):
        call()


def _step_simulation(
    step: batching.StepTime, lam: float, lengths: list[int], seed: int
) -> tuple[Array, Array]:
    """Sojourns and waits of a server that makes one token per running request and step.

    Arrivals join at step boundaries, first come first served, up to `max_batch`. Steps between
    two changes of the batch are taken at once.
    """
    arrivals = np.cumsum(np.random.default_rng(seed).exponential(1.0 / lam, len(lengths)))
    arrived = arrivals.tolist()
    running: list[tuple[int, int]] = []
    sojourn, wait = np.empty(len(lengths)), np.empty(len(lengths))
    now, steps, following = 0.0, 0, 0
    while following < len(lengths) or running:
        while (
            following < len(lengths) and len(running) < step.max_batch and arrived[following] <= now
        ):
            heapq.heappush(running, (steps + lengths[following], following))
            wait[following] = now - arrived[following]
            following += 1
        if not running:
            now = arrived[following]
            continue
        pace = step.seconds(len(running))
        ahead = running[0][0] - steps
        if following < len(lengths) and len(running) < step.max_batch:
            ahead = min(ahead, max(1, math.ceil((arrived[following] - now) / pace)))
        steps, now = steps + ahead, now + ahead * pace
        while running and running[0][0] <= steps:
            done = heapq.heappop(running)[1]
            sojourn[done] = now - arrived[done]
    return sojourn[len(lengths) // 20 :], wait[len(lengths) // 20 :]


def _lengths(cs2: float, count: int) -> list[int]:
    rng = np.random.default_rng(3)
    if cs2 == 0.0:
        return [128] * count
    if cs2 == 1.0:
        return [int(n) for n in rng.geometric(1.0 / 128, count)]
    sigma = math.sqrt(math.log1p(cs2))
    drawn = rng.lognormal(math.log(128) - sigma**2 / 2, sigma, count)
    return [max(1, round(n)) for n in drawn]


@pytest.mark.parametrize("cs2", [0.0, 0.25, 1.0])
@pytest.mark.parametrize(("places", "utilisation"), [(8, 0.5), (8, 0.8), (32, 0.7), (64, 0.8)])
def test_batching_agrees_with_the_step_simulator(
    places: int, utilisation: float, cs2: float
) -> None:
    """Mean sojourn and token pace within 5 %, 95th percentile within 10 %."""
    step = batching.StepTime(a=0.01573, c=0.0012, tokens=128, max_batch=places)
    lam = utilisation * step.capacity
    lengths = _lengths(cs2, 60_000)
    sojourn, wait = _step_simulation(step, lam, lengths, seed=11)
    model = batching.batch_birth_death(lam, step, cs2)
    pace = float((sojourn - wait).mean()) / float(np.mean(lengths[len(lengths) // 20 :]))
    assert model.utilisation == pytest.approx(utilisation)
    assert model.t_corr == pytest.approx(sojourn.mean(), rel=0.05)
    assert model.tpot == pytest.approx(pace, rel=0.05)
    assert model.p95 == pytest.approx(np.quantile(sojourn, 0.95), rel=0.10)


def test_one_place_and_exponential_lengths_is_mm1() -> None:
    step = batching.StepTime(a=0.01, c=0.0, tokens=100, max_batch=1)
    model = batching.batch_birth_death(0.7, step, cs2=1.0)
    assert model.p_wait == pytest.approx(0.7)
    assert model.t_corr == pytest.approx(1.0 / (1.0 - 0.7))


def test_a_step_without_contention_is_a_server_per_place() -> None:
    step = batching.StepTime(a=0.01, c=0.0, tokens=100, max_batch=4)
    servers = batching.StepTime(a=0.01, c=0.0, tokens=100, max_batch=4).rate(1)
    model = batching.batch_birth_death(3.2, step, cs2=1.0)
    assert model.p_wait == pytest.approx(queueing.erlang_c(4, 3.2 / servers))


def test_a_thousand_places_do_not_overflow() -> None:
    step = batching.StepTime(a=0.006, c=0.0003, tokens=512, max_batch=2048)
    model = batching.batch_birth_death(0.6 * step.capacity, step)
    field = batching.batch_mean_field(0.6 * step.capacity, 512, step.a, step.c)
    assert model.l_run == pytest.approx(field["b"], rel=0.05)


def test_batching_at_its_capacity_has_no_steady_state() -> None:
    step = batching.StepTime(a=0.01, c=0.001, tokens=128, max_batch=8)
    with pytest.raises(ValueError, match=r"^lam: .* requests/s allowed$"):
        batching.batch_birth_death(step.capacity, step)
    with pytest.raises(ValueError, match=r"^max_batch: 0 given"):
        batching.StepTime(a=0.01, c=0.001, tokens=128, max_batch=0)
