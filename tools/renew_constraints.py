"""Renew constraints.txt for all extras, platforms and Python versions (needs `uv` on the PATH).

The pins below are the versions the project was measured with; everything else is resolved
around them. Without find-links: a lock that says `+cpu` would not install elsewhere.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

PINS = """\
torch==2.13.0
transformers==5.23.0
aiohttp==3.14.5
orjson==3.13.0
uvloop==0.23.0
rich==15.0.0
numpy==2.4.6
scipy==1.17.1
statsmodels==0.15.0
pyarrow==26.0.1
matplotlib==3.11.2
ruff==0.17.5
mypy==2.4.1
pytest==9.2.0
pytest-asyncio==1.5.0
hypothesis==6.170.15
import-linter==2.16
ray==2.60.0
"""
HEADER = """\
# Versions the project is tested with. Used as -c, never as -r: it holds every extra and platform.
# Renewed by `make constraints` (uv pip compile --universal).
"""


def main() -> int:
    environment = {k: v for k, v in os.environ.items() if "FIND_LINKS" not in k}
    with tempfile.TemporaryDirectory() as folder:
        pins, out = Path(folder) / "pins.txt", Path(folder) / "out.txt"
        pins.write_text(PINS)
        command = ["uv", "pip", "compile", "-q", "--universal", "--python-version", "3.11",
                   "--all-extras", "--no-annotate", "--no-header", "-c", str(pins),
                   "pyproject.toml", "-o", str(out)]  # fmt: skip
        done = subprocess.run(command, env=environment, check=False)
        if done.returncode == 0:
            Path("constraints.txt").write_text(HEADER + out.read_text())
        return done.returncode


if __name__ == "__main__":
    sys.exit(main())
