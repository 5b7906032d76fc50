"""The sidecar's exporter against the metric table, in both directions."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from agent.config import SidecarConfig, resolve
from agent.export import families, registry, samples
from agent.probes.base import GpuData, Health, HostData, Snapshot
from contract.errors import ConfigError
from contract.metrics import METRICS

ROOT = Path(__file__).parents[2]
TABLE = {row.name: row for row in METRICS if row.source == "sidecar"}
GOOD = Health(True, None, 0.001, 1000.0, 1000.0, 3, 0)
HOST = Snapshot("host", HostData(100, 60, 5, 0.25, 1.5), GOOD)
GPU = GpuData("0", "Stub", "GPU-0", "580", 24, 18, 6, 0.37, 71.25)
GPUS = Snapshot("gpu", (GPU, replace(GPU, gpu="1", uuid="GPU-1", power_watts=None)), GOOD)


def exposed(*snapshots: Snapshot) -> dict[str, dict[tuple[str, ...], float]]:
    """Series by exposed name, then by label values, as a scraper parses them."""
    text = generate_latest(registry(lambda: snapshots, "1.2.3")).decode()
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sample.labels.values())] = sample.value
    return found


def _sorted_labels(match: re.Match[str]) -> str:
    return "{" + ",".join(sorted(match[0][1:-1].split(","))) + "}"


def test_every_row_of_the_table_is_exported_and_nothing_else():
    assert set(exposed(HOST, GPUS)) == set(TABLE)


def test_kinds_labels_and_help_are_the_tables():
    found = {row.name: row for row in TABLE.values()}
    for family in families(samples([HOST, GPUS], "1.2.3")):
        row = found.get(family.name) or found[f"{family.name}_total"]
        assert (family.type, family.documentation) == (row.kind, row.help)
        assert {tuple(s.labels) for s in family.samples} == {row.labels}


def test_values_arrive_where_they_belong():
    found = exposed(HOST, GPUS)
    assert found["loadstone_host_memory_available_bytes"] == {(): 60}
    assert found["loadstone_host_cpu_utilization_ratio"] == {(): 0.25}
    assert found["loadstone_gpu_memory_used_bytes"] == {("0",): 6, ("1",): 6}
    assert found["loadstone_gpu_power_watts"] == {("0",): 71.25}
    assert found["loadstone_probe_success"] == {("host",): 1, ("gpu",): 1}
    assert found["loadstone_sidecar_info"] == {("1.2.3",): 1}
    text = generate_latest(registry(lambda: [GPUS], "1.2.3")).decode()
    identity = 'driver="580",gpu="1",name="Stub",uuid="GPU-1"'
    assert f"loadstone_gpu_info{{{identity}}} 1.0" in re.sub(r"\{.*\}", _sorted_labels, text)


def test_a_failed_probe_shows_health_and_no_values():
    failed = Snapshot("gpu", None, Health(False, "lost", 0.002, 1000.0, 990.0, 9, 2))
    found = exposed(HOST, failed)
    assert [name for name in found if name.startswith("loadstone_gpu_")] == []
    assert found["loadstone_probe_success"] == {("host",): 1, ("gpu",): 0}
    assert found["loadstone_probe_failures_total"] == {("host",): 0, ("gpu",): 2}
    assert found["loadstone_probe_last_success_timestamp_seconds"][("gpu",)] == 990.0


def test_before_the_first_reading_only_the_failure_counter_exists():
    found = exposed(Snapshot("gpu"))
    assert found == {
        "loadstone_sidecar_info": {("1.2.3",): 1},
        "loadstone_probe_failures_total": {("gpu",): 0},
    }


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_no_number_is_absent(value):
    broken = Snapshot("host", HostData(100, 60, None, value, value), GOOD)
    found = exposed(broken)
    assert "loadstone_host_cpu_utilization_ratio" not in found
    assert "loadstone_host_load1" not in found
    assert "loadstone_host_swap_used_bytes" not in found
    assert found["loadstone_host_memory_total_bytes"] == {(): 100}


def test_a_name_outside_the_table_is_refused():
    with pytest.raises(KeyError):
        list(families([("gpu_fan_speed", ("0",), 1.0)]))


def test_the_documented_configuration_is_the_default_one():
    path = ROOT / "configs" / "sidecar.yaml"
    assert resolve(path, {}) == SidecarConfig()
    assert all(f"\n{name}: " in path.read_text() for name in SidecarConfig.model_fields)


def test_the_guide_explains_every_series():
    guide = (ROOT / "docs" / "sidecar.md").read_text()
    assert [name for name in TABLE if f"`{name}`" not in guide] == []


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("gpu_intervall: 1", "unknown field 'gpu_intervall', did you mean 'gpu_interval'?"),
        ("gpu_interval: .nan", "gpu_interval: Input should be a finite number"),
        ("host_interval: 0", "host_interval: Input should be greater than or equal to 0.1"),
        ("port: 70000", "port: Input should be less than or equal to 65535"),
        ("address: nowhere", "address: an IPv4 address or 'localhost' is wanted"),
        ("host_probe: false\ngpu_probe: false", "gpu_probe: host_probe and gpu_"),
        ("gpu_probe: false\nrequire_gpu: true", "require_gpu: needs gpu_probe"),
    ],
)
def test_a_mistake_in_the_file_is_one_line_with_field_and_remedy(tmp_path, document, message):
    path = tmp_path / "sidecar.yaml"
    path.write_text(document)
    with pytest.raises(ConfigError) as caught:
        resolve(path, {})
    assert str(caught.value).startswith(f"{path}: {message}")


def test_the_command_line_wins_over_the_file_and_is_checked_alike(tmp_path):
    path = tmp_path / "sidecar.yaml"
    path.write_text("port: 1\nhost_interval: 2")
    config = resolve(path, {"port": 0})
    assert (config.port, config.host_interval) == (0, 2.0)
    with pytest.raises(ConfigError, match=r"^command line: address: "):
        resolve(None, {"address": "::1"})
