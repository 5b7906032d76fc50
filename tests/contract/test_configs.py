"""Every shipped run configuration is valid, and the default one says what the code does."""

from pathlib import Path

import pytest

from contract.config import load_yaml, validate
from loadgen.config import RunConfig

RUNS = Path(__file__).parents[2] / "configs" / "runs"


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
