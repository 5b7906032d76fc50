from collections.abc import Sequence
from itertools import pairwise

import pytest

from analysis.planner.candidates import Asked, Candidate, catalog_candidates
from analysis.planner.catalog import load_catalog
from analysis.planner.latency import Batch, Server, Slot
from analysis.planner.relax import Advice, Card, advise
from analysis.planner.report import Answer, nothing_fits
from analysis.planner.search import judge, replicas_for, search
from analysis.planner.values import Value, derived, worst

ASKED = Asked(rate=1.0, hardware="RTX 4080 12GB")


def candidate(server: Server | None = None, hourly: float | None = 0.05, **fields: object):
    pace = Value(100.0, "token/s", "measured", ("test",))
    defaults = {"model": "m", "backend": "e", "quantization": "q", "hardware": "h"}
    return Candidate(
        **{**defaults, **fields},
        server=server or Slot(0.5),
        speed=pace,
        pace=pace,
        peak_tokens=pace,
        output_tokens=128.0,
        hourly=None if hourly is None else Value(hourly, "USD/h", "published"),
        quality=None,
    )


def advised(candidates: list[Candidate], asked: Asked, cards: Sequence[Card] = ()) -> Advice:
    fitting, missing = search(candidates, asked)
    assert fitting == []
    return advise(missing, asked, lambda _: candidates, cards)


def with_quality(score: float, **fields: object) -> Candidate:
    return candidate(**fields)._replace(quality=Value(score, "ratio", "published"))


@pytest.mark.parametrize(
    ("rate", "replicas"), [(0.1, 1), (1.8, 1), (1.81, 2), (3.6, 2), (18.0, 10), (18.1, 11)]
)
def test_no_replica_is_busier_than_nine_tenths(rate: float, replicas: int) -> None:
    assert replicas_for(Slot(0.5), rate, None)[0] == replicas


@pytest.mark.parametrize("server", [Slot(0.5), Batch(0.01, 0.001, 100, 16)])
@pytest.mark.parametrize("headroom", [1.05, 1.3, 2.0])
def test_replicas_are_the_fewest_that_meet_the_slo(server: Server, headroom: float) -> None:
    slo = server.unloaded * headroom
    replicas, load = replicas_for(server, 20.0, slo)
    assert load.p95 <= slo
    assert server.under(20.0 / (replicas - 1)).p95 > slo


def test_an_slo_below_the_bare_service_time_is_out_of_reach() -> None:
    replicas, load = replicas_for(Slot(0.5), 1.0, 0.4)
    assert (replicas, load.p95 > 0.4) == (1, True)


def test_replicas_are_what_is_paid() -> None:
    plan = judge(candidate(Slot(0.5)), ASKED._replace(rate=7.0))
    assert plan.replicas == 4
    assert plan.monthly == pytest.approx(4 * 0.05 * 720)
    assert plan.load is not None
    assert plan.load.utilisation == pytest.approx(7.0 * 0.5 / 4)


def test_rank_is_cost_then_assumptions_then_quality_then_p95() -> None:
    cheap = with_quality(0.1, model="cheap", hourly=0.01)
    good = with_quality(0.9, model="good")
    fast = with_quality(0.5, model="fast", server=Slot(0.2))
    slow = with_quality(0.5, model="slow", server=Slot(0.3))
    guessed = with_quality(0.99, model="guessed")._replace(assumptions=("a prior",))
    unpriced = with_quality(1.0, model="unpriced", hourly=None)
    fitting, missing = search([unpriced, guessed, slow, fast, good, cheap], ASKED)
    names = [plan.candidate.model for plan in fitting]
    assert names == ["cheap", "good", "fast", "slow", "guessed", "unpriced"]
    assert missing == []


@pytest.mark.parametrize(
    ("asked", "gate"),
    [
        (ASKED._replace(quality=0.6), "quality"),
        (ASKED._replace(slo=0.4), "latency"),
        (ASKED._replace(budget=35.0), "budget"),
    ],
)
def test_each_gate_drops(asked: Asked, gate: str) -> None:
    plan = judge(with_quality(0.5), asked)
    assert [miss.gate for miss in plan.misses] == [gate]


def test_quality_unknown_is_dropped_only_by_a_target() -> None:
    assert judge(candidate(), ASKED).misses == ()
    miss = judge(candidate(), ASKED._replace(quality=0.1)).misses[0]
    assert "unknown" in miss.text


def test_price_unknown_is_never_dropped_by_the_budget() -> None:
    plan = judge(candidate(hourly=None), ASKED._replace(budget=1.0))
    assert (plan.monthly, plan.misses) == (None, ())


def test_memory_gate_looks_at_the_upper_bound() -> None:
    need = Value(7.0e9, "byte", "fitted", high=9.0e9)
    big = candidate()._replace(memory=need, memory_limit=Value(8.0e9, "byte", "published"))
    assert [miss.gate for miss in judge(big, ASKED).misses] == ["vram"]
    roomy = big._replace(memory_limit=Value(9.0e9, "byte", "published"))
    assert judge(roomy, ASKED).misses == ()


def test_what_would_do_does() -> None:
    server = Slot(0.5)
    asked = ASKED._replace(rate=2.0, slo=0.7, budget=80.0)
    slo, budget = advised([candidate(server)], asked).hints
    assert budget.startswith("--budget 468 USD/month would do")
    assert slo.startswith("--latency-slo 1526 ms would do")
    assert search([candidate(server)], asked._replace(budget=468.0))[0]
    assert search([candidate(server)], asked._replace(budget=467.0))[0] == []
    assert search([candidate(server)], asked._replace(slo=1.526))[0]


def test_two_gates_missed_are_named_together() -> None:
    asked = ASKED._replace(slo=0.4, budget=1.0)
    advice = advised([candidate()], asked)
    said = nothing_fits(Answer([], [], [], advice))
    assert "; --latency-slo 1526 ms and --budget 36 USD/month would do (m q on e, h)" in said


def test_a_change_that_alone_lets_nothing_through_is_not_named() -> None:
    """Memory hides the other gates: on a larger card the budget is missed all the same."""
    need = Value(19e9, "byte", "fitted", high=20e9)
    limit = Value(12e9, "byte", "published")
    large = candidate()._replace(server=None, memory=need, memory_limit=limit, model="large")
    asked = ASKED._replace(budget=1.0)
    advice = advised([large, candidate()], asked, [Card("roomy", 0.9)])
    assert advice.hints == ("--budget 36 USD/month would do (m q on e, h)",)
    assert advice.nearest is not None
    assert advice.nearest.candidate.model == "m"


def test_the_cheapest_card_that_does_is_named() -> None:
    need = Value(19e9, "byte", "fitted", high=20e9)

    def offers(asked: Asked) -> list[Candidate]:
        size = {"roomy": 24e9, "large": 80e9}.get(asked.hardware, 12e9)
        fits = size > 20e9
        large = candidate(hardware=asked.hardware)._replace(
            memory=need, memory_limit=Value(size, "byte", "published")
        )
        return [large if fits else large._replace(server=None)]

    cards = [Card("large", 1.6), Card("roomy", 0.04), Card("small", 0.02)]
    _, missing = search(offers(ASKED), ASKED)
    advice = advise(missing, ASKED, offers, cards)
    assert advice.hints == ('--hardware "roomy" would do (m q on e, roomy)',)
    tight = ASKED._replace(budget=1.0)
    _, missing = search(offers(tight), tight)
    both = '--hardware "roomy" and --budget 36 USD/month would do (m q on e, roomy)'
    assert advise(missing, tight, offers, cards).hints == (both,)


def test_a_quality_that_would_do_is_not_rounded_up() -> None:
    asked = ASKED._replace(quality=0.9)
    [hint] = advised([with_quality(0.5388)], asked).hints
    assert hint.startswith("--quality-target 0.538 would do")


def test_disputed_values_are_named_where_only_they_would_do() -> None:
    def offers(asked: Asked) -> list[Candidate]:
        return [candidate()] if asked.include_disputed else []

    advice = advise([], ASKED, offers, [])
    assert advice == Advice(None, ("--include-disputed would do (m q on e, h)",))


def test_reference_answer() -> None:
    catalog = load_catalog()
    asked = Asked(rate=2.0, hardware=catalog.reference, size="3b", budget=50.0)
    best = search(catalog_candidates(catalog, asked), asked)[0][0]
    assert best.candidate.name == "llama3.2-3b FP16 on vllm, RTX 4080 12GB"
    assert (best.replicas, best.candidate.batch_limit) == (1, 11)
    assert best.monthly == pytest.approx(25.20)
    assert best.load is not None
    assert best.load.utilisation == pytest.approx(2.0 * 128 * (0.01573 + 11 * 0.0012) / 11)


def test_another_gpu_is_faster_by_its_bandwidth_and_says_so() -> None:
    catalog = load_catalog()
    here = Asked(rate=0.1, hardware=catalog.reference, size="3b")
    there = here._replace(hardware="RTX 4090 24GB")
    names = ("llama3.2-3b", "vllm", "FP16")
    slow, fast = (
        next(e for e in catalog_candidates(catalog, asked) if e[:3] == names)
        for asked in (here, there)
    )
    assert fast.pace.value / slow.pace.value == pytest.approx(1008 / 432)
    assert (slow.pace.basis, fast.pace.basis) == ("fitted", "extrapolated")
    assert fast.batch_limit > slow.batch_limit
    assert any("bandwidth" in each for each in fast.assumptions)


def test_a_cpu_is_known_only_where_it_was_measured() -> None:
    catalog = load_catalog()
    asked = Asked(rate=0.01, hardware=catalog.reference, backends=("transformers-cpu",))
    assert len(catalog_candidates(catalog, asked)) == 3
    assert catalog_candidates(catalog, asked._replace(hardware="L4 24GB")) == []


def test_eight_billion_in_fp16_does_not_fit_eight_gib() -> None:
    catalog = load_catalog()
    asked = Asked(rate=0.1, hardware="RTX 4060 8GB", size="8b")
    plans = [judge(each, asked) for each in catalog_candidates(catalog, asked)]
    dropped = {p.candidate.quantization for p in plans if p.misses and p.misses[0].gate == "vram"}
    assert {"FP16", "Q8_0"} <= dropped
    assert "Q2_K" not in dropped


def test_a_longer_context_leaves_room_for_fewer() -> None:
    catalog = load_catalog()
    limits = [
        next(
            e.batch_limit
            for e in catalog_candidates(
                catalog, ASKED._replace(size="3b", prompt_tokens=prompt, backends=("vllm",))
            )
            if e.model == "llama3.2-3b"
        )
        for prompt in (128, 1920, 8000)
    ]
    assert all(more > fewer for more, fewer in pairwise(limits))


def test_class_is_the_weakest_input() -> None:
    assert worst(("measured", "prior", "fitted")) == "prior"
    inputs = Value(1.0, "s", "published", ("a",)), Value(2.0, "s", "fitted", ("b", "a"))
    total = derived(3.0, "s", *inputs)
    assert (total.basis, total.source) == ("fitted", ("a", "b"))
    assert derived(3.0, "s", *inputs, at_best="extrapolated").basis == "extrapolated"
