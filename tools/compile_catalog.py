"""Compile configs/hardware.yaml and configs/models.yaml into the JSON the planner ships with.

`--check` writes nothing and exits 1 when the packaged file differs from what the sources give.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "analysis" / "planner" / "data" / "catalog.json"
CLASSES = ("measured", "fitted", "published", "prior", "extrapolated")
HARDWARE = ("memory", "bandwidth", "hourly")
MODEL = ("params", "layers", "kv_heads", "query_heads", "head_dim")

Document = dict[str, Any]


def full_value(given: Any, defaults: Document, date: str | None, where: str) -> Document:
    """One value with unit, class, source and date; ValueError names what is missing."""
    own = given if isinstance(given, dict) else {"value": given}
    value = {"date": date, **defaults, **own}
    value["date"] = str(value["date"] or "")  # YAML reads a date where JSON has text
    for field in ("value", "unit", "class", "source", "date"):
        if value.get(field) in (None, ""):
            raise ValueError(f"{where}: no {field}")
    number = value["value"]
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise ValueError(f"{where}: {number!r} is not a number")
    if not math.isfinite(number) or number < 0:
        raise ValueError(f"{where}: {number} is not finite and at least 0")
    if value["class"] not in CLASSES:
        raise ValueError(f"{where}: class {value['class']!r}, allowed: {', '.join(CLASSES)}")
    return value


def filled_row(row: Document, names: tuple[str, ...], table: Document, where: str) -> Document:
    """The row with every value in `names`, and any other given as a mapping, spelled out."""
    defaults = table.get("defaults", {})
    date = str(table["date"]) if "date" in table else None
    filled = dict(row)
    for name in names:
        if name not in row:
            raise ValueError(f"{where}: no {name}")
    for name, given in row.items():
        if name in names or isinstance(given, dict):
            filled[name] = full_value(given, defaults.get(name, {}), date, f"{where}.{name}")
    return filled


def keyed(
    tables: list[Document], keys: tuple[str, ...], names: tuple[str, ...], title: str
) -> Document:
    """The tables' rows by their key (several parts joined by a slash), each key once."""
    rows: Document = {}
    for table in tables:
        for row in table["rows"]:
            key = "/".join(row[part] for part in keys)
            if key in rows:
                raise ValueError(f"{title}: {key} twice")
            rows[key] = filled_row(row, names, table, f"{title}[{key}]")
    return rows


def quality_rows(table: Document) -> Document:
    """Scores by model/quantization."""
    defaults, date = table["defaults"]["score"], str(table["date"])
    return {
        f"{row['model']}/{name}": full_value(score, defaults, date, f"quality[{row['model']}]")
        for row in table["rows"]
        for name, score in row.items()
        if name != "model"
    }


def compile_catalog(hardware: Document, models: Document) -> Document:
    """The catalog as the planner reads it; every number carries unit, class, source and date."""
    entry = ("model", "backend")
    memory = models["memory"]
    return {
        "schema": 1,
        "reference": hardware["reference"],
        "hardware": keyed(hardware["hardware"], ("name",), HARDWARE, "hardware"),
        "models": keyed([models["models"]], ("name",), MODEL, "models"),
        "engines": keyed([models["engines"]], ("name",), ("max_batch",), "engines"),
        "quantizations": keyed(
            [models["quantizations"]], ("name",), ("bits", "speedup"), "quantizations"
        ),
        "throughput": keyed(
            [models["throughput"]], (*entry, "quantization"), ("tokens_per_second",), "throughput"
        ),
        "step_time": keyed([models["step_time"]], entry, ("fixed", "per_sequence"), "step_time"),
        "step_time_measured_up_to": models["step_time"]["measured_up_to"],
        "quality": quality_rows(models["quality"]),
        "quality_note": models["quality"]["note"],
        "memory": {
            name: full_value(value, {}, str(memory["date"]), f"memory.{name}")
            for name, value in memory["values"].items()
        },
    }


def compiled_text(configs: Path) -> str:
    """The JSON text that belongs into the package for the YAML files in `configs`."""
    hardware, models = (
        yaml.safe_load((configs / name).read_text(encoding="utf-8"))
        for name in ("hardware.yaml", "models.yaml")
    )
    return json.dumps(compile_catalog(hardware, models), indent=1) + "\n"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare only; exit 1 on drift")
    parser.add_argument("--configs", type=Path, default=ROOT / "configs")
    parser.add_argument("--target", type=Path, default=TARGET)
    arguments = parser.parse_args(argv)
    text = compiled_text(arguments.configs)
    if not arguments.check:
        arguments.target.write_text(text, encoding="utf-8")
        return 0
    packaged = arguments.target.read_text(encoding="utf-8") if arguments.target.exists() else ""
    if packaged == text:
        return 0
    print(f"{arguments.target} differs from {arguments.configs}: run {__file__}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
