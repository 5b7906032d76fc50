"""CPU seconds before a command answers: user + sys, minimum of 7, warm cache.

Beside each figure stands its ratio to a bare interpreter of the same run, because absolute
milliseconds belong to this machine. Exit 1 when a budget is missed.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys

BUDGET_MS = 100.0
REPEATS = 7
COMMANDS = {
    "loadgen --help": ["-m", "loadgen", "--help"],
    "agent --help": ["-m", "agent", "--help"],
    "analysis --help": ["-m", "analysis", "--help"],
    "analysis plan --model-size 3b --request-rate 2 --budget 50": [
        "-m", "analysis", "plan", "--model-size", "3b", "--request-rate", "2", "--budget", "50",
    ],
}  # fmt: skip


def cpu_ms(arguments: list[str]) -> float:
    """User and system milliseconds of one run of this interpreter with `arguments`."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": ""},
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return 1e3 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def least(arguments: list[str]) -> float:
    cpu_ms(arguments)  # warm the caches
    return min(cpu_ms(arguments) for _ in range(REPEATS))


def main() -> int:
    bare = least(["-c", "pass"])
    print(f"{'a bare interpreter':60} {bare:6.0f} ms")
    missed = 0
    for name, arguments in COMMANDS.items():
        took = least(arguments)
        missed += took > BUDGET_MS
        verdict = "ok" if took <= BUDGET_MS else f"over {BUDGET_MS:.0f} ms"
        print(f"{name:60} {took:6.0f} ms  {took / bare:4.1f} x bare  {verdict}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
