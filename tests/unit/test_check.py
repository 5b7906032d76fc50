"""What `loadgen check` concludes from the instants of an answer, and from a prompt sent twice."""

import pytest

from contract.records import ServerFacts
from loadgen.commands.check import prefix_cache, screen, streamed
from loadgen.stopwatch import Facts


def ok(prompt=256, **server):
    return Facts("ok", prompt_tokens=prompt, server=ServerFacts(**server) if server else None)


@pytest.mark.parametrize(
    ("first", "second", "says"),
    [
        (ok(cached_prompt_tokens=0), ok(cached_prompt_tokens=240), "yes: 240 of 256 prompt tokens"),
        (ok(cached_prompt_tokens=0), ok(cached_prompt_tokens=1), "no: 1 of 256 prompt tokens"),
        (
            ok(cached_prompt_tokens=0, prefill=0.5),
            ok(cached_prompt_tokens=0, prefill=0.01),
            "no: 0 of 256",
        ),
        (ok(prefill=0.1), ok(prefill=0.04), "yes: prefill 100.0 ms, then 40.0 ms"),
        (ok(prefill=0.1), ok(prefill=0.06), "no sign: prefill 100.0 ms, then 60.0 ms"),
        (ok(prefill=0.0), ok(prefill=0.0), "unknown: the server reports neither"),
        (ok(), ok(), "unknown: the server reports neither"),
        (ok(), Facts("timed_out"), "unknown: the probe ended ok, then timed_out"),
    ],
)
def test_a_cache_is_told_by_counts_then_by_prefill_else_not_at_all(first, second, says):
    assert prefix_cache(first, second).startswith(says)


@pytest.mark.parametrize(
    ("arrivals", "found"),
    [
        ([1.0, 1.01, 1.03], (True, "3 in 3 reads over 30.0 ms")),
        ([1.0, 1.0, 1.02], (True, "3 in 2 reads over 20.0 ms")),
        ([1.0, 1.0, 1.0], (None, "3 in one read")),
        ([1.0], (False, "in one piece")),
        ([], (None, "none")),
    ],
)
def test_an_answer_streams_when_its_chunks_arrive_at_different_instants(arrivals, found):
    assert streamed(arrivals) == found


def test_several_servers_stand_beside_each_other():
    one, other = {"reachable": True, "models": ["a", "b"]}, {"reachable": False, "models": []}
    assert screen([one, other]).splitlines() == [
        "what       found  found",
        "reachable  yes    no",
        "models     a, b   -",
    ]
