"""Where a run's requests come from: chats keep their roles, prefixes are system prompts."""

from loadgen.backends.base import Message
from loadgen.workload.conversations import SharedPrefix
from loadgen.workload.datasets import Sample
from loadgen.workload.file_sources import DatasetSource
from loadgen.workload.lengths import fixed
from loadgen.workload.prompts import PromptSource

SYSTEM = Message("system", "Be brief.")
CHAT = Sample((SYSTEM, Message("user", "Why?"), Message("assistant", "So."), Message("user", "?")))
NONCE_WORDS = 5


def source(prefix=0, samples=(CHAT,)):
    prompts = PromptSource(0, fixed(20), fixed(8), prefix=SharedPrefix(prefix))
    return DatasetSource(samples, prompts)


def test_a_chat_of_a_file_keeps_its_roles_behind_a_nonce():
    request = source().request(1, 0, 0)
    assert [role for role, _ in request.messages] == ["system", "user", "assistant", "user"]
    assert request.messages[1:] == CHAT.messages[1:]
    nonce = request.messages[0].text.removesuffix(" Be brief.")
    assert len(nonce.split()) == NONCE_WORDS
    assert request.prompt == f"{nonce} {CHAT.prompt}"
    assert source().request(1, 0, 1).messages[0] != request.messages[0]


def test_a_shared_prefix_opens_the_system_prompt_there_is():
    one, two = (source(12).request(1, 0, seq).messages for seq in range(2))
    assert [role for role, _ in one] == [role for role, _ in two]
    first, second = one[0].text.split(), two[0].text.split()
    assert first[:12] == second[:12]
    assert first[12:17] != second[12:17]
    assert first[17:] == second[17:] == ["Be", "brief."]


def test_a_shared_prefix_is_a_system_prompt_where_there_is_none():
    plain = Sample((Message("user", "Why?"),))
    request = source(12, [plain]).request(1, 0, 0)
    assert [role for role, _ in request.messages] == ["system", "user"]
    assert len(request.messages[0].text.split()) == 12
    assert request.prompt == " ".join(text for _, text in request.messages)


def test_a_made_prompt_is_one_message_after_its_shared_prefix():
    plain = PromptSource(0, fixed(20), fixed(8)).request(1, 0, 0)
    shared = PromptSource(0, fixed(20), fixed(8), prefix=SharedPrefix(12)).request(1, 0, 0)
    assert plain.chat == (("user", plain.prompt),)
    assert [(role, len(text.split())) for role, text in shared.chat] == [
        ("system", 12),
        ("user", 8),
    ]
    assert shared.prompt == " ".join(text for _, text in shared.chat)
