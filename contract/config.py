"""The base of every configuration model: strict, frozen, and one line per mistake."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from contract.errors import ConfigError, nearest


class StrictModel(BaseModel):
    """Unknown keys, NaN and infinity are errors; instances are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


Model = TypeVar("Model", bound=StrictModel)


def load_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; ConfigError names the file and the line."""
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(
            f"{path}: not readable as YAML: {' '.join(str(error).split())}"
        ) from error
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: a mapping is wanted, found {type(document).__name__}")
    return document


def validate(model: type[Model], document: Mapping[str, Any], where: str = "") -> Model:
    """Build `model`, or raise ConfigError with field, value given and what is allowed."""
    try:
        return model.model_validate(dict(document))
    except ValidationError as error:
        raise ConfigError(_one_line(model, error, where)) from error


def _one_line(model: type[StrictModel], error: ValidationError, where: str) -> str:
    first = error.errors(include_url=False)[0]
    path = ".".join(str(part) for part in first["loc"])
    prefix = f"{where}: " if where else ""
    if first["type"] == "extra_forbidden" and len(first["loc"]) > 1:
        return f"{prefix}unknown field '{path}'"
    if first["type"] == "extra_forbidden":
        known = sorted(model.model_fields)
        hint = nearest(path.split(".")[-1], known)
        return f"{prefix}unknown field '{path}'{hint} (allowed: {', '.join(known)})"
    if first["type"] == "value_error":  # raised by a check of ours, and a whole sentence
        text = str(first["ctx"]["error"])
        return prefix + (text if not path or text.startswith(path) else f"{path}: {text}")
    return f"{prefix}{path}: {first['msg']}, given {first['input']!r}"
