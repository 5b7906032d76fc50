"""The base of every configuration model: strict, frozen, and one line per mistake."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from contract.errors import ConfigError, nearest

# Otherwise the metadata of all that is installed here is searched for plugins of pydantic.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")


class StrictModel(BaseModel):
    """Unknown keys, NaN, infinity and empty texts are errors; instances are frozen.

    A model is built when it is first used: those that only lend others their fields never are.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True)

    @model_validator(mode="before")
    @classmethod
    def _nothing_by_accident(cls, document: Any) -> Any:
        """YAML reads a bare `no` as a truth value, which would pass for a number."""
        for name, value in document.items() if isinstance(document, dict) else ():
            if value == "":
                raise ValueError(f"{name}: an empty text is given, say what is meant or leave it")
            field = cls.model_fields.get(name)
            if isinstance(value, bool) and field and bool not in _parts(field.annotation):
                raise ValueError(f"{name}: yes or no is not an answer, given {value}")
        return document


Model = TypeVar("Model", bound=StrictModel)


def validate(model: type[Model], document: Mapping[str, Any], where: str = "") -> Model:
    """Build `model`, or raise ConfigError with field, value given and what is allowed."""
    try:
        return model.model_validate(dict(document))
    except ValidationError as error:
        raise ConfigError(_one_line(model, error, where)) from error


def _one_line(model: type[StrictModel], error: ValidationError, where: str) -> str:
    first = error.errors(include_url=False)[0]
    names, holder = _place(model, first["loc"])
    path, prefix = ".".join(names), f"{where}: " if where else ""
    if first["type"] == "extra_forbidden":
        known = sorted(holder.model_fields)
        hint = nearest(names[-1], known)
        return f"{prefix}unknown field '{path}'{hint} (allowed: {', '.join(known)})"
    if first["type"] == "value_error":  # raised by a check of ours, and a whole sentence
        text = str(first["ctx"]["error"])
        named = not names or text.startswith(names[-1])
        return prefix + (".".join([*names[:-1], text]) if named else f"{path}: {text}")
    hint = ""
    if first["type"] == "literal_error":
        hint = nearest(str(first["input"]), re.findall("'([^']*)'", first["ctx"]["expected"]))
    return f"{prefix}{path}: {first['msg']}, given {first['input']!r}{hint}"


def _place(
    model: type[StrictModel], location: tuple[int | str, ...]
) -> tuple[list[str], type[StrictModel]]:
    """The names a user wrote on the way to a mistake, and the model that knows what the last
    may be. Where models are told apart by `kind`, a location holds the kind too: nobody wrote
    it there."""
    names: list[str] = []
    for part in location:
        field = model.model_fields.get(names[-1]) if names else None
        kinds = _kinds(field.annotation) if field else {}
        if part in kinds:
            model = kinds[part]
        else:
            names.append(str(part))
    return names, model


def _kinds(annotation: Any) -> dict[Any, type[StrictModel]]:
    """The models of a union by their `kind`."""
    members = [one for one in _parts(annotation) if isinstance(one, type)]
    return {
        kind: model
        for model in members
        if issubclass(model, StrictModel) and "kind" in model.model_fields
        for kind in _parts(model.model_fields["kind"].annotation)
    }


def _parts(annotation: Any) -> tuple[Any, ...]:
    """The members of a union or the values of a literal; anything else is its own only part."""
    return get_args(annotation) or (annotation,)
