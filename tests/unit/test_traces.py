"""Traces of every format replay their timestamps exactly; what is wrong in one is named."""

from fractions import Fraction

import pytest

from contract.errors import ConfigError, DataError
from loadgen.workload.traces import TraceRow, read_trace

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.9951690,396,109
2023-11-16 18:15:51.2225670,879,55
"""
AZURE_ZONED = """TIMESTAMP,ContextTokens,GeneratedTokens
2024-05-10 00:00:00.009930+00:00,2162,5
2024-05-10 02:00:01.017335+02:00,2399,6
2024-05-12 00:00:00+00:00,76,15
"""
MOONCAKE = """{"timestamp": 27482, "input_length": 6955, "output_length": 52, "hash_ids": [46, 47]}
{"timestamp": 30535, "input_length": 6472, "output_length": 26, "hash_ids": [46, 2353]}

{"timestamp": 30535.25, "input_length": 10, "output_length": 1, "session_id": "a"}
"""
BURSTGPT = """Timestamp,Session ID,Model,Request tokens,Response tokens,Total tokens,Log Type
5,12,ChatGPT,472,18,490,Conversation log
45.5,,ChatGPT,1087,0,1087,API log
118,,GPT-4,417,276,693,API log
"""
OWN = """{"at": 10.1, "input_tokens": 5, "output_tokens": 6}
{"at": 10.3, "input_tokens": 7, "output_tokens": 8, "session": 3, "hash_ids": [1]}
"""


@pytest.fixture
def trace(tmp_path):
    def write(text, name="trace"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def test_azure_keeps_all_seven_digits(trace):
    rows = read_trace(trace(AZURE))
    # Each instant is the float nearest to the exact decimal difference.
    assert [row.at for row in rows] == [
        0.0,
        float(Fraction("50.9951690") - Fraction("46.6805900")),
        float(Fraction("51.2225670") - Fraction("46.6805900")),
    ]
    assert [(row.input_tokens, row.output_tokens) for row in rows] == [
        (374, 44), (396, 109), (879, 55),
    ]  # fmt: skip


def test_azure_times_may_carry_a_zone_and_cross_midnight(trace):
    rows = read_trace(trace(AZURE_ZONED), "azure")
    assert [row.at for row in rows] == [0.0, 1.007405, 172_799.99007]


def test_mooncake_counts_milliseconds_and_names_its_blocks(trace):
    rows = read_trace(trace(MOONCAKE))
    assert rows == [
        TraceRow(0.0, 6955, 52, None, (46, 47)),
        TraceRow(3.053, 6472, 26, None, (46, 2353)),
        TraceRow(3.05325, 10, 1, "a"),
    ]


def test_burstgpt_leaves_out_what_failed(trace):
    assert read_trace(trace(BURSTGPT)) == [
        TraceRow(0.0, 472, 18, "12"),
        TraceRow(113.0, 417, 276),
    ]


def test_our_own_format_counts_seconds_in_decimal(trace):
    rows = read_trace(trace(OWN), "jsonl")
    assert [row.at for row in rows] == [0.0, 0.2]  # 10.3 - 10.1 in floats is 0.2000...03
    assert rows[1] == TraceRow(0.2, 7, 8, "3", (1,))


def test_a_unit_is_explicit_and_a_speed_divides(trace):
    path = trace(MOONCAKE)
    assert [row.at for row in read_trace(path, unit="s")] == [0.0, 3053.0, 3053.25]
    assert [row.at for row in read_trace(path, speed=2)] == [0.0, 1.5265, 1.526625]


def test_rows_are_put_in_order_of_time_and_equal_times_keep_theirs(trace):
    lines = [f'{{"at": {at}, "input_tokens": {n}, "output_tokens": 1}}' for n, at in
             enumerate([5, 3, 5, 3], 1)]  # fmt: skip
    rows = read_trace(trace("\n".join(lines)))
    assert [(row.at, row.input_tokens) for row in rows] == [(0, 2), (0, 4), (2, 1), (2, 3)]


def test_a_byte_order_mark_and_windows_lines_do_no_harm(trace):
    text = b"\xef\xbb\xbf" + AZURE.replace("\n", "\r\n").encode()
    assert len(read_trace(trace(text))) == 3


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a,b\n1,2\n", ":1: not the columns of a known trace"),
        ("", ":1: not the columns"),
        (AZURE.splitlines()[0], "no request in it"),
        (AZURE.replace("396", "x"), ":3: ContextTokens: 'x' found, expected a whole number"),
        (AZURE.replace("396", "-1"), ":3: ContextTokens: '-1' found"),
        (AZURE.replace("396", "1.5"), ":3: ContextTokens: '1.5' found"),
        (
            AZURE.replace("396", "1e30"),
            ":3: ContextTokens: '1e30' found, expected a whole number of tokens",
        ),
        (AZURE.replace("18:15:50.9951690", "25:15"), ":3: TIMESTAMP: '2023-11-16 25:15' found"),
        (AZURE + "2023-11-16 18:15:52,5\n", ":5: field 'GeneratedTokens' is missing"),
        (MOONCAKE + "{", ":5: not JSON"),
        (MOONCAKE + "[1]", ":5: a JSON object is wanted"),
        (MOONCAKE.replace("30535,", "NaN,"), ":2: timestamp: 'nan' found, expected a time"),
        (MOONCAKE.replace("[46, 47]", '"46"'), ":1: hash_ids: '46' found, expected a list"),
        (MOONCAKE.replace("6472", "true"), ":2: input_length: 'True' found"),
        (b"TIMESTAMP,\xff\n", "not readable"),
        (AZURE.replace("396", "3" * 200_000), "not readable: field larger than field limit"),
    ],
)
def test_what_is_wrong_in_a_trace_is_named_with_its_line(trace, text, says):
    with pytest.raises(DataError) as refused:
        read_trace(trace(text))
    assert says in str(refused.value)
    assert "trace" in str(refused.value)


def test_wrong_options_are_refused(trace, tmp_path):
    for options, says in (
        ({"kind": "azur"}, "did you mean 'azure'"),
        ({"unit": "min"}, "allowed: s, ms, us, ns"),
        ({"speed": 0}, "trace speed: 0 given"),
        ({"unit": "ms"}, "calendar times"),
    ):
        with pytest.raises(ConfigError, match=says):
            read_trace(trace(AZURE), **options)
    with pytest.raises(ConfigError, match="no such file"):
        read_trace(tmp_path / "absent.csv")
