import pytest

from contract.errors import ConfigError
from loadgen.ranges import format_levels, parse_levels


@pytest.mark.parametrize(
    ("text", "levels"),
    [
        ("1..4", (1, 2, 3, 4)),
        ("1..16x2", (1, 2, 4, 8, 16)),
        ("1..12x2", (1, 2, 4, 8)),
        ("3..100x3", (3, 9, 27, 81)),
        ("1..16+3", (1, 4, 7, 10, 13, 16)),
        ("1,2,4", (1, 2, 4)),
        ("8,1..3", (8, 1, 2, 3)),
        ("7", (7,)),
        ("5..5", (5,)),
    ],
)
def test_a_range_names_its_levels(text, levels):
    assert parse_levels(text) == levels


@pytest.mark.parametrize(
    "text",
    ["4..1", "0", "1..x", "", "1..", "..3", "1,,2", "1,1", "1..4,2", "-1", "1..8x1", "1..8+0",
     "0..4", "1e3", "1..999999999", "١..٤", "1 2"],
)  # fmt: skip
def test_a_bad_range_is_refused_in_one_line_with_what_is_allowed(text):
    with pytest.raises(ConfigError) as refused:
        parse_levels(text)
    assert f"'{text}'" in str(refused.value)
    assert "allowed" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_levels_are_written_in_the_shortest_notation():
    assert format_levels((1, 2, 3, 4)) == "1..4"
    assert format_levels((1, 2, 4, 8)) == "1..8x2"
    assert format_levels((2, 5, 8)) == "2..8+3"
    assert format_levels((1, 2, 5)) == "1,2,5"
