"""A bundle's folder in, a sentence for everything wrong with it out; neither a workspace nor the network is asked.

Fields, types and enums are the business of bundle_fields.py. What is checked here is how the parts fit: files,
references, task graphs, environments, entry points, settings; and that nothing looks like a secret.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatch
from graphlib import CycleError, TopologicalSorter
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import yaml

from pipelines.settings.load import load_settings
from transformations.errors import ConfigurationError

from .bundle_fields import KINDS, root_problems, typed_problems

DISTRIBUTION = "lakeloop"

# What the CLI fills in at deployment, with a stand-in for each.
BUILT_IN = {
    "bundle.git.branch": "main",
    "bundle.git.commit": "0" * 40,
    "workspace.host": "workspace.invalid",
    "workspace.root_path": "/Workspace/Users/ada/.bundle/lakeloop",
    "workspace.file_path": "/Workspace/Users/ada/.bundle/lakeloop/files",
    "workspace.artifact_path": "/Workspace/Users/ada/.bundle/lakeloop/artifacts",
    "workspace.current_user.userName": "ada@lakeloop.invalid",
    "workspace.current_user.short_name": "ada",
}
REFERENCE = re.compile(r"(?<!\$)\$\{([^{}]*)\}?")
WHOLE = re.compile(r"\$\{[^{}]+\}")
SECRET_VALUE = re.compile(
    r"dapi[0-9a-f]{32}|AKIA[0-9A-Z]{16}|\b(ghp|gho|sk|dose|xox[bp])[-_][A-Za-z0-9_-]{16,}|-----BEGIN |"
    r"eyJ[\w-]{10,}\.[\w-]{10,}|://[^/\s:@]+:[^/\s@]+@|[?&]sig=[\w%]{20,}"
)
SECRET_KEY = re.compile(r"(?i)(^|[_.-])(password|passwd|secret|token|api_?key|access_?key|credential)s?$")


def problems(bundle_root: Path, *, commands: Sequence[str] | None = None) -> list[str]:
    """Everything wrong with the bundle in `bundle_root`, each once; an empty list means that nothing was found.

    Args:
        commands: names of the stages' commands; where given, each has one task and each wheel task is one of them.
    """
    try:
        root = _load(bundle_root / "databricks.yml")
        found = list(root_problems(root))
        files = _included(bundle_root, root)
        found += _file_problems(bundle_root, files)
        resources, origin = _merged(files)
    except _Unreadable as error:
        return [str(error)]
    found += _artifact_problems(root)
    found += _unused_variables(root, resources)
    for target in root.get("targets") or {"": {}}:
        found += _target_problems(bundle_root, root, resources, origin, target=target, commands=commands)
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
    scope = _Scope(root, resources, target=target)

    def replaced(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: replaced(value) for key, value in node.items()}
        if isinstance(node, list):
            return [replaced(value) for value in node]
        return scope.resolve(node) if isinstance(node, str) else node

    found: dict[str, Any] = replaced(resources)
    return found


class _Unreadable(Exception):
    """A file that no other check can be made on."""


class _Dangling(Exception):
    """A reference that leads nowhere."""


# -- files --------------------------------------------------------------------------------------------------------


def _load(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
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
    for path, content in files.items():
        for key in set(content) - {"resources", "definitions"}:
            yield f"{path.name}: unknown key {key!r}"
        named = [f"{key}.{KINDS[kind][0]}" for kind, things in _things(content) if kind in KINDS for key in things]
        if named != [path.name.rpartition(".")[0]]:
            yield f"{path.name} must define exactly the one thing that its name says, but it defines {named}"


def _things(content: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for kind, things in (content.get("resources") or {}).items():
        yield kind, things or {}


def _merged(files: Mapping[Path, Mapping[str, Any]]) -> tuple[dict[str, dict[str, Any]], dict[tuple[str, str], Path]]:
    """All resources by kind and key, and the file each stands in."""
    resources: dict[str, dict[str, Any]] = {}
    origin: dict[tuple[str, str], Path] = {}
    for path, content in files.items():
        for kind, things in _things(content):
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
        match.split(".")[1]
        for _, text in _texts([root, resources])
        for match in REFERENCE.findall(text)
        if "." in match
    }
    for name, declared in (root.get("variables") or {}).items():
        if not (declared or {}).get("description"):
            yield f"databricks.yml: variable {name!r} has no description"
        if name not in used:
            yield f"databricks.yml: variable {name!r} is used nowhere"


# -- a target -----------------------------------------------------------------------------------------------------


def _target_problems(
    bundle_root: Path,
    root: Mapping[str, Any],
    base: Mapping[str, Mapping[str, Any]],
    origin: Mapping[tuple[str, str], Path],
    *,
    target: str,
    commands: Sequence[str] | None,
) -> Iterator[str]:
    own = (root.get("targets") or {}).get(target) or {}
    for name in set(own.get("variables") or {}) - set(root.get("variables") or {}):
        yield f"databricks.yml: target {target} sets the variable {name!r}, which is not declared"
    for kind, things in _things(own):
        for key in things:
            if key not in base.get(kind, {}):
                yield f"databricks.yml: target {target} changes {kind}.{key}, which no file defines"
    resources = _overlaid(base, own.get("resources") or {})
    scope = _Scope(root, resources, target=target)
    for where, text in _texts({**{k: v for k, v in root.items() if k != "targets"}, **own}):
        yield from (f"databricks.yml: {where}: {p}" for p in _text_problems(where, text, scope))
    for kind, things in resources.items():
        for key, fields in things.items():
            if (kind, key) not in origin:
                continue
            path = origin[kind, key]
            found = list(typed_problems(kind, fields))
            found += [f"{w}: {p}" for w, text in _texts(fields) for p in _text_problems(w, text, scope)]
            if kind == "jobs" and not found:
                found += _job_problems(
                    fields, scope, wheels=_wheel_patterns(root, bundle_root, path), commands=commands
                )
            yield from (f"{path.name}: {kind}.{key}: {p}" for p in found)
    tasks = {task.get("task_key") for job in resources.get("jobs", {}).values() for task in job.get("tasks") or []}
    for command in commands or ():
        if command.replace("-", "_") not in tasks:
            yield f"the stage {command!r} has no task in any job"


def _overlaid(base: Any, change: Any) -> Any:
    if not isinstance(base, Mapping) or not isinstance(change, Mapping):
        return change
    return {**base, **{k: _overlaid(base[k], v) if k in base else v for k, v in change.items()}}


def _texts(node: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """(place, text) of every string below `node`."""
    if isinstance(node, str):
        yield where, node
    items = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield from _texts(value, f"{where}.{key}".lstrip("."))


def _text_problems(where: str, text: str, scope: _Scope) -> Iterator[str]:
    try:
        scope.resolve(text)
    except _Dangling as error:
        yield str(error)
    if SECRET_VALUE.search(text) or (SECRET_KEY.search(where) and not WHOLE.fullmatch(text)):
        yield "looks like a secret; name a secret scope and key, or an environment variable"


class _Scope:
    """What a reference can reach in one target."""

    def __init__(self, root: Mapping[str, Any], resources: Mapping[str, Any], *, target: str) -> None:
        self.declared = root.get("variables") or {}
        self.given = ((root.get("targets") or {}).get(target) or {}).get("variables") or {}
        self.built_in = {**BUILT_IN, "bundle.name": (root.get("bundle") or {}).get("name"), "bundle.target": target}
        self.target, self.resources = target, resources

    def resolve(self, text: str, seen: tuple[str, ...] = ()) -> Any:
        """`text` with every reference replaced; the value itself where the text is one reference."""
        if WHOLE.fullmatch(text):
            return self._value(text[2:-1], seen)
        return REFERENCE.sub(
            lambda m: str(self._value(m.group(1), seen)) if m.group().endswith("}") else _unclosed(m), text
        )

    def _value(self, path: str, seen: tuple[str, ...]) -> Any:
        if path in seen:
            raise _Dangling(f"${{{path}}} leads back to itself")
        match path.split("."):
            case ["var", name]:
                value = self._variable(name)
            case ["resources", kind, key, field]:
                value = self._field(path, kind, key, field)
            case _ if path in self.built_in:
                value = self.built_in[path]
            case _:
                raise _Dangling(f"${{{path}}} is neither a variable, a field of a resource nor known to the CLI")
        return self.resolve(value, (*seen, path)) if isinstance(value, str) else value

    def _variable(self, name: str) -> Any:
        if name not in self.declared:
            raise _Dangling(f"${{var.{name}}}: no such variable; there are {sorted(self.declared)}")
        declared = self.declared[name] or {}
        if name not in self.given and "default" not in declared and "lookup" not in declared:
            raise _Dangling(f"${{var.{name}}} has no default and no value in target {self.target}")
        return self.given.get(name, declared.get("default", "looked-up"))

    def _field(self, path: str, kind: str, key: str, field: str) -> Any:
        if key not in self.resources.get(kind, {}):
            raise _Dangling(f"${{{path}}}: no such resource; {kind} are {sorted(self.resources.get(kind, {}))}")
        fields = self.resources[kind][key]
        if field == "id":
            return "0"
        if field not in fields:
            raise _Dangling(f"${{{path}}}: {kind}.{key} does not set {field!r}; it sets {sorted(fields)}")
        return fields[field]


def _unclosed(match: re.Match[str]) -> str:
    raise _Dangling(f"{match.group()!r} is not closed")


# -- resources ----------------------------------------------------------------------------------------------------


def _wheel_patterns(root: Mapping[str, Any], bundle_root: Path, path: Path) -> list[str]:
    """How `path` names the wheels that the artifacts build: relative to itself."""
    up = "../" * len(path.parent.relative_to(bundle_root).parts)
    return [up + source for artifact in _wheels(root) for source in _sources(artifact)]


def _job_problems(
    job: Mapping[str, Any], scope: _Scope, *, wheels: Sequence[str], commands: Sequence[str] | None
) -> Iterator[str]:
    tasks = job.get("tasks") or []
    keys = [task["task_key"] for task in tasks]
    environments = {e["environment_key"]: e.get("spec") or {} for e in job.get("environments") or []}
    yield from (f"task {key!r} is defined more than once" for key in sorted({k for k in keys if keys.count(k) > 1}))
    graph = {task["task_key"]: [d["task_key"] for d in task.get("depends_on") or []] for task in tasks}
    for key, behind in graph.items():
        yield from (f"task {key!r} depends on {name!r}, which is no task" for name in behind if name not in graph)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        yield f"tasks depend on each other in a cycle: {' -> '.join(error.args[1])}"
    used = {task.get("environment_key") for task in tasks if "python_wheel_task" in task}
    for key, spec in environments.items():
        if key in used and [d for d in spec.get("dependencies") or [] if d.startswith(".")] != [*wheels]:
            yield f"environment {key!r} must install the wheels as {' and '.join(map(repr, wheels))}"
    for task in tasks:
        if wheel := task.get("python_wheel_task"):
            yield from (
                f"task {task['task_key']!r}: {p}" for p in _wheel_problems(task, wheel, environments, scope, commands)
            )


def _wheel_problems(
    task: Mapping[str, Any],
    wheel: Mapping[str, Any],
    environments: Mapping[str, Any],
    scope: _Scope,
    commands: Sequence[str] | None,
) -> Iterator[str]:
    if task.get("environment_key") not in environments:
        yield f"environment_key {task.get('environment_key')!r} is none of {sorted(environments)}"
    if wheel["package_name"] != DISTRIBUTION:
        yield f"package_name {wheel['package_name']!r} is not the wheel's distribution {DISTRIBUTION!r}"
    scripts = _console_scripts()
    if wheel["entry_point"] not in scripts:
        yield f"entry_point {wheel['entry_point']!r} is no console script of {DISTRIBUTION}; it has {scripts}"
    command, *settings = wheel.get("parameters") or [""]
    if command.replace("-", "_") != task["task_key"]:
        yield f"a task is named as its command, but the command is {command!r}"
    if commands is not None and command not in commands:
        yield f"{command!r} is none of the stages {list(commands)}"
    for setting in settings:
        if re.fullmatch(r"--config=\{\{job\.parameters\.[\w.-]+\}\}", setting):
            continue
        if not fnmatch(setting, "--set=*=*"):
            yield f"{setting!r} is not of the form --set=key=value"
            continue
        try:
            load_settings(overrides=[scope.resolve(setting).removeprefix("--set=")])
        except ConfigurationError as error:
            yield f"{setting}: {error}"


def _console_scripts() -> list[str]:
    try:
        return sorted(e.name for e in distribution(DISTRIBUTION).entry_points.select(group="console_scripts"))
    except PackageNotFoundError:
        return []
