"""Generate docs/metrics.md and docs/cli.md from the code; `--check` exits 1 when they are stale."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

os.environ["COLUMNS"] = "100"  # argparse wraps its help to this

from contract.metrics import METRICS

DOCS = Path(__file__).resolve().parent.parent / "docs"


def metrics() -> str:
    lines = [
        "# Metrics",
        "",
        "Generated from `contract/metrics.py` by `make docs`. Base units, ratios 0..1; label sets",
        "of counters are created at 0, so that `increase()` sees their first step.",
    ]
    for source, title in (
        ("loadgen", "`loadgen run`, port 9210"),
        ("sidecar", "`agent run`, port 9211"),
    ):
        lines += [
            "",
            f"## {title}",
            "",
            "| metric | kind | labels | meaning |",
            "|---|---|---|---|",
        ]
        for row in METRICS:
            if row.source == source:
                labels = ", ".join(row.labels) or "-"
                lines.append(f"| `{row.name}` | {row.kind} | {labels} | {row.help} |")
        for row in METRICS:
            if row.source == source and row.buckets:
                bounds = " ".join(f"{bound:g}" for bound in row.buckets)
                lines += ["", f"Buckets of `{row.name}`: {bounds}"]
    return "\n".join(lines) + "\n"


def commands() -> str:
    from agent.cli import build_parser as agent
    from analysis.cli import build_parser as analysis
    from loadgen.cli import build_parser as loadgen

    lines = ["# Command lines", "", "Generated from `--help` by `make docs`."]
    for build in (loadgen, agent, analysis):
        lines += _help(build(), 2)
    return "\n".join(lines) + "\n"


def _help(parser: argparse.ArgumentParser, depth: int) -> list[str]:
    lines = ["", f"{'#' * depth} `{parser.prog}`", "", "```", parser.format_help().strip(), "```"]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for sub in action.choices.values():
                lines += _help(sub, depth + 1)
    return lines


def main() -> int:
    stale = []
    for name, text in (("metrics.md", metrics()), ("cli.md", commands())):
        file = DOCS / name
        if "--check" not in sys.argv:
            file.write_text(text)
        elif not file.exists() or file.read_text() != text:
            stale.append(name)
    if stale:
        print(f"error: stale, run `make docs`: {', '.join(stale)}", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
