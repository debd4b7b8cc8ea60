"""A part of a bundle in, a sentence for every field, type and enum in it that does not exist out.

Resources are checked by the classes of `databricks-bundles`. The rest of databricks.yml has no classes there: its
keys are listed below, from the configuration of the CLI 1.13.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from databricks.bundles import (
    alerts,
    experiments,
    jobs,
    pipelines,
    quality_monitors,
    registered_models,
    schemas,
    sql_warehouses,
    vector_search_endpoints,
    vector_search_indexes,
    volumes,
)

# Kind in YAML -> the middle of a file's name (documents_loop.job.yml) and the class of its fields.
KINDS: dict[str, tuple[str, Any]] = {
    "alerts": ("alert", alerts.Alert),
    "experiments": ("experiment", experiments.MlflowExperiment),
    "jobs": ("job", jobs.Job),
    "pipelines": ("pipeline", pipelines.Pipeline),
    "quality_monitors": ("quality_monitor", quality_monitors.QualityMonitor),
    "registered_models": ("registered_model", registered_models.RegisteredModel),
    "schemas": ("schema", schemas.Schema),
    "sql_warehouses": ("sql_warehouse", sql_warehouses.SqlWarehouse),
    "vector_search_endpoints": ("vector_search_endpoint", vector_search_endpoints.VectorSearchEndpoint),
    "vector_search_indexes": ("vector_search_index", vector_search_indexes.VectorSearchIndex),
    "volumes": ("volume", volumes.Volume),
}
PRESETS = {
    "name_prefix", "pipelines_development", "trigger_pause_status", "jobs_max_concurrent_runs", "tags",
    "source_linked_deployment", "artifacts_dynamic_version",
}  # fmt: skip
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
    "presets": PRESETS,
    "targets.*": {
        "default", "mode", "presets", "bundle", "workspace", "artifacts", "resources", "variables", "git", "run_as",
        "sync", "permissions", "compute_id", "cluster_id",
    },
    "targets.*.presets": PRESETS,
    "targets.*.workspace": {
        "host", "profile", "root_path", "file_path", "resource_path", "artifact_path", "state_path",
    },
    "targets.*.run_as": {"service_principal_name", "user_name"},
    "targets.*.permissions.*": {"level", "group_name", "service_principal_name", "user_name"},
}  # fmt: skip
ROOT_VALUES: dict[str, set[Any]] = {
    "bundle.engine": {"direct", "terraform"},
    "artifacts.*.type": {"whl", "jar"},
    "artifacts.*.dynamic_version": {True, False},
    "variables.*.type": {"complex"},
    "experimental.skip_name_prefix_for_schema": {True, False},
    "targets.*.default": {True, False},
    "targets.*.mode": {"development", "production"},
    "targets.*.presets.trigger_pause_status": {"PAUSED", "UNPAUSED"},
    "targets.*.permissions.*.level": {"CAN_MANAGE", "CAN_VIEW", "CAN_RUN"},
}


def root_problems(node: Any, path: str = "", pattern: str = "") -> Iterator[str]:
    """Unknown fields and values in databricks.yml; `path` names `node`, `pattern` is its place in ROOT_FIELDS."""
    if pattern in ROOT_VALUES and not any(
        node is v or (node == v and type(node) is type(v)) for v in ROOT_VALUES[pattern]
    ):
        yield f"databricks.yml: {path} is {node!r}, but it must be one of {sorted(ROOT_VALUES[pattern])}"
    elif pattern in ROOT_FIELDS and not isinstance(node, Mapping):
        yield f"databricks.yml: {path} must hold keys and values, but it is {node!r}"
    items = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        if pattern in ROOT_FIELDS and key not in ROOT_FIELDS[pattern]:
            yield f"databricks.yml: unknown field {key!r} in {path or 'the file'}"
            continue
        step = key if pattern in ROOT_FIELDS else "*"
        yield from root_problems(value, f"{path}.{key}".lstrip("."), f"{pattern}.{step}".lstrip("."))


def typed_problems(kind: str, fields: Any) -> Iterator[str]:
    """The first unknown or missing field or wrong enum of a resource, otherwise every value of another type."""
    if kind not in KINDS:
        yield f"unknown kind of resource; known are {sorted(KINDS)}"
        return
    try:
        parsed = KINDS[kind][1].from_dict(fields).as_dict()
    except Exception as error:  # the library raises what it happens to meet: ValueError, TypeError, AttributeError
        yield f"{type(error).__name__}: {error}"
        return
    yield from _converted(fields, parsed, "")


def _converted(given: Any, parsed: Any, where: str) -> Iterator[str]:
    """Values that the library turned into another type instead of refusing them, as it does with most."""
    if given in (None, [], {}):
        return
    if isinstance(given, Mapping) and isinstance(parsed, Mapping):
        for key, value in given.items():
            yield from _converted(value, parsed.get(key), f"{where}.{key}".lstrip("."))
    elif isinstance(given, list) and isinstance(parsed, list) and len(given) == len(parsed):
        for number, (one, other) in enumerate(zip(given, parsed, strict=True)):
            yield from _converted(one, other, f"{where}.{number}".lstrip("."))
    elif type(given) is not type(parsed) or given != parsed:
        yield f"{where} must be a {type(parsed).__name__}, but it is {given!r}"
