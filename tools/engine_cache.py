"""Where engines that have to be built or installed first are kept, and the command that does it.

They lie under `$LOADSTONE_ENGINES` (default ~/.cache/loadstone/engines) by version, machine and
recipe, so that one is never taken for another; each appears there whole or not at all.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path


class EngineError(Exception):
    """The engine cannot be had here; its text says why."""


def place(name: str, recipe: str) -> Path:
    """The folder of engine `name` made by `recipe`, whether it is there or not."""
    root = os.environ.get("LOADSTONE_ENGINES") or Path.home() / ".cache" / "loadstone" / "engines"
    key = hashlib.sha256(recipe.encode()).hexdigest()[:8]
    kind = f"{platform.system().lower()}-{platform.machine()}-{key}"
    return Path(root).resolve() / name / kind


def command(words: list[str], says: str, target: Path, make: Callable[[Path], None]) -> int:
    """Make `target` unless it is there; with `--path` print where it is, 3 when it is not."""
    if words == ["--path"]:
        print(target)
        return 0 if target.exists() else 3
    if target.exists():
        return 0
    print(says, flush=True)
    begun = time.monotonic()
    try:
        _once(target, make)
    except (EngineError, OSError) as error:
        print(f"error: {target.name} is not there: {error}", file=sys.stderr)
        return 3
    print(f"{target}, in {time.monotonic() - begun:.0f} s")
    return 0


def _once(target: Path, make: Callable[[Path], None]) -> None:
    """Who comes while another makes it waits, and then finds it there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with (target.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            make(target)


def run(words: list[object], folder: Path | None = None) -> None:
    """Run a command politely; EngineError, after its last lines, when it fails."""
    done = subprocess.run(
        ["nice", "-n", "19", *map(str, words)],
        cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, errors="replace", check=False,
    )  # fmt: skip
    if done.returncode != 0:
        sys.stderr.write("\n".join(done.stdout.splitlines()[-15:]) + "\n")
        raise EngineError(f"{Path(str(words[0])).name} ended with {done.returncode}")
