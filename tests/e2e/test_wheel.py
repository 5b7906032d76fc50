"""What a wheel holds is enough: the commands work outside the checkout."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def installed(tmp_path_factory):
    """A folder into which the built wheel was installed, without its dependencies."""
    scratch = tmp_path_factory.mktemp("wheel")
    source = scratch / "source"
    ignored = shutil.ignore_patterns(".*", "runs", "tests", "build", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, source, ignore=ignored)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", scratch]
    subprocess.run([*build, source], check=True, capture_output=True)
    wheel = next(scratch.glob("loadstone-*.whl"))
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "-q"]
    subprocess.run([*pip, "--target", scratch / "site", wheel], check=True, capture_output=True)
    return scratch / "site"


def from_wheel(installed, folder, *words):
    environment = os.environ | {"PYTHONPATH": str(installed)}
    environment["LOADSTONE_CACHE"] = str(folder / "models")
    return subprocess.run(
        [sys.executable, "-m", *words],
        cwd=folder, env=environment, text=True, capture_output=True, check=False, timeout=240,
    )  # fmt: skip


def test_the_wheel_is_what_runs(installed, tmp_path):
    code = "import analysis, loadgen, agent, contract; print(analysis.__file__)"
    environment = os.environ | {"PYTHONPATH": str(installed)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, text=True,
                          capture_output=True, check=True)  # fmt: skip
    assert done.stdout.startswith(str(installed))
    names = {entry.name for entry in installed.iterdir()}
    assert {"agent", "analysis", "contract", "loadgen"} <= names
    assert "tests" not in names
    assert "tools" not in names


def test_the_whole_loop_runs_from_the_wheel(installed, tmp_path):
    run = from_wheel(installed, tmp_path, "loadgen", "run", "--model", "tiny-gpt2", "--agents",
                     "1..4", "--duration", "1", "--metrics-port", "0")  # fmt: skip
    assert run.returncode == 0, run.stderr
    fit = from_wheel(installed, tmp_path, "analysis", "fit", "--include-failed-verdicts")
    assert fit.returncode == 0, fit.stderr
    plan = from_wheel(installed, tmp_path, "analysis", "plan", "--model-size", "3b",
                      "--request-rate", "2", "--models", "fitted_models.json")  # fmt: skip
    assert plan.returncode == 0, plan.stderr
    assert "tiny-gpt2" in plan.stdout
    assert "llama3.2-3b" in plan.stdout
    sidecar = from_wheel(installed, tmp_path, "agent", "once", "--json")
    assert sidecar.returncode == 0, sidecar.stderr
