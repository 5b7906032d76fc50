import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from analysis.planner.candidates import Asked, catalog_candidates, left_out
from analysis.planner.catalog import chosen, load_catalog
from contract.errors import ConfigError

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "tools" / "compile_catalog.py"
CLASSES = {"measured", "fitted", "published", "prior", "extrapolated"}


def compile_catalog(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(TOOL), *arguments], capture_output=True, text=True, check=False
    )


def values_in(tree: object, where: str = "") -> list[tuple[str, dict[str, object]]]:
    if not isinstance(tree, dict):
        return []
    if "value" in tree:
        return [(where, tree)]
    return [pair for key, each in tree.items() for pair in values_in(each, f"{where}/{key}")]


def test_packaged_catalog_is_what_the_sources_compile_to() -> None:
    assert compile_catalog("--check").returncode == 0


def test_a_changed_source_is_drift(tmp_path: Path) -> None:
    for name in ("hardware.yaml", "models.yaml"):
        text = (ROOT / "configs" / name).read_text()
        (tmp_path / name).write_text(text.replace("hourly: 0.060", "hourly: 0.061"))
    done = compile_catalog("--check", "--configs", str(tmp_path))
    assert done.returncode == 1
    assert "catalog.json differs" in done.stderr


def test_a_value_without_a_source_does_not_compile(tmp_path: Path) -> None:
    hardware = (ROOT / "configs" / "hardware.yaml").read_text()
    (tmp_path / "hardware.yaml").write_text(hardware.replace(', source: "TR133 appendix B"}', "}"))
    (tmp_path / "models.yaml").write_text((ROOT / "configs" / "models.yaml").read_text())
    done = compile_catalog("--check", "--configs", str(tmp_path))
    assert done.returncode == 1
    assert "hardware[RTX 4060 8GB].memory: no source" in done.stderr


def test_every_number_has_unit_class_source_and_date() -> None:
    found = values_in(load_catalog().tables)
    assert len(found) > 180
    for where, value in found:
        assert value["class"] in CLASSES, where
        assert all(value[field] for field in ("unit", "source", "date")), where


def test_tables_are_complete() -> None:
    tables = load_catalog().tables
    assert len(tables["hardware"]) >= 15
    assert len(tables["throughput"]) == 23
    assert len(tables["quality"]) == 35
    assert len(tables["step_time"]) == 6
    assert len(tables["models"]) == 8


def test_no_undisputed_row_reads_weights_faster_than_the_card_can() -> None:
    """One token at batch 1 reads every weight once."""
    catalog = load_catalog()
    peak = catalog.bandwidth(catalog.reference, include_disputed=False).value
    impossible = []
    for key, row in catalog.tables["throughput"].items():
        model, backend, _ = key.split("/")
        value = row["tokens_per_second"]
        need = value["value"] * catalog.value("models", model, "params").value * 2.0
        if need > peak:
            impossible.append((model, backend))
            assert value["disputed"]
    assert impossible == [("llama3.2-3b", "ollama")]


def test_disputed_rows_stay_out_unless_asked_for() -> None:
    catalog = load_catalog()
    asked = Asked(rate=0.1, hardware=catalog.reference, size="3b")
    assert "ollama" not in {each.backend for each in catalog_candidates(catalog, asked)}
    assert [each["what"] for each in left_out(catalog, asked)] == ["llama3.2-3b on ollama"]

    asked = asked._replace(include_disputed=True)
    admitted = [e for e in catalog_candidates(catalog, asked) if e.backend == "ollama"]
    assert [(e.quantization, e.pace.value) for e in admitted] == [("FP16", 95.9)]
    assert admitted[0].pace.disputed
    assert left_out(catalog, asked) == []


def test_reference_bandwidth_is_the_public_one_unless_disputed_values_are_asked_for() -> None:
    catalog = load_catalog()
    assert catalog.speed_ratio("RTX 4090 24GB", False).value == pytest.approx(1008 / 432)
    assert catalog.speed_ratio("RTX 4090 24GB", True).value == pytest.approx(1.813, abs=5e-4)
    assert catalog.speed_ratio("RTX 4090 24GB", False).basis == "extrapolated"
    assert catalog.speed_ratio(catalog.reference, False).value == 1.0


@pytest.mark.parametrize(
    ("size", "models"),
    [
        ("3B", {"phi-2", "qwen2.5-3b", "llama3.2-3b"}),
        ("1.5b", {"qwen2.5-1.5b"}),
        ("0.5b", {"qwen2.5-0.5b"}),
    ],
)
def test_models_by_nominal_size(size: str, models: set[str]) -> None:
    assert set(load_catalog().models_of_size(size)) == models


def test_unknown_size_lists_the_known_ones_in_order() -> None:
    with pytest.raises(ConfigError, match=r"'banana' given, allowed: 0.1b, 0.5b, 1b, 1.5b, 3b, 8b"):
        load_catalog().models_of_size("banana")


def test_chosen_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'RTX 4090 24GB'"):
        chosen("--hardware", "RTX 4090", load_catalog().names("hardware"))


def test_sources_are_plain_json_in_the_package() -> None:
    path = ROOT / "analysis" / "planner" / "data" / "catalog.json"
    assert json.loads(path.read_text())["schema"] == 1


def test_a_card_of_another_source_must_bring_its_own_source_and_date(tmp_path: Path) -> None:
    (tmp_path / "models.yaml").write_text((ROOT / "configs" / "models.yaml").read_text())
    known = {"value": 1, "source": "s", "date": "2026-11-20"}
    for hourly, missing in ((1, "source"), ({"value": 1, "source": "s"}, "date")):
        cards = yaml.safe_load((ROOT / "configs" / "hardware.yaml").read_text())
        row = {"name": "X", "memory": known, "bandwidth": known, "hourly": hourly}
        cards["hardware"][-1]["rows"].append(row)
        (tmp_path / "hardware.yaml").write_text(yaml.safe_dump(cards))
        done = compile_catalog("--check", "--configs", str(tmp_path))
        assert f"hardware[X].hourly: no {missing}" in done.stderr
