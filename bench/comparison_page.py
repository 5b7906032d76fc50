"""The figures of `bench.compare` as a table and as a page; pure text, nothing is measured here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

Tool = dict[str, Any]
PAGE = Path(__file__).with_suffix(".md")


@dataclass(frozen=True)
class Row:
    """A line of the table: figures by name, side by side; `relative` to the tool called bare."""

    label: str
    names: tuple[str, ...]
    digits: int = 2
    relative: bool = False

    def cell(self, tool: Tool, floor: Tool) -> str:
        """The tool's figures; a dash when it lacks one."""
        shown = [self.spread(self.values(name, tool, floor)) for name in self.names]
        return " / ".join(shown) if all(shown) else "–"

    def values(self, name: str, tool: Tool, floor: Tool) -> list[float]:
        """One value per run, of the runs that have it."""
        if not self.relative:
            return [run[name] for run in tool["figures"] if name in run]
        pairs = zip(tool["figures"], floor["figures"], strict=False)
        return [run[name] / least[name] for run, least in pairs if name in run and name in least]

    def spread(self, values: list[float]) -> str:
        """The median, and the range when there is one; empty when there is nothing."""
        if not values:
            return ""

        def said(value: float) -> str:
            return f"{value:,.{self.digits}f}"

        low, high = min(values), max(values)
        return said(median(values)) + (f" [{said(low)}..{said(high)}]" if low != high else "")


ROWS = (
    Row("CPU per streamed token, µs", ("token_us",)),
    Row("… in units of `bare`, per token", ("token_us",), 1, relative=True),
    Row("… with all it does after the last byte, µs", ("token_to_end_us",)),
    Row("CPU per request of a 1-token reply, µs", ("request_us",), 0),
    Row("… in units of `bare`, per request", ("request_us",), 1, relative=True),
    Row("tokens/s reached", ("tokens_per_second",), 0),
    Row("TTFT error p50 / p99, ms", ("ttft_p50_ms", "ttft_p99_ms"), 3),
    Row("gap error p50 / p99, ms", ("gap_p50_ms", "gap_p99_ms"), 3),
    Row("error of a request's mean gap p50 / p99, ms", ("mean_gap_p50_ms", "mean_gap_p99_ms"), 3),
    Row("cores it took for these 6,400 tokens/s", ("paced_cores",)),
    Row("start to first request: CPU s / wall s", ("start_cpu_s", "start_s"), 1),
    Row("memory, peak PSS of all processes, MB", ("peak_mb",), 0),
    Row("processes, most at once", ("processes",), 0),
    Row("connections opened for 64 streams", ("connections",), 0),
)


def table(tools: list[Tool]) -> str:
    """Markdown: a line per figure, a column per tool that has figures."""
    told = [tool for tool in tools if tool["figures"]]
    floor = next((tool for tool in told if tool["title"] == "bare"), {"figures": []})
    lines = [
        "| | " + " | ".join(tool["title"] for tool in told) + " |",
        "|---|" + "---:|" * len(told),
    ]
    lines += [
        f"| {row.label} | " + " | ".join(row.cell(tool, floor) for tool in told) + " |"
        for row in ROWS
    ]
    return "\n".join(lines)


def page(document: dict[str, Any]) -> str:
    """docs/comparison.md."""
    tools, asked, machine = document["tools"], document["asked"], document["machine"]
    several = asked["repeats"] > 1
    failed = [
        f"- {tool['title']}: {last_line(tool['failed'])}" for tool in tools if "failed" in tool
    ]
    missing = "\n\nNot in the table, or not in all of its runs:\n\n" + "\n".join(failed)
    return PAGE.read_text().format(
        date=document["date"],
        revision=document["revision"],
        streams=asked["streams"],
        kept=asked["kept"],
        seconds=asked["seconds"],
        repeats=f"{asked['repeats']} runs of each, in turns," if several else "One run of each",
        flag=f" REPEATS={asked['repeats']}" if several else "",
        range=" Medians, with the range of the runs in brackets." if several else "",
        worst=f"{disturbance(document):.2f}",
        void=" **That is too much: the figures are void.**" if is_void(document) else "",
        table=table(tools),
        missing=missing if failed else "",
        commands="\n".join(tool["command"] for tool in tools if tool["command"]),
        **machine,
    )


def disturbance(document: dict[str, Any]) -> float:
    """The most cores that others took in a run that counts."""
    runs = [run for tool in document["tools"] for run in tool["figures"]]
    return max((float(run["foreign"]) for run in runs), default=0.0)


def is_void(document: dict[str, Any]) -> bool:
    """Whether the machine was too busy for any of the figures."""
    return disturbance(document) > document["asked"]["foreign"]


def last_line(text: str) -> str:
    """What a failing tool said at its end."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")
