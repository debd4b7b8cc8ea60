"""A resource in, a sentence for every value in it that no class of fields refuses, but the platform does, out.

`raw` is a resource as its file has it, `resolved` one with its references replaced.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .bundle_libraries import ENVIRONMENT_VERSIONS, line_problems, without_extras
from .bundle_references import leaves, texts
from .bundle_schedules import cron_problems, time_zone_problems

# The groups that every workspace has. Any other principal differs between workspaces, so a variable must name it.
_EVERYWHERE = {"users", "admins", "account users"}
_PRINCIPAL = re.compile(
    r"(^|\.)(grants\.\d+\.principal|(permissions\.\d+|run_as)\.(user|group|service_principal)_name)$"
)
_LOCAL_PATH = re.compile(
    r"(^|\.)(file_path|source_code_path|notebook_path|python_file|glob\.include|(file|notebook)\.path)$"
)


def identity_problems(raw: Mapping[str, Any]) -> Iterator[str]:
    """Who runs it or may use it: principals that nothing declares, and a `run_as` that names nobody."""
    for where, value in leaves(raw):
        if _PRINCIPAL.search(where) and not ("${" in str(value) or value in _EVERYWHERE):
            yield f"{where}: the principal {value!r} is unknown; name it by a variable, or one of {sorted(_EVERYWHERE)}"
        if where.rpartition(".")[2] == "run_as":
            yield f"{where} names nobody"


def value_problems(resolved: Mapping[str, Any]) -> Iterator[str]:
    """Schedules, triggers and versions of environments."""
    for where, text in texts(resolved):
        match where.rpartition(".")[2]:
            case "quartz_cron_expression" | "quartz_cron_schedule":
                yield from (f"{where}: {p}" for p in cron_problems(text))
            case "timezone_id":
                yield from (f"{where}: {p}" for p in time_zone_problems(text))
            case "environment_version" if text not in ENVIRONMENT_VERSIONS:
                yield f"{where}: there is no version {text!r}; there are {sorted(ENVIRONMENT_VERSIONS)}"
            case "url" if where.endswith("file_arrival.url") and not text.endswith("/"):
                yield f"{where}: {text!r} must end in a slash, since it is a folder"


def file_problems(resolved: Mapping[str, Any], *, folder: Path, wheels: Sequence[str]) -> Iterator[str]:
    """Files of the bundle that it names in vain, and what an environment cannot install; paths begin at `folder`.

    Args:
        wheels: those that the deployment builds, as a file in `folder` names them.
    """
    for where, text in texts(resolved):
        line = re.search(r"(^|\.)dependencies\.\d+$", where)
        if line:
            yield from (f"{where}: {p}" for p in line_problems(text))
        path = without_extras(text) if line else text
        if path.startswith(".") and path.endswith(".whl"):
            if path not in wheels:
                yield f"{where}: the deployment builds no wheel {path!r}; it builds {[*wheels]}"
        elif _is_local(where, path) and "git_source" not in resolved and not _matches(folder / path):
            yield f"{where}: no file matches {path!r}"


def place_problems(resolved: Mapping[str, Any], *, schemas: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """A catalog and a schema that do not belong together; `schemas` are those that the bundle deploys, by key."""
    catalog, name = (resolved.get(key) for key in ("catalog_name", "schema_name"))
    catalogs = {schema["catalog_name"] for schema in schemas.values() if schema["name"] == name}
    if name is not None and catalogs and catalog not in catalogs:
        yield f"catalog_name is {catalog!r}, but the schema {name!r} lies in {' or '.join(sorted(catalogs))}"


def _is_local(where: str, path: str) -> bool:
    return path.startswith(("./", "../")) or bool(_LOCAL_PATH.search(where) and not re.match(r"/|\w+://", path))


def _matches(path: Path) -> bool:
    found = glob.glob(str(path), recursive=True)
    return any(Path(each).is_file() for each in found) if glob.has_magic(str(path)) else bool(found)
