"""A part of a bundle in, a sentence for every field, type and enum in it that does not exist out.

Kinds of resources and their fields are those of the installed `databricks-bundles`; what it has no classes for, the
kinds postgres_*, those of Databricks' SDK. The rest of databricks.yml has no classes in either: its keys are listed
below, from the configuration of the CLI 1.13.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any

from databricks.bundles.core import Variable
from databricks.bundles.core._resource_type import _ResourceType

from .bundle_references import WHOLE

_PRESETS = {
    "name_prefix", "pipelines_development", "trigger_pause_status", "jobs_max_concurrent_runs", "tags",
    "source_linked_deployment", "artifacts_dynamic_version",
}  # fmt: skip
_WORKSPACE = {"host", "profile", "root_path", "file_path", "resource_path", "artifact_path", "state_path"}
_RUN_AS = {"service_principal_name", "user_name", "group_name"}
_PERMISSION = {"level", "group_name", "service_principal_name", "user_name"}
# What may stand where; `*` is any name. A path that is not listed is not looked into.
ROOT_FIELDS: dict[str, set[str]] = {
    "": {
        "bundle", "include", "artifacts", "variables", "targets", "resources", "experimental", "workspace", "sync",
        "run_as", "presets", "permissions", "scripts", "python", "definitions",
    },
    "bundle": {"name", "engine", "databricks_cli_version", "git", "deployment", "uuid", "compute_id", "cluster_id"},
    "artifacts.*": {"type", "path", "files", "build", "executable", "dynamic_version"},
    "variables.*": {"type", "default", "description", "lookup"},
    "experimental": {"skip_name_prefix_for_schema", "skip_artifact_cleanup", "python_wheel_wrapper", "scripts"},
    "workspace": _WORKSPACE,
    "run_as": _RUN_AS,
    "presets": _PRESETS,
    "permissions.*": _PERMISSION,
    "targets.*": {
        "default", "mode", "presets", "bundle", "workspace", "artifacts", "resources", "variables", "git", "run_as",
        "sync", "permissions", "compute_id", "cluster_id",
    },
    "targets.*.presets": _PRESETS,
    "targets.*.workspace": _WORKSPACE,
    "targets.*.run_as": _RUN_AS,
    "targets.*.permissions.*": _PERMISSION,
}  # fmt: skip
# Where any names may stand, each with what is behind it.
_ROOT_NAMES = {
    "artifacts", "variables", "targets", "targets.*.variables", "targets.*.resources", "targets.*.resources.*",
}  # fmt: skip
ROOT_VALUES: dict[str, set[Any]] = {
    "bundle.engine": {"direct", "terraform"},
    "artifacts.*.type": {"whl", "jar"},
    "artifacts.*.dynamic_version": {True, False},
    "variables.*.type": {"complex"},
    "experimental.skip_name_prefix_for_schema": {True, False},
    "permissions.*.level": {"CAN_MANAGE", "CAN_VIEW", "CAN_RUN"},
    "targets.*.default": {True, False},
    "targets.*.mode": {"development", "production"},
    "targets.*.presets.trigger_pause_status": {"PAUSED", "UNPAUSED"},
    "targets.*.permissions.*.level": {"CAN_MANAGE", "CAN_VIEW", "CAN_RUN"},
}
# What the CLI adds to the fields of a postgres resource.
_OF_POSTGRES = {"lifecycle", "permissions", "replace_existing", "purge_on_delete"}


def file_suffix(kind: str) -> str:
    """The middle of the name of a file that defines a resource of `kind`: `job` of documents_loop.job.yml."""
    return _singulars().get(kind, _singular(kind)).removeprefix("mlflow_")


def root_problems(node: Any, path: str = "", pattern: str = "") -> Iterator[str]:
    """Unknown fields and values in databricks.yml; `path` names `node`, `pattern` is its place in ROOT_FIELDS."""
    if pattern in ROOT_VALUES and not any(
        node is v or (node == v and type(node) is type(v)) for v in ROOT_VALUES[pattern]
    ):
        yield f"databricks.yml: {path} is {node!r}, but it must be one of {sorted(ROOT_VALUES[pattern])}"
    elif pattern in {*ROOT_FIELDS, *_ROOT_NAMES} and not isinstance(node, Mapping):
        yield f"databricks.yml: {path} must hold keys and values, but it is {node!r}"
    items = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        if pattern in ROOT_FIELDS and key not in ROOT_FIELDS[pattern]:
            yield f"databricks.yml: unknown field {key!r} in {path or 'the file'}"
            continue
        step = key if pattern in ROOT_FIELDS else "*"
        yield from root_problems(value, f"{path}.{key}".lstrip("."), f"{pattern}.{step}".lstrip("."))


def typed_problems(kind: str, resource: Any) -> Iterator[str]:
    """Every unknown and missing field of a resource, and every value that is not of its field's type."""
    if kind in _classes():
        yield from _value_problems(_classes()[kind], resource, where="")
    elif (known := _postgres_fields(kind)) is not None:
        yield from (f"Unexpected field {key!r}; there are {sorted(known)}" for key in set(resource) - known)
    else:
        yield f"unknown kind of resource; known are {sorted(_classes())}"


_hints = cache(typing.get_type_hints)


@cache
def _classes() -> dict[str, type]:
    """kind -> the class of its fields."""
    return {each.plural_name: each.resource_type for each in _ResourceType.all()}


@cache
def _singulars() -> dict[str, str]:
    return {each.plural_name: each.singular_name for each in _ResourceType.all()}


def _singular(kind: str) -> str:
    return re.sub(r"(?<=ch)es$|s$", "", kind)


def _postgres_fields(kind: str) -> set[str] | None:
    """The fields of the kind `postgres_projects` are those of the SDK's `Project` and of its `spec`, side by side."""
    prefix, _, name = kind.partition("_")
    if prefix != "postgres":
        return None
    from databricks.sdk.service import postgres  # takes seconds

    found = getattr(postgres, _singular(name).title().replace("_", ""), None)
    spec = _hints(found).get("spec") if is_dataclass(found) else None
    if spec is None:
        return None
    return {field.name for each in (found, _possible(spec)) for field in fields(each)} | _OF_POSTGRES


def _value_problems(expected: Any, given: Any, where: str) -> Iterator[str]:
    """What is wrong with `given` where a value of the type `expected` must stand."""
    expected = _possible(expected)
    origin, arguments = typing.get_origin(expected) or expected, typing.get_args(expected)
    if origin is Any or given is None or (isinstance(given, str) and WHOLE.fullmatch(given)):
        return
    if is_dataclass(origin):
        yield from _object_problems(origin, given, where)
    elif origin is list and isinstance(given, list):
        for number, one in enumerate(given):
            yield from _value_problems(arguments[0], one, f"{where}.{number}")
    elif origin is dict and isinstance(given, Mapping):
        for key, value in given.items():
            yield from _value_problems(arguments[1], value, f"{where}.{key}")
    elif issubclass(origin, Enum):
        if given not in (allowed := [member.value for member in origin]):
            yield f"{where}: {given!r} is not a valid {origin.__name__}; there are {allowed}"
    elif type(given) is not origin and not (origin is float and type(given) is int):
        yield f"{where} must be a {origin.__name__}, but it is {given!r}"


def _object_problems(expected: Any, given: Any, where: str) -> Iterator[str]:
    place = where or "it"
    if not isinstance(given, Mapping):
        yield f"{place} must hold the fields of {expected.__name__}, but it is {given!r}"
        return
    hints = _hints(expected)
    for key, value in given.items():
        if key in hints:
            yield from _value_problems(hints[key], value, f"{where}.{key}".lstrip("."))
        else:
            yield f"{place}: Unexpected field {key!r} for {expected.__name__}; there are {sorted(hints)}"
    for field in fields(expected):
        if field.default is MISSING and field.default_factory is MISSING and given.get(field.name) is None:
            yield f"{place} lacks the field {field.name!r}, which {expected.__name__} requires"


def _possible(hint: Any) -> Any:
    """The type that a value itself can have: without `None` and without references."""
    while len(arguments := typing.get_args(hint)) > 1 and typing.get_origin(hint) not in (dict, list):
        (hint,) = (a for a in arguments if a is not type(None) and typing.get_origin(a) is not Variable)
    return hint
