"""The `agent` command as its users start it: real processes, real scrapes, a stub driver."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.config import SidecarConfig

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "agent"]
SERVES = re.compile(r"sidecar serves (http://127\.0\.0\.1:\d+)/metrics")


@pytest.fixture(scope="session")
def stub(tmp_path_factory):
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    library = tmp_path_factory.mktemp("nvml") / "libnvidia-ml.so.1"
    source = ROOT / "tests" / "golden" / "nvml_stub.c"
    flags = ["-shared", "-fPIC", "-Wl,-soname,libnvidia-ml.so.1"]
    subprocess.run([compiler, *flags, "-o", library, source], check=True)
    return library.parent


@pytest.fixture
def with_gpus(stub, tmp_path):
    """The environment of a machine with two GPUs; `tmp_path / "state"` scripts their errors."""
    return os.environ | {
        "LD_LIBRARY_PATH": str(stub),
        "NVML_STUB_STATE": str(tmp_path / "state"),
        "NVML_STUB_LOG": str(tmp_path / "log"),
    }


@pytest.fixture
def without_gpus(tmp_path):
    """The environment of a machine without a driver, whatever this one has."""
    (tmp_path / "libnvidia-ml.so.1").write_text("not a library")
    return os.environ | {"LD_LIBRARY_PATH": str(tmp_path)}


def agent(*words, env=None):
    return subprocess.run(
        [*COMMAND, *map(str, words)],
        cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def error_line(done):
    """The one line on stderr of a command that failed as it should."""
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: ")
    return done.stderr.removeprefix("error: ").rstrip()


@contextmanager
def running(*words, env):
    """A sidecar on a free port, its address, and what it said before that."""
    process = subprocess.Popen(
        [*COMMAND, "run", "--port", "0", *words],
        cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        said = ""
        while not (found := SERVES.search(said)):
            line = process.stderr.readline()
            assert line, said
            said += line
        yield process, found[1], said
    finally:
        process.kill()
        process.communicate()


def get(address):
    try:
        with urllib.request.urlopen(address, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_two_gpus_are_served_and_the_session_is_closed_on_sigterm(with_gpus, tmp_path):
    (tmp_path / "state").write_text("power 1 3")
    with running(env=with_gpus) as (process, address, _):
        status, text = get(f"{address}/metrics")
        assert status == 200
        assert 'loadstone_gpu_memory_used_bytes{gpu="0"} 6.442450944e+09\n' in text
        assert 'loadstone_gpu_utilization_ratio{gpu="1"} 1.0\n' in text
        assert 'loadstone_gpu_power_watts{gpu="0"} 71.25\n' in text
        assert 'loadstone_gpu_power_watts{gpu="1"}' not in text
        assert 'loadstone_probe_success{probe="gpu"} 1.0\n' in text
        assert get(f"{address}/-/ready") == (200, "host: ok; gpu: ok\n")
        assert get(f"{address}/-/healthy")[0] == 200
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=60) == (None, "")
        assert process.returncode == 143
    assert (tmp_path / "log").read_text().split() == ["init", "shutdown"]


def test_sigint_ends_with_130(with_gpus, tmp_path):
    with running(env=with_gpus) as (process, _, _):
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60) == (None, "")
        assert process.returncode == 130
    assert (tmp_path / "log").read_text().split() == ["init", "shutdown"]


def test_a_lost_gpu_takes_only_its_own_series(with_gpus, tmp_path):
    (tmp_path / "state").write_text("memory 1 15")
    with running(env=with_gpus) as (_, address, said):
        assert "(host: ok; gpu: GPU 1: GPU is lost)" in said
        _, text = get(f"{address}/metrics")
        assert 'loadstone_gpu_memory_used_bytes{gpu="0"}' in text
        assert 'gpu="1"' not in text
        assert 'loadstone_probe_success{probe="gpu"} 0.0\n' in text


def test_without_a_driver_the_host_is_served_and_the_gpu_probe_says_why(without_gpus):
    with running(env=without_gpus) as (_, address, said):
        assert "gpu: no NVIDIA driver" in said
        _, text = get(f"{address}/metrics")
        assert 'loadstone_probe_success{probe="gpu"} 0.0\n' in text
        assert 'loadstone_probe_success{probe="host"} 1.0\n' in text
        assert "\nloadstone_host_memory_total_bytes " in text
        assert "loadstone_gpu_" not in text
        status, text = get(f"{address}/-/ready")
        assert (status, text[:31]) == (200, "host: ok; gpu: no NVIDIA driver")


def test_a_driver_that_hangs_is_not_ready_and_does_not_hold_up_the_end(with_gpus, tmp_path):
    (tmp_path / "state").write_text("memory 0 -1")
    with running("--timeout", "0.3", env=with_gpus) as (process, address, said):
        assert said.startswith("warning: no reading yet: gpu within 0.3 s\n")
        assert get(f"{address}/-/ready") == (503, "no reading yet: gpu\n")
        process.send_signal(signal.SIGTERM)
        _, ending = process.communicate(timeout=60)
        assert process.returncode == 143
        assert ending.startswith("warning: a reading hangs in the driver")


def test_promtool_finds_nothing_to_complain_about(with_gpus):
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool")
    with running(env=with_gpus) as (_, address, _):
        _, text = get(f"{address}/metrics")
    checked = subprocess.run(
        [promtool, "check", "metrics"],
        input=text, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


def test_a_busy_port_is_exit_2_and_names_the_flag(without_gpus):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = agent("run", "--port", port, env=without_gpus)
    assert done.returncode == 2
    assert error_line(done).startswith(f"--port: cannot listen on 127.0.0.1:{port} (")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "--gpu-interval", "nan"], "argument --gpu-interval: 'nan' is not a finite num"),
        (["run", "--host-interval", "0"], "argument --host-interval: '0' is not a finite num"),
        (["run", "--port", "70000"], "argument --port: '70000' is not a whole number"),
        (["run", "--address", "::1"], "command line: address: "),
        (["run", "--config", "nowhere.yaml"], "nowhere.yaml: no such file"),
        (["once", "--timeout", "inf"], "argument --timeout: 'inf' is not a finite num"),
        ([], "no command given, allowed: run, once, check"),
    ],
)
def test_what_cannot_be_meant_is_one_line_and_exit_2(words, message):
    done = agent(*words)
    assert done.returncode == 2
    assert error_line(done).startswith(message)


def test_an_unknown_field_of_the_file_names_the_nearest_one(tmp_path):
    path = tmp_path / "sidecar.yaml"
    path.write_text("gpu_intervall: 0.5\n")
    done = agent("run", "--config", path)
    assert done.returncode == 2
    line = error_line(done)
    assert line.startswith(f"{path}: unknown field 'gpu_intervall', did you mean 'gpu_interval'?")


def test_once_prints_json_and_nothing_else(with_gpus, tmp_path):
    (tmp_path / "state").write_text("power 1 3")
    done = agent("once", "--json", env=with_gpus)
    assert (done.returncode, done.stderr) == (0, "")
    probes = json.loads(done.stdout)["probes"]
    assert [gpu["power_watts"] for gpu in probes["gpu"]["data"]] == [71.25, None]
    assert probes["gpu"]["health"]["ok"] is True
    assert probes["host"]["data"]["cpu_utilization_ratio"] is not None


def test_once_prints_a_table(with_gpus, tmp_path):
    (tmp_path / "state").write_text("power 1 3")
    lines = [line.split() for line in agent("once", env=with_gpus).stdout.splitlines()]
    assert ["GPU", "0", "Stub", "24GB,", "driver", "580.00.01"] in lines
    assert ["memory", "6.00", "GiB", "used,", "18.00", "GiB", "free", "of", "24.00", "GiB"] in lines
    assert ["power", "absent"] in lines


def test_once_tells_the_absent_from_the_measured(without_gpus):
    probes = json.loads(agent("once", "--json", env=without_gpus).stdout)["probes"]
    assert probes["gpu"]["data"] is None
    assert probes["gpu"]["health"]["ok"] is False
    assert probes["gpu"]["health"]["error"].startswith("no NVIDIA driver (")


def test_check_says_in_one_screen_what_is_there(with_gpus):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        busy = agent("check", "--port", port, env=with_gpus)
    assert busy.returncode == 0
    rows = dict(line.split(None, 1) for line in busy.stdout.splitlines()[:3])
    assert (rows["driver"], rows["GPUs"]) == (
        "580.00.01",
        "GPU 0: Stub 24GB, 24.00 GiB, GPU-00000000",
    )
    assert f"127.0.0.1:{port} cannot be taken (" in busy.stdout
    free = json.loads(agent("check", "--json", "--port", "0", env=with_gpus).stdout)
    assert (free["port_error"], free["gpu_error"], len(free["gpus"])) == (None, None, 2)


@pytest.mark.parametrize("command", [["check"], ["once"], ["run", "--port", "0"]])
def test_a_required_gpu_that_is_missing_is_exit_3(without_gpus, command):
    done = agent(*command, "--require-gpu", env=without_gpus)
    assert done.returncode == 3
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: require_gpu: no GPU can be read: no NVIDIA driver (")


def test_a_missing_gpu_nobody_requires_is_no_error(without_gpus):
    done = agent("check", "--port", "0", env=without_gpus)
    assert done.returncode == 0
    assert "no NVIDIA driver" in done.stdout


def test_help_names_the_defaults_and_imports_nothing_heavy():
    text = " ".join(agent("run", "--help").stdout.split())
    defaults = SidecarConfig()
    for name in ("address", "port", "gpu_interval", "host_interval"):
        flag = f"--{name.replace('_', '-')}"
        assert re.search(
            rf"{flag} [^(]*\(default {re.escape(str(getattr(defaults, name)))}\)", text
        )
    script = (
        "import sys\nfrom agent.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print(sorted({name.split('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    heavy = {"psutil", "prometheus_client", "pydantic", "yaml", "pynvml", "rich", "asyncio"}
    assert not heavy & set(eval(done.stdout.splitlines()[-1]))


def test_version():
    done = agent("--version")
    assert re.fullmatch(r"agent \d+\.\d+\.\d+\n", done.stdout)
