"""The search for the largest load against queues whose optimum is simulated by other means."""

import random

import pytest

from loadgen.cli import build_parser
from loadgen.config import RunConfig
from loadgen.figures.goodput import Objectives
from loadgen.search.course import Search
from loadgen.search.find import Grid, Rules
from loadgen.search.report import Asked
from tests.oracle.queues import Queue, searched, sojourns, widths_from

# What the command takes when it is told nothing.
USUAL = build_parser().parse_args(["find"])
RULES = Rules(USUAL.attainment, USUAL.looks)
# Slots, gamma shape, step, and the place that shall be the largest.
AGENTS = [(1, 16, 2, 3), (1, 8, 3, 2), (2, 8, 4, 3), (3, 8, 6, 3), (4, 8, 8, 2), (1, 4, 3, 2),
          (2, 16, 4, 4), (2, 16, 3, 2)]  # fmt: skip
RATES = [(3, 16, 11.5, 1), (4, 16, 15.5, 1)]
CASES = [(case, case in RATES) for case in AGENTS + RATES]
SEEDS = 20


def test_the_target_is_the_customary_one():
    assert Rules(0.95, 3) == RULES


@pytest.mark.parametrize("seed", range(SEEDS))
def test_it_finds_the_optimum(jump, seed):
    (slots, shape, step, place), rate = CASES[seed % len(CASES)]
    target, count = RULES.target, 2400 if rate else 1200
    true = random.Random(1000 + seed)

    def stays_at(place):
        return sojourns(place * step, rate, slots, lambda: true.gammavariate(shape, 0.1 / shape))

    here, above = stays_at(place), stays_at(place + 1)
    low, high = (sorted(stays)[int(target * len(stays))] for stays in (here, above))
    limit = low + (0.2 if rate else 0.5) * (high - low)

    # The boundary is two interval widths from both levels, and the optimum is the lower one.
    assert widths_from(target, here, limit, RULES.repeats * count) > 2
    assert widths_from(target, above, limit, RULES.repeats * count) < -2

    draw = random.Random(seed)
    load = {"request_rate": str(step)} if rate else {"agents": (1,)}
    config = RunConfig(isl="8", osl="1", request_count=count, warmup_requests=150, seed=seed,
                       **load)  # fmt: skip
    asked = Asked(Objectives(e2el=limit), target, "")
    search = Search(config, asked, Grid(1 + seed % 4, 4 if rate else 16, step), RULES)
    over = jump(searched(search, Queue(slots, lambda: draw.gammavariate(shape, 0.1 / shape))))
    assert over.place is None
    assert over.best.place == place
