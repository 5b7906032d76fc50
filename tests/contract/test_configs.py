"""Every shipped run configuration is valid, and each kind of mistake has its one line."""

import re
from pathlib import Path

import pytest

from contract.config import validate
from contract.yaml_file import load_yaml
from loadgen.cli import main
from loadgen.config import RunConfig

RUNS = Path(__file__).parents[2] / "configs" / "runs"
# A mistake each; the first line is the error it ends with, `…` standing for any text.
BAD = Path(__file__).parents[1] / "golden" / "configs"


@pytest.mark.parametrize("file", sorted(RUNS.glob("*.yaml")), ids=lambda file: file.name)
def test_a_shipped_configuration_is_valid(file):
    assert validate(RunConfig, load_yaml(file), where=file.name).agents


def test_the_default_file_is_what_no_arguments_mean():
    written = validate(RunConfig, load_yaml(RUNS / "default.yaml"))
    assert written == validate(RunConfig, {})
    assert set(load_yaml(RUNS / "default.yaml")) <= set(RunConfig.model_fields)


def test_the_hash_of_a_configuration_tells_two_apart():
    one, other = validate(RunConfig, {}), validate(RunConfig, {"seed": 1})
    assert one.sha256() == validate(RunConfig, {}).sha256() != other.sha256()


@pytest.mark.usefixtures("_own_signals")
@pytest.mark.parametrize("file", sorted(BAD.glob("*.bad.yaml")), ids=lambda file: file.stem)
def test_a_mistake_is_one_line_and_exit_2(file, monkeypatch, capsys):
    """Before anything is asked, bound or written."""
    monkeypatch.chdir(BAD)
    before = set(BAD.iterdir())
    assert main(["run", "--config", file.name]) == 2
    said = capsys.readouterr()
    expected = file.read_text().partition("\n")[0].removeprefix("# ")
    assert expected.startswith("error: ")
    assert re.fullmatch(".*".join(map(re.escape, expected.split("…"))) + "\n", said.err), said.err
    assert said.out == ""
    assert set(BAD.iterdir()) == before
