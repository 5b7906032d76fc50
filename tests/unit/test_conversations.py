"""Conversations grow by what was said; prefixes are shared as asked and no further."""

import pytest

from loadgen.workload.conversations import (
    Conversations,
    SharedPrefix,
    block_words,
    joined,
    messages,
)
from loadgen.workload.lengths import parse_lengths
from loadgen.workload.think import parse_think

PLAN = Conversations(
    turns=parse_lengths("3"),
    first=parse_lengths("50"),
    following=parse_lengths("8..12"),
    replies=parse_lengths("20"),
    think=parse_think("1..5"),
    prefix=SharedPrefix(16, groups=2),
    seed=1,
)


def said(turns, replies):
    return joined(messages(turns, replies))


def test_every_prompt_extends_the_one_before_it():
    turns = PLAN.plan(4)
    replies = [PLAN.stand_in(turn) for turn in turns]
    prompts = [said(turns[: t + 1], replies[:t]) for t in range(3)]
    assert prompts[1].startswith(prompts[0] + " " + replies[0])
    assert prompts[2].startswith(prompts[1] + " " + replies[1])
    for prompt, turn in zip(prompts, turns, strict=True):
        assert len(prompt.split()) == turn.context_tokens
    assert turns[0].context_tokens == 50
    assert all(8 <= len(turn.asks.split()) <= 12 for turn in turns[1:])


def test_a_chat_alternates_between_both_sides():
    turns = PLAN.plan(0)
    roles = [role for role, _ in messages(turns, ["one", "two"])]
    assert roles == ["system", "user", "assistant", "user", "assistant", "user"]
    assert messages(turns, ["one", "two"])[2] == ("assistant", "one")
    assert messages(turns, ["one", "two"])[0] == ("system", turns[0].system)
    with pytest.raises(ValueError, match="3 turns and 1 replies"):
        messages(turns, ["one"])


def test_prefixes_are_shared_within_a_group_and_nothing_after_them():
    first = [PLAN.plan(number)[0] for number in range(6)]
    assert first[0].system == first[2].system == first[4].system
    assert first[1].system == first[3].system != first[0].system
    assert {len(turn.system.split()) for turn in first} == {16}
    assert len({tuple(turn.asks.split()[:3]) for turn in first}) == 6
    assert not any(turn.system for turn in PLAN.plan(0)[1:])


def test_without_a_prefix_the_nonce_comes_first():
    plan = Conversations(PLAN.turns, PLAN.first, PLAN.following, PLAN.replies)
    assert plan.plan(0)[0].asks.split()[:5] != plan.plan(1)[0].asks.split()[:5]
    other = Conversations(PLAN.turns, PLAN.first, PLAN.following, PLAN.replies, salt=7)
    assert plan.plan(0)[0].asks.split()[:5] != other.plan(0)[0].asks.split()[:5]


def test_a_plan_is_a_function_of_its_seed_and_number():
    assert PLAN.plan(3) == PLAN.plan(3)
    assert PLAN.plan(3) != PLAN.plan(5)
    assert {turn.think for turn in PLAN.plan(3)[1:]} != {turn.think for turn in PLAN.plan(5)[1:]}
    assert PLAN.plan(3)[0].think == 0


def test_equal_blocks_of_a_trace_are_equal_words():
    one = block_words([46, 47, 48], 1300, seed=0, number=1)
    two = block_words([46, 47, 90], 1300, seed=0, number=2)
    assert len(one) == len(two) == 1300
    assert one[:1024] == two[:1024]
    assert one[1024:] != two[1024:]
    assert one[:512] != one[512:1024]


def test_what_no_block_covers_is_the_requests_own():
    one, two = (block_words([7], 600, seed=0, number=number) for number in (1, 2))
    assert one[:512] == two[:512]
    assert len(one) == 600
    assert one[512:] != two[512:]
    assert block_words([], 5, seed=0, number=1) != block_words([], 5, seed=0, number=2)
