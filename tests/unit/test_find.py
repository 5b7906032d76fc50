"""The search for the largest load: its decisions one by one, and what it says of them."""

import random
from dataclasses import replace
from itertools import pairwise

import pytest

from contract.errors import ConfigError, TargetError
from contract.records import RequestRecord, ServerFacts
from loadgen.cli import build_parser
from loadgen.commands.find import grid_of, resolve
from loadgen.config import RunConfig
from loadgen.figures.goodput import Objectives, parse_goodput, wilson
from loadgen.figures.tally import tallies
from loadgen.search.course import Search, relaxation
from loadgen.search.find import Grid, Observation, Rules, design_effect, judge, standing
from loadgen.search.report import Asked, found, line, nothing
from loadgen.stopwatch import Facts
from tests.oracle.queues import Queue, searched

GOOD, BAD, UNSURE = Observation(1000, 1000), Observation(0, 1000), Observation(95, 100)
RULES = Rules(0.95)


def places(grid, meets, rules=RULES):
    """The places a search drives when a level meets the objective if `meets(place)`."""
    history, driven = [], []
    while (place := standing(history, grid, rules).place) is not None:
        driven.append(place)
        history.append(GOOD if meets(place) else BAD)
    return driven, standing(history, grid, rules)


def test_it_doubles_then_bisects_down_to_one_step():
    driven, over = places(Grid(1, 1000), lambda place: place <= 11)
    assert driven == [1, 2, 4, 8, 16, 12, 10, 11]
    assert (over.best.place, over.missed.place) == (11, 12)


def test_it_halves_where_the_first_level_is_too_much():
    driven, over = places(Grid(40, 1000), lambda place: place <= 3)
    assert driven == [40, 20, 10, 5, 2, 3, 4]
    assert (over.best.place, over.missed.place) == (3, 4)


@pytest.mark.parametrize("start", [1, 7, 64, 100])
def test_it_finds_any_boundary_from_anywhere(start):
    for most in range(101):
        driven, over = places(Grid(start, 100), most.__ge__)
        assert (over.best.place if over.best else 0) == most
        assert len(set(driven)) == len(driven) <= 15


def test_the_most_that_may_be_asked_is_asked_and_ends_it():
    driven, over = places(Grid(1, 11), lambda _place: True)
    assert driven == [1, 2, 4, 8, 11]
    assert (over.best.place, over.missed) == (11, None)


def test_a_level_is_decided_when_its_interval_leaves_the_target():
    # Wilson at 1 - 0.05 / 3: 109 of 109 reach down to 0.9500, 108 of 108 to 0.9496.
    assert judge(1, [Observation(109, 109)], RULES).meets is True
    assert judge(1, [Observation(108, 108)], RULES).meets is None
    assert RULES.fewest == 109
    assert judge(1, [Observation(880, 1000)], RULES).meets is False
    assert judge(1, [Observation(950, 1000)], RULES).meets is None


def test_repeats_are_pooled_and_the_last_is_decided_by_the_point_estimate():
    first = judge(1, [Observation(60, 60)], RULES)
    both = judge(1, [Observation(60, 60)] * 2, RULES)
    assert (first.meets, both.meets, both.ground) == (None, True, "interval")
    held = judge(1, [UNSURE] * 3, RULES)
    assert (held.meets, held.ground, held.stages) == (True, "point estimate", 3)
    under = judge(1, [UNSURE, UNSURE, Observation(94, 100)], RULES)
    assert (under.meets, under.ground) == (False, "point estimate")


def test_requests_that_meet_and_miss_together_count_for_fewer():
    alike = judge(1, [Observation(970, 1000, effect=20.0)], RULES)
    assert alike.meets is None
    assert alike.share == 0.97
    assert (alike.low, alike.high) == pytest.approx(wilson(48.5, 50, RULES.confidence))
    assert judge(1, [Observation(970, 1000)], RULES).meets is True


def test_the_design_effect_is_that_of_the_batch_means():
    draw = random.Random(1).random
    single = [int(draw() < 0.8) for _ in range(4000)]
    runs = [met for met in single[:400] for _ in range(10)]
    assert design_effect(single) == pytest.approx(1, abs=0.7)
    # Ten in a row alike: ten times the variance; the estimate has 19 degrees of freedom.
    assert 5 < design_effect(runs) < 16
    assert design_effect([1] * 500) == design_effect([0] * 500) == design_effect([]) == 1


def test_a_miss_while_the_model_was_loaded_is_repeated_and_not_counted():
    cold = Observation(50, 100, loads=4)
    grid = Grid(1, 8)
    once = standing([cold], grid, RULES)
    assert (once.place, once.judged[0].meets, once.judged[0].cold) == (1, None, 1)
    assert standing([cold, GOOD], grid, RULES).place == 2
    # It passed all the same, or it loads every time: then it counts.
    assert standing([replace(GOOD, loads=4)], grid, RULES).place == 2
    thrashing = standing([cold] * 4, grid, RULES)
    assert (thrashing.place, thrashing.judged[0].meets) == (None, False)


def test_saturation_fails_a_level_but_one_false_alarm_does_not():
    alarm = replace(GOOD, saturated=True)
    assert judge(1, [alarm], RULES).meets is None
    assert judge(1, [alarm, GOOD], RULES).meets is None
    assert judge(1, [alarm, GOOD, GOOD], RULES).meets is True
    twice = judge(1, [alarm, alarm], RULES)
    assert (twice.meets, twice.ground) == (False, "saturation")
    assert judge(1, [alarm], Rules(0.95, repeats=1)).meets is False


def test_a_window_in_which_nothing_ended_is_repeated_and_then_missed():
    silent = [Observation(0, 0)] * 3
    assert judge(1, silent[:2], RULES).meets is None
    assert judge(1, silent, RULES).meets is False


def search_of(**more):
    config = RunConfig(isl="8", osl="1", **more)
    asked = Asked(Objectives(e2el=0.2), 0.95, "agents")
    return Search(config, asked, Grid(4, 8), RULES)


def test_each_stage_has_its_own_number_repeat_and_chances():
    search = search_of(request_rate="4")
    stages = []
    for plan in search.plans("queue", "m"):
        stages.append(plan)
        search.history.append(UNSURE)
        if len(stages) == 3:
            break
    assert [plan.number for plan in stages] == [1, 2, 3]
    assert [(plan.key.request_rate, plan.key.repeat) for plan in stages] == [(4, 0), (4, 1), (4, 2)]
    first = [next(iter(plan.load.dues)) for plan in stages]
    assert all(one != other for one, other in pairwise(first))


class Refusing(Queue):
    """Answers the first `answers` requests, and ends all others with `outcome`."""

    def __init__(self, answers, outcome):
        super().__init__(8, lambda: 0.1)
        self.left, self.outcome = answers, outcome

    async def perform(self, request, watch, timeout):
        facts = await super().perform(request, watch, timeout)
        self.left -= 1
        return facts if self.left >= 0 else Facts(self.outcome, error="as told")


@pytest.mark.parametrize(
    ("answers", "outcome", "says"),
    [
        (0, "rejected", "no request succeeded .*rejected: as told"),
        (400, "unreachable", r"went away in stage \d+ \(8 agents\): the last 40 requests"),
    ],
)
def test_a_target_never_there_or_gone_ends_the_search(jump, answers, outcome, says):
    search = search_of(agents=(1,), request_count=100)
    with pytest.raises(TargetError, match=says):
        jump(searched(search, Refusing(answers, outcome)))


def test_a_server_that_answers_nobody_at_a_level_misses_it(jump):
    search = search_of(agents=(1,), request_count=130)
    # 4 agents warm up and send 130 in the window; with 8 agents nobody is answered any more.
    over = jump(searched(search, Refusing(137, "rejected")))
    assert over.place is None
    assert over.best.place == 4
    assert over.missed.place > 4


def record(number, latency, outcome="ok", load=None):
    return RequestRecord(
        run="r", stage=1, agent=0, seq=number, agents=1, phase="measured", outcome=outcome,
        due=0.0, sent=0.0, first_token=latency / 2, last_token=latency, ended=latency,
        output_tokens=2, chunks=2, server=None if load is None else ServerFacts(load=load),
    )  # fmt: skip


def tally_of(records, objectives):
    return tallies(records, parse_goodput(objectives))[1]


def test_the_tally_keeps_who_met_and_who_waited_for_a_load():
    seen = [record(0, 3.0, load=2.0), record(1, 0.5), record(2, 0.5, "rejected"), record(3, 1.0)]
    tally = tally_of(seen, "e2el:900")
    assert list(tally.mets) == [0, 1, 0, 0]
    assert (tally.met, tally.loads) == (1, 1)


def test_relaxed_limits_are_those_that_enough_requests_stayed_within():
    slow = [record(i, (i + 1) / 100) for i in range(100)]
    tally = tally_of(slow, "ttft:9000 e2el:500")
    relaxed = relaxation(tally, 0.9)
    assert str(relaxed) == "ttft:9000 e2el:902"
    assert sum(relaxed.met_by(each) for each in slow) >= 90
    failing = [record(i, 0.1, "rejected") for i in range(20)]
    assert relaxation(tally_of([*slow, *failing], "e2el:500"), 0.9) is None


def test_what_was_found_says_how_sure_it_is():
    asked, grid = Asked(parse_goodput("ttft:200"), 0.95, "requests/s"), Grid(1, 40, 0.5)
    over = standing([GOOD, *[UNSURE] * 3, BAD, BAD], grid, RULES)
    assert over.place is None
    assert found(over, asked, grid, RULES).splitlines() == [
        "1 request/s is the most that meets ttft:200 for 0.95 of the requests: 95.0% of 300 "
        "(91.1% to 97.3%), decided by the point estimate after 3 stages: the interval holds the "
        "target",
        "1.5 requests/s misses: 0.0% of 1000 (0.0% to 0.6%), decided by the interval",
    ]
    few = standing([Observation(20, 20)] * 3, Grid(1, 1), RULES)
    says = found(few, replace(asked, unit="agents"), Grid(1, 1), RULES)
    assert "a decision takes 109 requests at least" in says
    assert "1 agent was the most to be asked: raise --max" in says


def test_nothing_found_names_the_nearest_miss_and_what_to_relax():
    asked, grid = Asked(parse_goodput("ttft:200"), 0.95, "agents"), Grid(2, 8)
    over = standing([BAD, Observation(600, 1000)], grid, RULES)
    says = nothing(over, asked, grid, {1: Objectives(ttft=0.3)})
    assert says == (
        "nothing meets ttft:200 for 0.95 of the requests: the nearest is 1 agent with 60.0% of "
        "1000 (56.2% to 63.6%); relax to --goodput ttft:300 or --attainment 0.56"
    )


def test_progress_says_what_becomes_of_each_level():
    asked, grid = Asked(parse_goodput("ttft:200"), 0.95, "agents"), Grid(2, 8)
    assert line(judge(2, [UNSURE], RULES), asked, grid).endswith("; once more")
    assert line(judge(2, [BAD], RULES), asked, grid).endswith(": misses (interval)")
    cold = judge(2, [Observation(0, 100, loads=1)], RULES)
    assert line(cold, asked, grid) == "2 agents: the server loaded its model; once more"


def parsed(*words):
    return build_parser().parse_args(["find", *words])


def test_the_grid_is_that_of_the_flags():
    assert grid_of(parsed()) == Grid(1, 1024, 1.0)
    assert grid_of(parsed("--by", "rate")) == Grid(10, 10_000, 0.1)
    assert grid_of(parsed("--start", "9", "--step", "4", "--max", "30")) == Grid(2, 7, 4.0)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--max", "2.5"], "--max: 2.5 agents given, allowed: a whole number"),
        (["--step", "8", "--max", "4"], "--max: 4 given, allowed: at least one step of 8"),
        (["--start", "8", "--max", "4"], "--start: 8 given, allowed: at most --max 4"),
        (["--max", "200000"], "at most 100000"),
        ([], "--goodput: nothing given to search for"),
        (["--goodput", "tfft:1"], "unknown objective 'tfft'"),
        (["--goodput", "ttft:1", "--arrival", "poisson"], "arrival poisson wants exactly one"),
        (["--goodput", "ttft:1", "--by", "rate", "--arrival", "closed"], "is for an open loop"),
    ],
)
def test_what_cannot_be_searched_is_refused_in_one_line(words, says):
    arguments = parsed(*words)
    with pytest.raises(ConfigError, match=says):
        resolve(arguments, grid_of(arguments))


def test_a_file_with_levels_of_its_own_is_refused(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("request_rate: 5\ngoodput: ttft:200\n")
    arguments = parsed("--config", str(file))
    with pytest.raises(ConfigError, match="agents: given in vain, arrivals do not wait for agents"):
        resolve(arguments, grid_of(arguments))
