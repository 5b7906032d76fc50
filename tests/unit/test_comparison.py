"""Errors of what a tool says, which runs count, and the page made of the figures."""

import numpy as np
import pytest

from bench import compare
from bench.compare import calm, errors
from bench.comparison_page import is_void, page, table
from bench.peers import Seen
from bench.truth import REQUEST, Truth

MS = 1_000_000


def truth(*requests):
    """A log of replies, each (number, arrival, instants of its tokens) in milliseconds."""
    table = np.zeros(len(requests), REQUEST)
    writes = []
    for row, (number, arrival, times) in zip(table, requests, strict=True):
        row["nonce"], row["arrival"], row["first_write"] = number, arrival * MS, len(writes)
        row["tokens"] = row["written"] = len(times)
        row["per_write"], row["ended"] = 1, times[-1] * MS + 1
        writes += [time * MS for time in times]
    return Truth(table, np.asarray(writes, "<u8"), 0, 10**12, (0, 0))


def test_errors_are_of_the_same_request_and_have_no_sign():
    log = truth((5, 0, [50, 60, 70]), (6, 10, [65, 75, 95]))
    said = [
        Seen(6, 0.054, 0.014, [0.010, 0.018]),  # true: 55 ms, then 10 and 20
        Seen(5, 0.051, 0.010, [0.011, 0.009]),  # true: 50 ms, then 10 and 10
        Seen(99, 9.0, 9.0, [9.0, 9.0]),
    ]

    figures = errors(said, log)

    assert figures["found"] == 2
    assert figures["ttft_p50_ms"] == pytest.approx(1)
    assert figures["gap_p50_ms"] == pytest.approx(1)
    assert figures["gap_p99_ms"] == pytest.approx(1.97)
    assert figures["mean_gap_p50_ms"] == pytest.approx(0.5)


def test_a_tool_that_keeps_means_has_no_error_of_gaps():
    log = truth((5, 0, [50, 60, 70]))

    for gaps in (None, [0.02]):
        figures = errors([Seen(5, 0.052, 0.011, gaps)], log)
        assert "gap_p50_ms" not in figures
        assert figures["ttft_p99_ms"] == pytest.approx(2)
        assert figures["mean_gap_p99_ms"] == pytest.approx(1)


def test_nothing_found_is_no_figure():
    assert errors([], truth((5, 0, [50]))) == {"found": 0}


@pytest.mark.parametrize(
    ("foreign", "tried", "chosen"),
    [([0.1], 1, 0.1), ([0.9, 0.2], 2, 0.2), ([0.9, 0.4, 0.7], 3, 0.4)],
)
def test_runs_are_repeated_until_one_is_undisturbed(foreign, tried, chosen):
    left = list(foreign)

    figures = calm(lambda: {"foreign": left.pop(0)}, limit=0.25)

    assert figures == {"foreign": chosen}
    assert len(foreign) - len(left) == tried


def test_the_command_shown_for_loadgen_is_the_one_run():
    command = compare.loadgen().command

    assert command.startswith("loadgen run --agents {streams} --backend vllm --base-url {url}")
    assert "--request-count {requests}" in command


def a_tool(title, *runs, **more):
    return {"title": title, "command": f"{title} {{url}}", "figures": list(runs), **more}


def document(*tools, repeats=1):
    return {
        "date": "2026-01-02",
        "revision": "abc123",
        "machine": {"cpu": "C", "cores": 2, "memory_gb": 24.0, "kernel": "6.1", "python": "3.11"},
        "asked": {
            "streams": 64, "seconds": 10.0, "kept": 1000, "repeats": repeats, "foreign": 0.25,
        },
        "tools": list(tools),
    }  # fmt: skip


def lines_of(text):
    """The lines of a table by their label."""
    return {line.split("|")[1].strip(): line for line in text.splitlines()}


def test_a_cell_is_a_median_with_its_range_and_a_ratio_to_bare():
    shown = lines_of(
        table(
            [
                a_tool("bare", {"token_us": 2.0}, {"token_us": 4.0}, {"token_us": 2.0}),
                a_tool("other", {"token_us": 20.0}, {"token_us": 20.0}, {"token_us": 30.0}),
                a_tool("failing"),
            ]
        )
    )

    assert shown[""] == "| | bare | other |"
    cost, ratio = "CPU per streamed token, µs", "… in units of `bare`, per token"
    assert shown[cost] == f"| {cost} | 2.00 [2.00..4.00] | 20.00 [20.00..30.00] |"
    assert shown[ratio] == f"| {ratio} | 1.0 | 10.0 [5.0..15.0] |"


def test_what_a_tool_does_not_tell_is_a_dash():
    run = {"ttft_p50_ms": 1.0, "ttft_p99_ms": 2.0, "gap_p50_ms": 3.0}
    shown = lines_of(table([a_tool("other", run)]))

    assert shown["TTFT error p50 / p99, ms"].endswith("| 1.000 / 2.000 |")
    assert shown["gap error p50 / p99, ms"].endswith("| – |")


def test_the_page_holds_the_figures_the_commands_and_who_is_missing():
    told = page(
        document(
            a_tool("bare", {"token_us": 2.0, "foreign": 0.125}),
            a_tool("gone 1.0", failed="not installed: a\n\nno room left\n"),
        )
    )

    assert "One run of each on 2026-01-02, revision abc123, 2 cores of C" in " ".join(told.split())
    assert "- gone 1.0: no room left" in told
    assert "bare {url}" in told
    assert "at most 0.12 cores in a run that counts.\n" in told
    assert "REPEATS" not in told


def test_a_page_of_a_busy_machine_says_so():
    busy = document(a_tool("bare", {"token_us": 2.0, "foreign": 0.5}), repeats=3)

    assert is_void(busy)
    assert "the figures are void" in page(busy)
    assert "3 runs of each, in turns, on" in " ".join(page(busy).split())
    assert "`make bench-compare REPEATS=3`" in page(busy)
    assert not is_void(document(a_tool("bare", {"foreign": 0.25})))
