"""Run the README's tour for real and put its output where it belongs.

Every block between `<!-- tour: COMMAND -->` and `<!-- end -->` is replaced by that command and
what it printed. The commands run in a scratch folder, in the order of the page.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

README = Path(__file__).resolve().parent.parent / "README.md"
BLOCK = re.compile(r"(<!-- tour: (.+?) -->\n).*?(<!-- end -->)", re.DOTALL)
WIDTH = 130


def output_of(command: str, folder: str) -> str:
    """What the command printed on stdout, and its warnings; long lines are cut."""
    done = subprocess.run(
        [sys.executable, "-m", *shlex.split(command)], cwd=folder, check=False, text=True,
        capture_output=True, env={**os.environ, "NO_COLOR": "1"},
    )  # fmt: skip
    if done.returncode != 0:
        raise SystemExit(f"{command}: exit {done.returncode}\n{done.stderr}")
    lines = done.stdout.rstrip().splitlines()
    return "\n".join(line if len(line) <= WIDTH else f"{line[: WIDTH - 1]}…" for line in lines)


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:

        def fill(match: re.Match[str]) -> str:
            command = match[2]
            print(f"$ {command}", flush=True)
            return f"{match[1]}```\n$ {command}\n{output_of(command, folder)}\n```\n{match[3]}"

        README.write_text(BLOCK.sub(fill, README.read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
