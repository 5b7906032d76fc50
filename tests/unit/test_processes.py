"""A process is told from another one that got its id later."""

import os
import subprocess
import sys

import psutil
import pytest

from contract.processes import started


def test_a_process_started_when_the_system_says_so():
    told = psutil.Process().create_time()
    assert started(os.getpid()) == pytest.approx(told, abs=1.5)


def test_a_name_that_looks_like_the_end_of_its_field_does_not_confuse(tmp_path):
    odd = tmp_path / "a) S 1 (b"
    odd.symlink_to(sys.executable)
    with subprocess.Popen([odd, "-c", "input()"], stdin=subprocess.PIPE) as process:
        told = psutil.Process(process.pid).create_time()
        assert started(process.pid) == pytest.approx(told, abs=1.5)
        process.communicate(b"\n")
    assert started(process.pid) is None
