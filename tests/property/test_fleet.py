"""Which server of several a request goes to, whatever the others do."""

import asyncio
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from loadgen.backends.base import Request
from loadgen.backends.fleet import Fleet, least_busy, round_robin
from loadgen.stopwatch import Facts, Stopwatch

loads = st.lists(st.integers(0, 50), min_size=1, max_size=9)


class Held:
    """A server that answers when it is told to."""

    name = "held"

    def __init__(self, number):
        self.address = f"http://h:{number + 1}"
        self.landings = []

    def rendered(self, request):
        return request

    def framed(self, request, _wire):
        return request

    def begin(self, _prepared, _watch, _timeout, landing):
        self.landings.append(landing)
        return lambda: None


class Deaf:
    """Whoever asked does not care."""

    def landed(self, facts):
        pass

    def failed(self, error):
        pass


@given(st.lists(loads.filter(lambda busy: len(busy) == 3), min_size=1, max_size=60))
def test_in_turn_is_exactly_even_however_busy_they_are(loads):
    choose = round_robin()
    chosen = [choose(busy) for busy in loads]
    for stop in range(len(chosen) + 1):
        counts = Counter(chosen[:stop])
        assert max(counts[place] for place in range(3)) <= min(counts[p] for p in range(3)) + 1
    assert chosen[:3] == [0, 1, 2][: len(chosen)]


@given(loads)
def test_the_least_busy_is_never_busier_than_another_and_the_first_of_equals(busy):
    place = least_busy()(busy)
    assert busy[place] == min(busy)
    assert min(busy) not in busy[:place]


ways = st.tuples(st.sampled_from(["send", "ok", "rejected", "bug", "cancel"]), st.integers(0, 99))


@given(st.integers(2, 4), st.lists(ways, max_size=60))
def test_however_requests_end_the_next_goes_where_the_fewest_are(servers, steps):
    """Against a plain count of what was sent and has not ended."""
    fleet = Fleet([Held(number) for number in range(servers)], "least-busy")
    in_flight, under_way = [0] * servers, []

    async def take():
        for way, which in steps:
            if way == "send":
                watch = Stopwatch(lambda: 0.0, due=0.0)
                cancel = fleet.begin(fleet.prepare(Request("a", 1)), watch, 1.0, Deaf())
                assert in_flight[watch.address] == min(in_flight)
                in_flight[watch.address] += 1
                landing = fleet.backends[watch.address].landings[-1]
                under_way.append((watch.address, landing, cancel))
            elif under_way:
                place, landing, cancel = under_way.pop(which % len(under_way))
                in_flight[place] -= 1
                if way == "cancel":
                    cancel()
                elif way == "bug":
                    landing.failed(ValueError("ours"))
                else:
                    landing.landed(Facts(way))
                    cancel()  # one that landed may be cancelled before anybody woke

    asyncio.run(take())
