"""What a conversation sends: the server's own replies, stand-ins where there are none."""

from loadgen.stopwatch import Facts, Ids
from loadgen.workload.conversation_source import ConversationSource
from loadgen.workload.conversations import Conversations, SharedPrefix
from loadgen.workload.lengths import parse_lengths

PLAN = Conversations(
    turns=parse_lengths("3"),
    first=parse_lengths("30"),
    following=parse_lengths("4"),
    replies=parse_lengths("6"),
    prefix=SharedPrefix(10),
)


def ask(source, seq, agent=0):
    return source.request(1, agent, seq)


def answer(source, request, seq, facts, agent=0):
    source.answered(Ids("r", 1, 2, agent, seq), request, facts)


def roles(request):
    return [role for role, _ in request.messages]


def test_the_next_turn_holds_what_the_server_said():
    source = ConversationSource(PLAN)
    first = ask(source, 0)
    answer(source, first, 0, Facts("ok", text="ten and four"))
    second = ask(source, 1)
    answer(source, second, 1, Facts("truncated", text="and two"))
    third = ask(source, 2)

    assert first.wants_text
    assert roles(first) == ["system", "user"]
    assert second.messages[:-1] == (*first.messages, ("assistant", "ten and four"))
    assert third.messages[:-1] == (*second.messages, ("assistant", "and two"))
    assert len(third.messages[-1].text.split()) == 4
    assert third.prompt == " ".join(text for _, text in third.messages)


def test_after_its_last_turn_an_agent_begins_another_conversation():
    source = ConversationSource(PLAN)
    asked = []
    for seq in range(4):
        asked.append(ask(source, seq))
        answer(source, asked[-1], seq, Facts("ok", text="so"))
    assert [len(request.messages) for request in asked] == [2, 4, 6, 2]
    assert asked[3].messages[1] != asked[0].messages[1]
    assert asked[3].messages[0] == asked[0].messages[0]


def test_a_failed_turn_ends_its_conversation():
    source = ConversationSource(PLAN)
    first = ask(source, 0)
    answer(source, first, 0, Facts("timed_out", text="half of i"))
    second = ask(source, 1)
    assert len(second.messages) == 2
    assert second.messages != first.messages


def test_words_stand_in_for_a_reply_that_is_not_known():
    source = ConversationSource(PLAN)
    first = ask(source, 0)
    early = ask(source, 1)  # the first is still in flight, as in an open loop
    answer(source, first, 0, Facts("ok", text="came late"))
    answer(source, early, 1, Facts("ok", text=None))
    last = ask(source, 2)

    assert [role for role, _ in early.messages] == ["system", "user", "assistant", "user"]
    assert len(early.messages[2].text.split()) == 6
    assert last.messages[2] == ("assistant", "came late")
    assert len(last.messages[4].text.split()) == 6


def test_a_late_failure_does_not_end_the_conversation_after_it():
    source = ConversationSource(PLAN)
    asked = [ask(source, seq) for seq in range(4)]  # the fourth is of another conversation
    answer(source, asked[0], 0, Facts("server_error"))
    assert len(asked[3].messages) == 2
    assert ask(source, 4).messages[:2] == asked[3].messages


def test_agents_hold_conversations_of_their_own():
    source = ConversationSource(PLAN)
    mine, others = ask(source, 0, agent=0), ask(source, 0, agent=1)
    answer(source, others, 0, Facts("ok", text="for one alone"), agent=1)
    assert mine.messages[1] != others.messages[1]
    assert "for one alone" in ask(source, 1, agent=1).prompt
    assert "for one alone" not in ask(source, 1, agent=0).prompt
