"""The step model: its law, its queue, its cache, its loads. Instants by hand."""

import pytest

from loadgen.fakes.prefixes import PrefixCache
from loadgen.fakes.steps import Generation, StepModel, Steps


def words(count, first=0):
    return [f"w{number}" for number in range(first, first + count)]


def play(steps, until=float("inf"), most=10_000):
    """Run steps until nothing is left to do, or the next one begins at `until` or later."""
    for _ in range(most):
        start = steps.next_start()
        if start is None or start >= until:
            return
        steps.begin(start)
        for one in steps.finish():
            one.told()
    raise AssertionError("it never ends")


def submitted(steps, *ones):
    for one in ones:
        steps.submit(one)
    return ones


def test_a_lone_request():
    model = StepModel(0.01, 0.002, prefill_seconds=0.05, prefill_token_seconds=0.001)
    steps = Steps(model)
    (one,) = submitted(steps, Generation(words(30), 4, 1.0))

    play(steps)

    assert one.start == 1.0
    assert one.first == pytest.approx(1.0 + 0.012 + 0.05 + 30 * 0.001)
    assert one.last == pytest.approx(one.first + 3 * 0.012)
    assert (one.made, one.over) == (4, True)


def test_a_prefill_holds_the_whole_batch_up_for_one_step():
    steps = Steps(StepModel(0.01, prefill_token_seconds=0.001, slots=2))
    early = Generation(words(10), 3, 0.0)
    late = Generation(words(100), 1, 0.025)
    submitted(steps, early, late)

    play(steps)

    assert early.first == pytest.approx(0.02)
    assert late.start == pytest.approx(0.03)  # the first step to begin after it came
    assert early.last == late.first == pytest.approx(0.03 + 0.01 + 0.1)


def test_nobody_overtakes():
    steps = Steps(StepModel(0.01, slots=2))
    ones = submitted(steps, *(Generation(words(1), 2 + i % 3, 0.001 * i) for i in range(20)))

    play(steps)

    starts = [one.start for one in ones]
    assert starts == sorted(starts)


@pytest.mark.parametrize("slots", [1, 3, 8])
def test_a_slot_is_never_idle_while_someone_waits(slots):
    steps = Steps(StepModel(0.01, 0.001, slots=slots))
    ones = submitted(steps, *(Generation(words(2), 1 + 5 * i % 7, 0.0) for i in range(40)))

    play(steps)

    for one in ones[slots:]:
        holding = sum(o.start <= one.start < o.last for o in ones)
        assert one.start in {o.last for o in ones}
        assert holding == slots


def test_the_queue_is_bounded_beside_the_slots():
    steps = Steps(StepModel(slots=2, queue_limit=1))
    submitted(steps, *(Generation(words(1), 1, 0.0) for _ in range(2)))
    assert not steps.full()
    submitted(steps, Generation(words(1), 1, 0.0))

    assert steps.full()


def test_a_reservation_waits_until_its_longest_length_fits():
    steps = Steps(StepModel(0.01, slots=8, kv_tokens=100))
    first = Generation(words(30), 10, 0.0, budget=20)
    second = Generation(words(40), 5, 0.0, budget=20)
    small = Generation(words(5), 1, 0.0)
    submitted(steps, first, second, small)

    play(steps)

    assert second.start == first.last
    assert small.start == second.start  # it would have fitted before, but does not overtake


def test_the_youngest_is_preempted_and_evaluated_anew():
    model = StepModel(0.01, prefill_token_seconds=0.001, slots=8, kv_tokens=40, preempt=True)
    steps = Steps(model)
    old = Generation(words(10), 20, 0.0)
    young = Generation(words(10, 50), 20, 0.0)
    submitted(steps, old, young)

    play(steps)

    # Both hold 10 + k tokens before step k + 1, which needs one more each: 2 (11 + k) <= 40.
    assert (old.preemptions, young.preemptions) == (0, 1)
    assert old.last == pytest.approx(0.02 + 20 * 0.01)
    # 10 tokens made, then 10 + 10 evaluated again in the step that makes the eleventh.
    assert young.last == pytest.approx(old.last + 10 * 0.01 + 0.02)
    assert young.made == 20


def test_a_cold_model_is_loaded_once_for_all_who_wait():
    steps = Steps(StepModel(0.01, slots=2, load_seconds=3.0, loaded=False))
    assert steps.resident(0.0) is None
    ones = submitted(steps, *(Generation(words(1), 2, 0.1 * i) for i in range(3)))

    play(steps)

    assert [one.loaded for one in ones] == [3.0] * 3
    assert [one.start for one in ones] == pytest.approx([3.0, 3.0, 3.02])
    assert steps.loads == 1


def test_an_idle_model_is_unloaded_and_loaded_again():
    steps = Steps(StepModel(0.01, load_seconds=1.0, idle_seconds=5.0))
    (first,) = submitted(steps, Generation(words(1), 1, 2.0, keep_alive=5.0))
    play(steps)
    (warm,) = submitted(steps, Generation(words(1), 1, 7.0, keep_alive=5.0))
    play(steps)
    assert (first.loaded, warm.loaded, steps.loads) == (2.0, 7.0, 0)
    assert steps.resident(12.0) == ""
    assert steps.resident(12.02) is None

    (cold,) = submitted(steps, Generation(words(1), 1, 20.0, keep_alive=5.0))
    play(steps)

    assert (cold.loaded, cold.first) == pytest.approx((21.0, 21.01))


def test_another_runner_loads_after_the_batch_has_drained():
    steps = Steps(StepModel(0.01, load_seconds=1.0), "a")
    one = Generation(words(1), 5, 0.0, runner="a")
    other = Generation(words(1), 1, 0.0, runner="b")
    back = Generation(words(1), 1, 0.0, runner="a")
    submitted(steps, one, other, back)

    play(steps)

    assert (one.loaded, one.last) == pytest.approx((0.0, 0.05))
    assert (other.loaded, back.loaded) == pytest.approx((1.05, 2.06))


def test_loading_only():
    steps = Steps(StepModel(0.01, load_seconds=1.0, loaded=False), "a")
    (cold,) = submitted(steps, Generation([], 0, 0.0, runner="a"))
    play(steps)
    (warm,) = submitted(steps, Generation([], 0, 5.0, runner="a"))

    assert (cold.last, cold.over) == (1.0, True)
    assert (warm.last, warm.over) == (5.0, True)
    assert steps.steps == 0


def test_unloading_waits_for_the_batch():
    steps = Steps(StepModel(0.01))
    submitted(steps, Generation(words(1), 2, 0.0))
    steps.unload()
    assert steps.resident(0.01) == ""

    play(steps)

    assert steps.resident(0.02) is None


def test_a_dropped_request_frees_its_place_from_the_next_step_on():
    steps = Steps(StepModel(0.01, slots=1))
    one, waiting, third = submitted(steps, *(Generation(words(1), 9, 0.0) for _ in range(3)))
    steps.begin(0.0)
    steps.drop(one, 0.004)
    steps.drop(waiting, 0.005)
    assert steps.finish() == []

    play(steps)

    assert (one.made, waiting.start) == (0, None)
    assert third.start == pytest.approx(0.01)


def test_a_paused_engine_answers_nothing_until_it_is_woken():
    steps = Steps(StepModel(0.01))
    steps.pause()
    (one,) = submitted(steps, Generation(words(1), 1, 0.0))
    assert steps.next_start() is None

    steps.resume(8.0)
    play(steps)

    assert one.first == pytest.approx(8.01)


def test_cached_prompt_tokens_cost_nothing():
    steps = Steps(StepModel(0.01, prefill_token_seconds=0.001, prefix_block=16))
    first = Generation(words(64), 1, 0.0)
    again = Generation(words(64), 1, 10.0)
    submitted(steps, first, again)

    play(steps)

    assert (first.cached, again.cached) == (0, 48)  # the last token is evaluated anew
    assert again.first - again.start == pytest.approx(0.01 + 16 * 0.001)


def test_steps_jitter_alike_for_the_same_seed():
    model = StepModel(0.01, jitter=0.2, seed=4)

    lengths = [model.seconds(1, [], step) for step in range(1000)]

    assert lengths == [model.seconds(1, [], step) for step in range(1000)]
    assert 0.008 <= min(lengths) < 0.0081
    assert 0.0119 < max(lengths) <= 0.012
    assert sum(lengths) / 1000 == pytest.approx(0.01, rel=0.02)


def test_the_prefix_cache_holds_whole_blocks():
    cache = PrefixCache(4)
    cache.add(words(10))

    assert cache.covers(words(10)) == 8
    assert cache.covers(words(8)) == 4
    assert cache.covers([*words(4), *words(6, 90)]) == 4
    assert cache.covers(words(10, 1)) == 0
    cache.clear()
    assert cache.covers(words(10)) == 0


def test_the_prefix_cache_forgets_what_was_used_least_recently():
    cache = PrefixCache(1, capacity=4)
    cache.add(words(2))
    cache.add(words(2, 50))
    cache.covers([*words(2), "more"])
    cache.add(["new"])

    assert cache.covers([*words(2), "more"]) == 2
    assert cache.covers([*words(2, 50), "more"]) == 0


def test_without_a_prefix_cache_nothing_is_cached():
    cache = PrefixCache(None)
    cache.add(words(10))

    assert cache.covers(words(10)) == 0
