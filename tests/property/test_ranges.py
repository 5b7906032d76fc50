import itertools

from hypothesis import given
from hypothesis import strategies as st

from loadgen.ranges import format_levels, parse_levels

levels = st.lists(st.integers(1, 300), min_size=1, max_size=12, unique=True)


@given(levels)
def test_any_levels_survive_the_round_trip(values):
    assert parse_levels(format_levels(values)) == tuple(values)


@given(st.integers(1, 50), st.integers(0, 200), st.integers(1, 20))
def test_a_stepped_range_survives_the_round_trip(first, span, step):
    values = parse_levels(f"{first}..{first + span}+{step}")
    assert parse_levels(format_levels(values)) == values
    assert all(later - earlier == step for earlier, later in itertools.pairwise(values))
