"""A bundle's folder in, a sentence for everything wrong with it out; neither a workspace nor the network is asked.

Here are the bundle's files, databricks.yml, its targets and secrets. Fields, types and enums are the business of
bundle_fields.py, references of bundle_references.py, values of bundle_resources.py, jobs of bundle_jobs.py, alerts of
bundle_alerts.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from .bundle_alerts import alert_problems
from .bundle_fields import file_suffix, root_problems, typed_problems
from .bundle_jobs import job_problems
from .bundle_references import REFERENCE, WHOLE, Dangling, Scope, texts
from .bundle_resources import file_problems, identity_problems, place_problems, value_problems

SECRET_VALUE = re.compile(
    r"dapi[0-9a-f]{32}|AKIA[0-9A-Z]{16}|\b(ghp|gho|sk|dose|xox[bp])[-_][A-Za-z0-9_-]{16,}|-----BEGIN |"
    r"eyJ[\w-]{10,}\.[\w-]{10,}|://[^/\s:@]+:[^/\s@]+@|[?&]sig=[\w%]{20,}"
)
SECRET_KEY = re.compile(r"(?i)(^|[_.-])(password|passwd|secret|token|api_?key|access_?key|credential)s?$")


# What names a secret instead of holding it: a reference of the bundle, or one that the platform fills in.
_NAMED_SECRET = re.compile(rf"{WHOLE.pattern}|\{{\{{secrets/[\w.-]+/[\w.-]+\}}\}}")


def problems(bundle_root: Path, *, commands: Sequence[str] | None = None) -> list[str]:
    """Everything wrong with the bundle in `bundle_root`, each once; an empty list means that nothing was found.

    Args:
        commands: names of the stages' commands; where given, each has one task and each wheel task is one of them.
    """
    try:
        root = _load(bundle_root / "databricks.yml")
        if found := list(root_problems(root)):
            return found
        files = _included(bundle_root, root)
        found = list(_file_problems(bundle_root, files))
        resources, origin = _merged(files)
    except _Unreadable as error:
        return [str(error)]
    found += _artifact_problems(root)
    found += _unused_variables(root, resources)
    for name in root.get("targets") or {"": {}}:
        target = _Target(bundle_root, root, resources, origin, name, commands)
        found += [*target.own_problems(), *target.resource_problems()]
    found += _missing_commands(resources, commands or ())
    return list(dict.fromkeys(found))


def resolved(bundle_root: Path, *, target: str, variables: Mapping[str, Any]) -> dict[str, Any]:
    """The resources of a bundle without problems, as `target` has them, with every reference replaced.

    Args:
        variables: values that are given at the deployment (`--var`).
    """
    root = _load(bundle_root / "databricks.yml")
    resources, _ = _merged(_included(bundle_root, root))
    chosen = root["targets"][target]
    resources = _overlaid(resources, chosen.get("resources") or {})
    chosen["variables"] = {**(chosen.get("variables") or {}), **variables}
    found: dict[str, Any] = Scope(root, resources, target=target).replaced(resources)
    return found


class _Unreadable(Exception):
    """A file that no other check can be made on."""


# -- files --------------------------------------------------------------------------------------------------------


def _load(path: Path) -> dict[str, Any]:
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
    except (OSError, yaml.YAMLError) as error:
        raise _Unreadable(f"{path.name} cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise _Unreadable(f"{path.name} must hold keys and values, but it holds {content!r}")
    return content


def _included(bundle_root: Path, root: Mapping[str, Any]) -> dict[Path, dict[str, Any]]:
    patterns = root.get("include") or []
    return {path: _load(path) for pattern in patterns for path in sorted(bundle_root.glob(pattern))}


def _file_problems(bundle_root: Path, files: Mapping[Path, Mapping[str, Any]]) -> Iterator[str]:
    for path in sorted((bundle_root / "resources").rglob("*.y*ml")):
        if path not in files:
            yield f"{path.relative_to(bundle_root)} is not included by databricks.yml"
    owners: dict[str, str] = {}
    for path, content in files.items():
        for key in set(content) - {"resources", "definitions"}:
            yield f"{path.name}: unknown key {key!r}"
        for key in (key for _, things in _things(content, path.name) for key in things):
            if (owner := owners.setdefault(key, path.name)) != path.name:
                yield f"{path.name}: {owner} has the key {key!r}, too; a key is one resource's, of whatever kind"
        named = [f"{key}.{file_suffix(kind)}" for kind, things in _things(content, path.name) for key in things]
        if named != [path.name.rpartition(".")[0]]:
            yield f"{path.name} must define exactly the one thing that its name says, but it defines {named}"


def _things(content: Mapping[str, Any], place: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(kind, resources of it by key) of what `place` names: a file, or a target."""
    for kind, things in _mapping(content.get("resources"), f"{place}: resources").items():
        yield kind, _mapping(things, f"{place}: resources.{kind}")


def _mapping(node: Any, place: str) -> Mapping[str, Any]:
    if not isinstance(node or {}, Mapping):
        raise _Unreadable(f"{place} must hold keys and values, but it holds {node!r}")
    return node or {}


def _merged(files: Mapping[Path, Mapping[str, Any]]) -> tuple[dict[str, dict[str, Any]], dict[tuple[str, str], Path]]:
    """All resources by kind and key, and the file each stands in."""
    resources: dict[str, dict[str, Any]] = {}
    origin: dict[tuple[str, str], Path] = {}
    for path, content in files.items():
        for kind, things in _things(content, path.name):
            for key, fields in things.items():
                if (kind, key) in origin:
                    raise _Unreadable(f"{kind}.{key} is defined in {origin[kind, key].name} and in {path.name}")
                resources.setdefault(kind, {})[key] = fields or {}
                origin[kind, key] = path
    return resources, origin


# -- databricks.yml -----------------------------------------------------------------------------------------------


def _artifact_problems(root: Mapping[str, Any]) -> Iterator[str]:
    own = [a for a in _wheels(root) if _sources(a) == ["dist/*.whl"] and a.get("path", ".") == "."]
    if len(own) != 1:
        yield "databricks.yml: exactly one artifact must be the wheel, built in the bundle's own folder"


def _wheels(root: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [artifact for artifact in (root.get("artifacts") or {}).values() if artifact.get("type") == "whl"]


def _sources(artifact: Mapping[str, Any]) -> list[str]:
    """The files that an artifact uploads, below the bundle's folder."""
    return [file["source"] for file in artifact.get("files") or []] or ["dist/*.whl"]


def _unused_variables(root: Mapping[str, Any], resources: Mapping[str, Any]) -> Iterator[str]:
    used = {
        match.split(".")[1] for _, text in texts([root, resources]) for match in REFERENCE.findall(text) if "." in match
    }
    for name, declared in (root.get("variables") or {}).items():
        if not (declared or {}).get("description"):
            yield f"databricks.yml: variable {name!r} has no description"
        if name not in used:
            yield f"databricks.yml: variable {name!r} is used nowhere"


# -- a target -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Target:
    """What one target deploys: `base` as its files say, changed by what the target says itself."""

    bundle_root: Path
    root: Mapping[str, Any]
    base: Mapping[str, Mapping[str, Any]]
    origin: Mapping[tuple[str, str], Path]
    name: str
    commands: Sequence[str] | None

    @property
    def own(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = (self.root.get("targets") or {}).get(self.name) or {}
        return found

    @cached_property
    def resources(self) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = _overlaid(self.base, self.own.get("resources") or {})
        return found

    @cached_property
    def scope(self) -> Scope:
        return Scope(self.root, self.resources, target=self.name)

    def own_problems(self) -> Iterator[str]:
        for name in set(self.own.get("variables") or {}) - set(self.root.get("variables") or {}):
            yield f"databricks.yml: target {self.name} sets the variable {name!r}, which is not declared"
        for kind, things in _things(self.own, f"target {self.name}"):
            for key in things:
                if key not in self.base.get(kind, {}):
                    yield f"databricks.yml: target {self.name} changes {kind}.{key}, which no file defines"
        effective = {**{k: v for k, v in self.root.items() if k != "targets"}, **self.own}
        yield from (f"databricks.yml: {p}" for p in _text_problems(effective, self.scope))
        yield from (f"databricks.yml: target {self.name}: {p}" for p in identity_problems(effective))

    def resource_problems(self) -> Iterator[str]:
        for kind, things in self.resources.items():
            for key, raw in things.items():
                if (kind, key) in self.origin:
                    path = self.origin[kind, key]
                    found = [*typed_problems(kind, raw), *_text_problems(raw, self.scope), *identity_problems(raw)]
                    # What follows reads the fields, so they must be there.
                    found = found or [*self._resolved_problems(kind, self.scope.replaced(raw), path)]
                    yield from (f"{path.name}: {kind}.{key}: {p}" for p in found)

    def _resolved_problems(self, kind: str, resolved: Mapping[str, Any], path: Path) -> Iterator[str]:
        wheels = _wheel_patterns(self.root, self.bundle_root, path)
        yield from value_problems(resolved)
        yield from file_problems(resolved, folder=path.parent, wheels=wheels)
        yield from place_problems(resolved, schemas=self.schemas)
        if kind == "jobs":
            yield from job_problems(resolved, wheels=wheels, commands=self.commands)
        if kind == "alerts":
            yield from alert_problems(resolved, schemas=self.schemas)

    @cached_property
    def schemas(self) -> dict[str, dict[str, Any]]:
        """The deployed schemas that have no problem themselves, with their references replaced."""
        found = {}
        for key, fields in self.resources.get("schemas", {}).items():
            if not [*typed_problems("schemas", fields), *_text_problems(fields, self.scope)]:
                found[key] = self.scope.replaced(fields)
        return found


def _overlaid(base: Any, change: Any) -> Any:
    if not isinstance(base, Mapping) or not isinstance(change, Mapping):
        return base if change is None else change
    return {**base, **{k: _overlaid(base[k], v) if k in base else v for k, v in change.items()}}


def _text_problems(node: Any, scope: Scope) -> Iterator[str]:
    """References that lead nowhere, and secrets."""
    for where, text in texts(node):
        try:
            scope.resolve(text)
        except Dangling as error:
            yield f"{where}: {error}"
        if SECRET_VALUE.search(text) or (SECRET_KEY.search(where) and not _NAMED_SECRET.fullmatch(text)):
            yield f"{where}: looks like a secret; name a secret scope and key, or an environment variable"


def _wheel_patterns(root: Mapping[str, Any], bundle_root: Path, path: Path) -> list[str]:
    """How `path` names the wheels that the artifacts build: relative to itself."""
    up = "../" * len(path.parent.relative_to(bundle_root).parts)
    return [up + source for artifact in _wheels(root) for source in _sources(artifact)]


def _missing_commands(resources: Mapping[str, Mapping[str, Any]], commands: Sequence[str]) -> Iterator[str]:
    keys = {
        text for where, text in texts(resources.get("jobs")) if re.fullmatch(r"[\w-]+\.tasks\.\d+\.task_key", where)
    }
    for command in commands:
        if command.replace("-", "_") not in keys:
            yield f"the stage {command!r} has no task in any job"
