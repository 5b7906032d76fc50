"""The probes: the host as it is, GPUs through the real pynvml over a stub of the driver."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from agent.probes.host import HostProbe, busy_ratio

ROOT = Path(__file__).parents[2]
GIB = 2**30

# Writes each argument into the stub's state file, takes one reading, prints it as one line.
SCRIPT = """
import json, os, sys
from dataclasses import asdict
from pathlib import Path
from agent.probes.gpu import GpuProbe
from contract.errors import ProbeError

probe = GpuProbe()
for state in sys.argv[1:]:
    Path(os.environ["NVML_STUB_STATE"]).write_text(state.replace(",", "\\n"))
    try:
        reading = probe.sample()
        print(json.dumps({"gpus": [asdict(g) for g in reading.data], "faults": reading.faults}))
    except ProbeError as error:
        print(json.dumps({"error": str(error)}))
probe.close()
"""


@pytest.fixture(scope="session")
def stub(tmp_path_factory):
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    library = tmp_path_factory.mktemp("nvml") / "libnvidia-ml.so.1"
    source = ROOT / "tests" / "golden" / "nvml_stub.c"
    flags = ["-O1", "-shared", "-fPIC", "-Wall", "-Werror", "-Wl,-soname,libnvidia-ml.so.1"]
    subprocess.run([compiler, *flags, "-o", library, source], check=True)
    return library.parent


def readings(tmp_path, library_folder, *states):
    """One reading per state of the stub, and the sessions opened and closed meanwhile."""
    log = tmp_path / "log"
    log.touch()
    environment = os.environ | {
        "LD_LIBRARY_PATH": str(library_folder),
        "NVML_STUB_STATE": str(tmp_path / "state"),
        "NVML_STUB_LOG": str(log),
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *states],
        env=environment, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    return [json.loads(line) for line in done.stdout.splitlines()], log.read_text().split()


def test_two_gpus_in_bytes_watts_and_ratios(tmp_path, stub):
    (reading,), sessions = readings(tmp_path, stub, "")
    assert reading["faults"] == []
    assert reading["gpus"] == [
        {
            "gpu": "0", "name": "Stub 24GB", "uuid": "GPU-00000000", "driver": "580.00.01",
            "memory_total_bytes": 24 * GIB, "memory_free_bytes": 18 * GIB,
            "memory_used_bytes": 6 * GIB, "utilization_ratio": 0.37, "power_watts": 71.25,
        },
        {
            "gpu": "1", "name": "Stub 16GB", "uuid": "GPU-00000001", "driver": "580.00.01",
            "memory_total_bytes": 16 * GIB, "memory_free_bytes": 1 * GIB,
            "memory_used_bytes": 15 * GIB, "utilization_ratio": 1.0, "power_watts": 250.0,
        },
    ]  # fmt: skip
    assert sessions == ["init", "shutdown"]


@pytest.mark.parametrize("code", [3, 4, 13])
def test_an_unsupported_value_is_absent_alone(tmp_path, stub, code):
    (reading,), _ = readings(tmp_path, stub, f"power 1 {code}")
    assert [gpu["power_watts"] for gpu in reading["gpus"]] == [71.25, None]
    assert reading["gpus"][1]["memory_used_bytes"] == 15 * GIB
    assert reading["faults"] == []


def test_unsupported_memory_takes_its_three_values(tmp_path, stub):
    (reading,), _ = readings(tmp_path, stub, "memory 0 3,utilization 0 3,name 0 3")
    first = reading["gpus"][0]
    assert {first[f"memory_{part}_bytes"] for part in ("total", "free", "used")} == {None}
    assert (first["utilization_ratio"], first["name"]) == (None, "")
    assert first["power_watts"] == 71.25


def test_a_lost_gpu_is_left_out_named_and_comes_back(tmp_path, stub):
    (before, lost, after), sessions = readings(tmp_path, stub, "", "memory 1 15", "")
    assert [gpu["gpu"] for gpu in lost["gpus"]] == ["0"]
    assert lost["faults"] == ["GPU 1: GPU is lost"]
    assert after == before
    assert sessions == ["init", "shutdown"]


def test_a_gpu_lost_before_the_start_leaves_the_other(tmp_path, stub):
    (reading,), _ = readings(tmp_path, stub, "handle 0 15")
    assert [gpu["gpu"] for gpu in reading["gpus"]] == ["1"]
    assert reading["faults"] == ["GPU 0: GPU is lost"]


def test_an_unloaded_driver_is_named_and_found_again(tmp_path, stub):
    (missing, found), sessions = readings(tmp_path, stub, "init 0 9", "")
    assert missing == {"error": "no NVIDIA driver (Driver Not Loaded)"}
    assert len(found["gpus"]) == 2
    assert sessions == ["init", "shutdown"]


def test_a_driver_that_goes_away_ends_the_session_and_a_new_one_is_opened(tmp_path, stub):
    (_, gone, back), sessions = readings(tmp_path, stub, "", "memory 0 9", "")
    assert gone == {"error": "no NVIDIA driver (Driver Not Loaded)"}
    assert len(back["gpus"]) == 2
    assert sessions == ["init", "shutdown", "init", "shutdown"]


def test_a_listing_that_fails_closes_the_session(tmp_path, stub):
    (reading,), sessions = readings(tmp_path, stub, "count 0 15")
    assert reading == {"error": "NVML lists no GPUs (GPU is lost)"}
    assert sessions == ["init", "shutdown"]


def test_a_file_that_is_no_driver_library_is_a_health_state(tmp_path):
    (tmp_path / "libnvidia-ml.so.1").write_text("not a library")
    (reading,), sessions = readings(tmp_path, tmp_path, "")
    assert reading["error"].startswith("no NVIDIA driver (")
    assert sessions == []


def test_the_host_reads_itself():
    probe = HostProbe()
    first, second = probe.sample().data, probe.sample().data
    assert first.cpu_utilization_ratio is None
    assert second.cpu_utilization_ratio is None or 0 <= second.cpu_utilization_ratio <= 1
    assert second.memory_total_bytes == psutil.virtual_memory().total
    assert 0 < second.memory_available_bytes <= second.memory_total_bytes
    assert second.load1 >= 0


def test_a_closed_host_probe_starts_its_difference_anew():
    probe = HostProbe()
    probe.sample()
    probe.close()
    assert probe.sample().data.cpu_utilization_ratio is None


class Times(tuple):
    """As psutil gives them: a tuple of every field, by name too."""

    def __new__(cls, **values):
        times = super().__new__(cls, values.values())
        times.__dict__.update(values)
        return times


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({"user": 10, "idle": 90}, {"user": 13, "idle": 97}, 0.3),
        ({"user": 0, "idle": 0, "iowait": 0}, {"user": 1, "idle": 1, "iowait": 2}, 0.25),
        ({"user": 0, "idle": 0, "guest": 0}, {"user": 4, "idle": 4, "guest": 4}, 0.5),
        ({"user": 5, "idle": 5}, {"user": 5, "idle": 5}, None),
        ({"user": 5, "idle": 5.1}, {"user": 6, "idle": 5}, 1.0),
    ],
)
def test_busy_share_counts_disk_waits_as_idle_and_guests_once(before, after, expected):
    ratio = busy_ratio(Times(**before), Times(**after))
    assert ratio == (None if expected is None else pytest.approx(expected))


def test_a_tuple_of_psutil_fits_the_formula():
    times = psutil.cpu_times()
    later = SimpleNamespace(**times._asdict())
    later.idle += 10
    assert busy_ratio(times, Times(**vars(later))) == pytest.approx(0.0)
