"""Asking for more never costs less, and allowing more never costs more."""

from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.planner.candidates import Asked, catalog_candidates
from analysis.planner.catalog import load_catalog
from analysis.planner.latency import Batch, Slot
from analysis.planner.search import replicas_for, search

CATALOG = load_catalog()
RATES = st.floats(min_value=0.01, max_value=200.0)
SERVERS = st.one_of(
    st.builds(Slot, st.floats(0.01, 5.0), st.floats(0.0, 1.0)),
    st.builds(
        Batch,
        st.floats(0.001, 0.05),
        st.floats(0.0001, 0.005),
        st.integers(16, 512).map(float),
        st.integers(1, 32),
    ),
)


def cheapest(rate: float, slo: float | None) -> float:
    """The lowest cost, infinite when nothing fits."""
    asked = Asked(rate=rate, hardware=CATALOG.reference, size="1b", slo=slo)
    fitting, _ = search(catalog_candidates(CATALOG, asked), asked)
    return min((plan.monthly for plan in fitting if plan.monthly is not None), default=1e300)


@settings(max_examples=15, deadline=None)
@given(rate=RATES, factor=st.floats(1.0, 10.0), slo=st.one_of(st.none(), st.floats(0.3, 10.0)))
def test_a_higher_rate_never_costs_less(rate: float, factor: float, slo: float | None) -> None:
    assert cheapest(rate * factor, slo) >= cheapest(rate, slo)


@settings(max_examples=15, deadline=None)
@given(rate=RATES, slo=st.floats(0.3, 10.0), factor=st.floats(1.0, 10.0))
def test_a_looser_slo_never_costs_more(rate: float, slo: float, factor: float) -> None:
    assert cheapest(rate, slo * factor) <= cheapest(rate, slo)


@settings(max_examples=60, deadline=None)
@given(server=SERVERS, rate=RATES, headroom=st.floats(1.05, 8.0))
def test_the_plan_keeps_its_promise(server: Slot | Batch, rate: float, headroom: float) -> None:
    slo = server.unloaded * headroom
    replicas, load = replicas_for(server, rate, slo)
    assert load.utilisation <= 0.9 * (1 + 1e-9)
    assert load == server.under(rate / replicas)
    assert load.p95 <= slo


@settings(max_examples=60, deadline=None)
@given(server=SERVERS, share=st.floats(0.01, 0.85))
def test_latency_never_falls_with_the_load(server: Slot | Batch, share: float) -> None:
    light, heavy = (server.under(server.capacity * s).p95 for s in (share, share * 1.05))
    # The batch quantile is a mixture over 15 loads, smooth to about 1e-4 of itself.
    assert heavy >= light * (1 - 1e-3)
