"""Build llama.cpp's llama-server once, from the sdist of llama-cpp-python that carries its source.

    python -m tools.build_llama_server

`--path` prints where it is, with exit 3 when it is not there. Minutes on two cores, once;
llama_server.cmake says what keeps them few.
"""

from __future__ import annotations

import os
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path

from tools.engine_cache import EngineError, command, place, run

VERSION = "0.3.36"  # of llama-cpp-python
JOBS = 2
RECIPE = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DCMAKE_C_FLAGS_RELEASE=-O0 -DNDEBUG",  # what computes is optimised by CHEAPER
    "-DCMAKE_CXX_FLAGS_RELEASE=-O0 -DNDEBUG",
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
    "-DLLAMA_ALL_WARNINGS=OFF",
)
CHEAPER = Path(__file__).with_name("llama_server.cmake")


def binary() -> Path:
    """Where this version's llama-server belongs, whether it is there or not."""
    recipe = "\n".join((*RECIPE, CHEAPER.read_text()))
    return place(f"llama-server-{VERSION}", recipe) / "llama-server"


def build(target: Path) -> None:
    """Put llama-server at `target`."""
    with tempfile.TemporaryDirectory(prefix="building-", dir=target.parent) as folder:
        made = _compiled(_source(Path(folder)), _tools(Path(folder)))
        run([made, "--version"])
        os.replace(made, target)


def _source(folder: Path) -> Path:
    """llama.cpp's source, out of the sdist."""
    pip = (sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check")
    wanted = ("--no-deps", "--no-binary", "llama-cpp-python", f"llama-cpp-python=={VERSION}")
    run([*pip, "-d", folder, *wanted])
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(folder / "source", filter="data")
    archive.unlink()
    (source,) = (folder / "source").glob("*/vendor/llama.cpp")
    return source


def _tools(folder: Path) -> tuple[str, str]:
    """cmake and ninja: the system's, or their wheels in a folder that goes with the build."""
    if shutil.which("c++") is None:
        raise EngineError("no C++ compiler; on Debian: apt-get install g++")
    found = shutil.which("cmake"), shutil.which("ninja")
    if found[0] and found[1]:
        return found[0], found[1]
    wheels = folder / "tools"
    pip = (sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check")
    run([*pip, "--target", wheels, "cmake", "ninja"])
    return str(wheels / "cmake/data/bin/cmake"), str(wheels / "bin/ninja")


def _compiled(source: Path, tools: tuple[str, str]) -> Path:
    cmake, ninja = tools
    named = f"-DCMAKE_MAKE_PROGRAM={ninja}", f"-DCMAKE_PROJECT_llama.cpp_INCLUDE={CHEAPER}"
    run([cmake, "-G", "Ninja", "-B", "build", *RECIPE, *named, "."], source)
    run([ninja, "-C", "build", f"-j{JOBS}", "llama-server"], source)
    made = source / "build/bin/llama-server"
    run(["strip", made])
    return made


if __name__ == "__main__":
    says = f"building llama-server of llama-cpp-python {VERSION}: minutes, once"
    sys.exit(command(sys.argv[1:], says, binary(), build))
