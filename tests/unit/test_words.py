import pytest

from contract.records import StageKey
from contract.words import number_of, one_line
from loadgen.commands.console import said


@pytest.mark.parametrize(
    ("count", "says"),
    [(0, "0 agents"), (1, "1 agent"), (1.0, "1 agent"), (2, "2 agents"), (1.5, "1.5 agents"),
     (1234567, "1234567 agents")],
)  # fmt: skip
def test_a_noun_is_singular_of_one_alone(count, says):
    assert number_of(count, "agent") == says


@pytest.mark.parametrize(
    ("agents", "rate", "says"),
    [(1, None, "1 agent"), (8, None, "8 agents"), (0, 1.0, "1 request/s"),
     (0, 2.5, "2.5 requests/s")],
)  # fmt: skip
def test_a_level_reads_as_one_says_it(agents, rate, says):
    assert StageKey("hf", "m", agents, 8, 8, request_rate=rate).level == says


def test_what_a_server_says_does_not_steer_the_terminal(capsys):
    assert one_line("a\nb\x1b[31m c\x07") == "a b\ufffd[31m c\ufffd"
    said("model a\nb\x1b[31m")
    assert capsys.readouterr().err == "model a b\ufffd[31m\n"
    assert one_line("Grüße, 世界 · …") == "Grüße, 世界 · …"
