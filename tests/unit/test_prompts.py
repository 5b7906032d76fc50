from loadgen.workload.lengths import fixed
from loadgen.workload.prompts import PromptSource, fit_to_budget
from loadgen.workload.words import WORDS, WordTokenizer, nonce


def source(**changes):
    return PromptSource(**{"seed": 0, "isl": fixed(32), "osl": fixed(8), **changes})


def test_every_prompt_has_exactly_the_budget_and_is_unique():
    prompts = [
        source().request(stage, agent, seq).prompt
        for stage in range(3)
        for agent in range(8)
        for seq in range(20)
    ]
    assert {len(prompt.split()) for prompt in prompts} == {32}
    assert len(set(prompts)) == len(prompts)
    # Not only somewhere: within the first words, where a prefix cache would look.
    assert len({tuple(prompt.split()[:5]) for prompt in prompts}) == len(prompts)


def test_the_same_ids_and_seed_give_the_same_prompt_and_another_run_another():
    assert source().request(1, 2, 3) == source().request(1, 2, 3)
    assert source(salt=1).request(1, 2, 3).prompt != source(salt=2).request(1, 2, 3).prompt
    assert source(seed=1).request(1, 2, 3).prompt != source(seed=2).request(1, 2, 3).prompt


def test_words_are_distinct_and_have_one_id_each():
    tokenizer = WordTokenizer()
    assert len(set(WORDS)) == len(WORDS) == 6400
    assert tokenizer.encode(" ".join(WORDS)) == list(range(6400))
    assert tokenizer.decode([0, 5, 6399]).split() == [WORDS[0], WORDS[5], WORDS[6399]]
    assert all(0 <= i < 6400 for i in tokenizer.encode("never seen üñï words"))


def test_nonces_differ_for_different_numbers():
    assert len({tuple(nonce(number)) for number in range(10_000)}) == 10_000


class MergingTokenizer:
    """Two characters a token, so that a cut text re-encodes to another length."""

    def encode(self, text):
        return [sum(map(ord, text[i : i + 2])) for i in range(0, len(text), 2)]

    def decode(self, ids):
        return "ab" * len(ids) + ("c" if len(ids) % 3 == 0 else "")


def test_a_text_is_cut_to_the_budget_even_when_decoding_changes_its_length():
    text = fit_to_budget("x" * 100, 9, MergingTokenizer())
    assert abs(len(MergingTokenizer().encode(text)) - 9) <= 1
    assert len(MergingTokenizer().encode(fit_to_budget("x" * 100, 10, MergingTokenizer()))) == 10
