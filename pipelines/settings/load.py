"""Merges lakeloop.yml, LAKELOOP__… variables and --set overrides into one frozen, typed `Settings`.

Each of these overrides the ones before: the defaults, the file, the environment, the command line. A nested key is
`index.name` on the command line, and `LAKELOOP__INDEX__NAME` in the environment.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from pipelines.settings.layers import (
    cut,
    find_settings,
    from_environment,
    from_override,
    is_reference,
    merge,
    read_file,
    resolve_references,
    shown,
)
from pipelines.settings.redaction import names_secret, redacted
from pipelines.settings.sections import Settings, named_section
from transformations.errors import ConfigurationError

# How many errors a message lists; the others are counted.
_MAX_TOLD = 10


def load_settings(config: Path | None = None, *, overrides: Sequence[str] = ()) -> Settings:
    """Load settings from `config`, or lakeloop.yml of this folder or a trusted one above; without a file, defaults.

    Args:
        config: the file; if given, it must exist.
        overrides: texts `key=value` with dotted keys and values in YAML ("ingest.max_file_mb=10").

    Raises:
        ConfigurationError: the file does not exist or is not YAML, a key is unknown (similar ones are named), a value
            is not allowed, a variable is not set, or a file above this folder is not trusted.
    """
    path = find_settings(config)
    layers = [read_file(path)] if path else []
    layers += [from_environment(os.environ), *(from_override(o) for o in overrides)]
    merged: dict[str, Any] = {"root": path.parent if path else Path.cwd()}
    for layer in layers:
        merge(merged, layer)
    _check_keys(merged, Settings, where="")
    merged = _resolve_references(merged)
    try:
        return Settings.model_validate(merged)
    except ValidationError as error:
        raise ConfigurationError(
            f"settings{f' of {path}' if path else ''} are not valid: {_errors_text(error)}"
        ) from None


def _check_keys(given: Mapping[str, Any], model: type[BaseModel], *, where: str) -> None:
    fields = {field.alias or name: field for name, field in model.model_fields.items()}
    for key, value in given.items():
        if key not in fields:
            known = [where + name for name in fields if name != "root"]
            raise ConfigurationError.unknown_name("setting", cut(f"{where}{key}", 100), known)
        annotation = fields[key].annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel) and isinstance(value, Mapping):
            _check_keys(value, annotation, where=f"{where}{key}.")
        section = named_section(annotation)
        if section is not None and isinstance(value, Mapping):
            for name, one in value.items():
                if isinstance(one, Mapping):
                    _check_keys(one, section, where=f"{where}{key}.{name}.")


def _resolve_references(merged: dict[str, Any]) -> dict[str, Any]:
    """Replace each `${NAME}` by that environment variable.

    Raises:
        ConfigurationError: a secret is written into the settings instead of a `${NAME}`, or a variable is not set.
    """
    for section_name, key in (("language_model", "api_key"), ("index", "secret"), ("answers", "judge_api_key")):
        section = merged.get(section_name)
        value = section.get(key) if isinstance(section, dict) else None
        if value is not None and not is_reference(value):
            raise ConfigurationError(f"{section_name}.{key} must name an environment variable, as in ${{THE_NAME}}")
    options = merged.get("storage_options")
    for key, value in options.items() if isinstance(options, dict) else ():
        if names_secret(str(key)) and not is_reference(value):
            raise ConfigurationError(f"storage_options.{key} must name an environment variable, as in ${{THE_NAME}}")
    root = merged["root"]
    resolved: dict[str, Any] = resolve_references({key: value for key, value in merged.items() if key != "root"})
    return {"root": root, **resolved}


def _errors_text(error: ValidationError) -> str:
    """The validation errors as one text: shortened, and without the values of variables."""
    lines = [
        f"{cut('.'.join(map(str, e['loc'])), 100)}: {cut(e['msg'])}, but it is {shown(e['input'])}"
        for e in error.errors()
    ]
    more = [f"and {len(lines) - _MAX_TOLD} more"] if len(lines) > _MAX_TOLD else []
    return redacted("; ".join([*lines[:_MAX_TOLD], *more]))
