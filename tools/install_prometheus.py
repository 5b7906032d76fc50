"""Install Debian's Prometheus when that is allowed; otherwise say the line that does, exit 3."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

LINE = "apt-get update && apt-get install -y --no-install-recommends prometheus"


def prefix() -> list[str] | None:
    """How to become root here without asking anybody; None when that is not possible."""
    if os.geteuid() == 0:
        return []
    quiet = ["sudo", "-n", "true"]
    if (
        shutil.which("sudo")
        and subprocess.run(quiet, check=False, capture_output=True).returncode == 0
    ):
        return ["sudo", "-n"]
    return None


def main() -> int:
    root = prefix()
    if root is None or shutil.which("apt-get") is None:
        print(f"error: prometheus and promtool are missing, install them: {LINE}", file=sys.stderr)
        return 3
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (
        ["apt-get", "update", "-qq"],
        ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "prometheus"],
    ):
        done = subprocess.run([*root, *command], env=environment, check=False, capture_output=True)
        if done.returncode != 0:
            sys.stderr.write(done.stderr.decode(errors="replace"))
            print(f"error: could not install prometheus, try: {LINE}", file=sys.stderr)
            return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
