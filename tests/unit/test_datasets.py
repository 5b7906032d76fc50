"""Prompts from files: what is read, what is left out, and which line is wrong."""

import io
import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.errors import ConfigError, DataError
from loadgen.workload import json_array
from loadgen.workload.datasets import Message, Sample, read_dataset


def user(text, **more):
    return Sample((Message("user", text),), **more)


def turn(who, value):
    return {"from": who, "value": value}


SHAREGPT = [
    {"id": "a", "conversations": [turn("human", "Why?"), turn("gpt", "So."), turn("human", "Ah")]},
    {"id": "b", "conversations": [turn("human", "alone")]},
    {"id": "c", "conversations": [turn("gpt", "I start"), turn("human", "no")]},
    {"id": "d", "conversations": []},
    {"id": "e", "conversations": [turn("human", "empty?"), turn("gpt", " ")]},
    {"id": "f", "conversations": [turn("user", "Où ?"), turn("assistant", "Là.")]},
]


@pytest.fixture
def dataset(tmp_path):
    def write(text, name):
        path = tmp_path / name
        path.write_text(text if isinstance(text, str) else json.dumps(text), encoding="utf-8")
        return path

    return write


@pytest.mark.parametrize("indent", [None, 1])
def test_sharegpt_asks_the_first_question_and_knows_its_reply(dataset, indent):
    path = dataset(json.dumps(SHAREGPT, indent=indent), "share.json")
    assert list(read_dataset(path)) == [user("Why?", reply="So."), user("Où ?", reply="Là.")]


def test_jsonl_holds_prompts_or_chats(dataset):
    path = dataset(
        '{"prompt": "one", "max_tokens": 7, "id": 1}\n\n'
        '{"messages": [{"role": "system", "content": "Be brief."}, '
        '{"role": "user", "content": "two"}]}\n',
        "p.jsonl",
    )
    first, second = read_dataset(path)
    assert first == user("one", output_tokens=7)
    assert second.messages == (Message("system", "Be brief."), Message("user", "two"))
    assert second.prompt == "Be brief.\n\ntwo"
    assert second.output_tokens is None


def test_a_text_file_is_one_prompt_a_line(dataset):
    path = dataset("\ufefffirst prompt\r\n\n  second  \n", "p.txt")
    assert list(read_dataset(path)) == [user("first prompt"), user("second")]


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("p.jsonl", '{"prompt": "a"}\n{"prompt": ""}', "p.jsonl:2: prompt: '' found, expected"),
        ("p.jsonl", '{"prompt": 3}', ":1: prompt: '3' found"),
        ("p.jsonl", '{"text": "a"}', ":1: one of the fields 'prompt' and 'messages'"),
        ("p.jsonl", '{"prompt": "a", "messages": []}', ":1: one of the fields"),
        ("p.jsonl", '{"messages": []}', ":1: messages: '[]' found, expected a list of role"),
        ("p.jsonl", '{"messages": [{"role": "boss", "content": "a"}]}', ":1: messages:"),
        ("p.jsonl", '{"messages": [{"role": "user", "content": [1]}]}', "out of scope"),
        ("p.jsonl", '{"prompt": "a", "max_tokens": 0}', ":1: max_tokens: '0' found"),
        ("p.jsonl", "nonsense", ":1: not JSON"),
        ("p.json", "{}", "p.json:1: not a JSON array: '[' is wanted"),
        ("p.json", "", "p.json:1: not a JSON array"),
        ("p.json", '[\n{"conversations": 3}]', "p.json:2: conversations: '3' found"),
        ("p.json", '[\n\n{"x": 1}]', "p.json:3: field 'conversations' is missing"),
        ("p.json", "[\n1]", "p.json:2: an object with 'conversations' is wanted"),
        ("p.json", '[{"conversations": []}\n', "p.json:2: not a JSON array: ',' is wanted"),
        ("p.json", '[{"conversations": []} {}]', "',' is wanted"),
        ("p.json", '[{"conversations": []},\n', "p.json:2: not a JSON array"),
        ("p.json", '[{"conversations": [}]', "p.json:1: not a JSON array: Expecting"),
        ("p.json", '[{"conversations": [{"from": "human"}]}]', "conversations:"),
        ("p.json", "[]", "no prompt in it"),
        ("p.txt", "\n \n", "no prompt in it"),
    ],
)
def test_what_is_wrong_is_named_with_file_line_and_field(dataset, name, text, says):
    with pytest.raises(DataError) as refused:
        list(read_dataset(dataset(text, name)))
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_wrong_kind_or_file_is_refused(dataset, tmp_path):
    with pytest.raises(
        ConfigError, match=r"'sharegtp' given, allowed: .*, did you mean 'sharegpt'"
    ):
        list(read_dataset(dataset("[]", "p.json"), "sharegtp"))
    with pytest.raises(ConfigError, match=r"'p.csv' does not tell by its suffix, allowed: share"):
        list(read_dataset(dataset("[]", "p.csv")))
    with pytest.raises(ConfigError, match="no such file"):
        list(read_dataset(tmp_path / "absent.txt"))


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


class Dripping(io.StringIO):
    """A file that gives no more than a few characters at a time."""

    def __init__(self, text, most):
        super().__init__(text)
        self.most = most

    def read(self, size=-1):
        return super().read(self.most)


@given(st.lists(values, max_size=8), st.integers(1, 9), st.sampled_from([None, 0, 2]))
def test_an_array_cut_anywhere_gives_its_elements_and_their_lines(tmp_path_factory, array, most,
                                                                  indent):  # fmt: skip
    text = json.dumps(array, indent=indent)
    read = list(json_array.elements(Dripping(text, most), tmp_path_factory.getbasetemp()))
    assert [element for _, element in read] == array
    if indent is not None:
        for number, element in read:
            begins = text.splitlines()[number - 1].strip()
            assert begins.startswith(json.dumps(element, indent=indent).splitlines()[0].rstrip(","))


def test_a_large_file_is_read_in_bounded_memory(dataset):
    entry = {"conversations": [turn("human", "x" * 2000), turn("gpt", "y" * 2000)]}
    path = dataset([entry] * 5000, "big.json")  # 20 MB
    tracemalloc.start()
    try:
        assert sum(1 for _ in read_dataset(path)) == 5000
        assert tracemalloc.get_traced_memory()[1] < 8e6
    finally:
        tracemalloc.stop()
