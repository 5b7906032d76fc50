"""Build llama.cpp's llama-server once, from the sdist of llama-cpp-python that carries its source.

The binary goes to `$LOADSTONE_ENGINES` (default ~/.cache/loadstone/engines) under its version,
machine and recipe, so that a build is never taken for another; it appears there whole or not at
all. `--path` prints where it is, with exit 3 when it is not there. Some eight minutes on two cores.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

VERSION = "0.3.36"  # of llama-cpp-python
JOBS = 2
RECIPE = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DCMAKE_C_FLAGS_RELEASE=-O2 -DNDEBUG",
    "-DCMAKE_CXX_FLAGS_RELEASE=-O2 -DNDEBUG",
    "-DBUILD_SHARED_LIBS=OFF",
    "-DGGML_NATIVE=OFF",  # a cache may travel to another machine
    "-DGGML_AVX512=OFF",
    "-DGGML_CCACHE=OFF",
    "-DLLAMA_BUILD_UI=OFF",  # these two: its pages would be fetched from the network
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_APP=OFF",
)


class BuildError(Exception):
    """The build cannot be done here; its text says why."""


def binary() -> Path:
    """Where this version's llama-server belongs, whether it is there or not."""
    root = os.environ.get("LOADSTONE_ENGINES") or Path.home() / ".cache" / "loadstone" / "engines"
    recipe = hashlib.sha256("\n".join(RECIPE).encode()).hexdigest()[:8]
    kind = f"{platform.system().lower()}-{platform.machine()}-{recipe}"
    return Path(root).resolve() / f"llama-server-{VERSION}" / kind / "llama-server"


def build(target: Path) -> None:
    """Put llama-server at `target`; waits for another build of it and then finds it there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with (target.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if target.exists():
            return
        with tempfile.TemporaryDirectory(prefix="building-", dir=target.parent) as folder:
            made = _compiled(_source(Path(folder)), _tools(Path(folder)))
            _run([made, "--version"])
            os.replace(made, target)


def _source(folder: Path) -> Path:
    """llama.cpp's source, out of the sdist."""
    pip = (sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check")
    wanted = ("--no-deps", "--no-binary", "llama-cpp-python", f"llama-cpp-python=={VERSION}")
    _run([*pip, "-d", folder, *wanted])
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(folder / "source", filter="data")
    archive.unlink()
    (source,) = (folder / "source").glob("*/vendor/llama.cpp")
    return source


def _tools(folder: Path) -> tuple[str, str]:
    """cmake and ninja: the system's, or their wheels in a folder that goes with the build."""
    if shutil.which("c++") is None:
        raise BuildError("no C++ compiler; on Debian: apt-get install g++")
    found = shutil.which("cmake"), shutil.which("ninja")
    if found[0] and found[1]:
        return found[0], found[1]
    wheels = folder / "tools"
    pip = (sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check")
    _run([*pip, "--target", wheels, "cmake", "ninja"])
    return str(wheels / "cmake/data/bin/cmake"), str(wheels / "bin/ninja")


def _compiled(source: Path, tools: tuple[str, str]) -> Path:
    cmake, ninja = tools
    _run(
        [cmake, "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}", "-B", "build", *RECIPE, "."], source
    )
    _run([ninja, "-C", "build", f"-j{JOBS}", "llama-server"], source)
    made = source / "build/bin/llama-server"
    _run(["strip", made])
    return made


def _run(command: list[object], folder: Path | None = None) -> None:
    """Run it politely; BuildError with its last lines when it fails."""
    done = subprocess.run(
        ["nice", "-n", "19", *map(str, command)],
        cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, errors="replace", check=False,
    )  # fmt: skip
    if done.returncode != 0:
        sys.stderr.write("\n".join(done.stdout.splitlines()[-15:]) + "\n")
        raise BuildError(f"{Path(str(command[0])).name} ended with {done.returncode}")


def main(words: list[str]) -> int:
    target = binary()
    if words == ["--path"]:
        print(target)
        return 0 if target.exists() else 3
    if target.exists():
        return 0
    print(f"building llama-server of llama-cpp-python {VERSION}: minutes, once", flush=True)
    begun = time.monotonic()
    try:
        build(target)
    except (BuildError, OSError) as error:
        print(f"error: llama-server was not built: {error}", file=sys.stderr)
        return 3
    print(f"{target}, in {time.monotonic() - begun:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
