"""What a run has loaded by the time its first requests go out, and what only once they are over."""

import re
import subprocess
import sys

import pytest

HEAVY = {"numpy", "scipy", "pandas", "pyarrow", "matplotlib", "torch", "transformers", "tokenizers"}
UNUSED = {"rich", "yaml", "psutil", "loadgen.workload.file_sources", "loadgen.commands.dry_run"}
LATER = {"loadgen.figures.summary", "loadgen.figures.stage_end", "loadgen.files.close"}


@pytest.fixture
def loaded(fake, tmp_path):
    """The modules of a run before its first stage, and those after."""
    load = ("--agents", "2", "--request-count", "4", "--isl", "8", "--osl", "2")
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "loadgen", "run", *load, "--backend", "openai",
         "--base-url", fake(), "--metrics-port", "0"],
        capture_output=True, text=True, check=True, timeout=60, cwd=tmp_path,
    )  # fmt: skip
    return [set(re.findall(r"\| +([\w.]+)$", part, re.M)) for part in done.stderr.split("stage 1 ")]


def test_requests_wait_for_nothing_that_a_sender_has_no_use_for(loaded):
    before, after = loaded
    assert "loadgen.engine" in before
    assert not before & (HEAVY | UNUSED | LATER)
    assert after >= LATER
