"""Cutting a window into blocks loses and invents nothing."""

from __future__ import annotations

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.table import block_number, poisson_blocks, split_cumulative, split_instants

finite = st.floats(-1e6, 1e6)
lengths = st.floats(1e-3, 1e5)


@given(st.lists(st.floats(0, 1), max_size=200), finite, lengths, st.integers(1, 40))
def test_every_instant_falls_into_one_block(shares, start, length, blocks):
    end = start + length
    counts = split_instants([start + share * length for share in shares], start, end, blocks)
    assert len(counts) == blocks
    assert sum(counts) == len(shares)


@given(
    st.lists(st.tuples(st.floats(1e-3, 10), st.integers(0, 1000)), min_size=1, max_size=50),
    finite,
    st.integers(1, 30),
)
def test_blocks_of_a_rising_count_add_up_to_its_increase(steps, start, blocks):
    times, counts = [start], [0.0]
    for length, increase in steps:
        times.append(times[-1] + length)
        counts.append(counts[-1] + increase)
    parts = split_cumulative(times, counts, blocks)
    assert len(parts) == blocks
    assert math.fsum(parts) == pytest.approx(counts[-1])
    assert all(part >= -1e-6 for part in parts)


def test_a_steady_count_fills_its_blocks_evenly():
    assert split_cumulative([0.0, 3.0, 10.0], [5.0, 8.0, 15.0], 5) == pytest.approx([2.0] * 5)


@given(st.integers(0, 10**7), lengths, st.none() | st.floats(1e-4, 1e3))
def test_five_to_twenty_blocks(requests, seconds, latency):
    assert 5 <= block_number(requests, seconds, latency) <= 20


def test_blocks_are_longer_than_three_latencies_and_not_empty():
    assert block_number(1000, 60.0, 1.0) == 20
    assert block_number(1000, 60.0, 2.0) == 10
    assert block_number(40, 60.0, 0.1) == 8
    assert block_number(3, 60.0, 30.0) == 5


@given(st.integers(9, 10**6))
def test_poisson_blocks_scatter_as_a_poisson_count_does(requests):
    blocks = poisson_blocks(requests)
    assert math.fsum(blocks) == pytest.approx(requests)
    standard_error = statistics.stdev(blocks) / math.sqrt(len(blocks)) * len(blocks)
    assert standard_error == pytest.approx(math.sqrt(requests), rel=1e-6)


def test_poisson_blocks_are_never_negative():
    assert poisson_blocks(0) == (0.0,) * 10
    assert min(poisson_blocks(1)) == 0.0
