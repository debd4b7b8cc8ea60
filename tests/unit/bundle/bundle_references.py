"""Resolves the references of a bundle (`${var.catalog}`), as the CLI does at deployment."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

# What the CLI fills in at deployment, with a stand-in for each.
BUILT_IN = {
    "bundle.uuid": "00000000-0000-0000-0000-000000000000",
    "bundle.git.branch": "main",
    "bundle.git.commit": "0" * 40,
    "bundle.git.origin_url": "https://workspace.invalid/lakeloop.git",
    "workspace.host": "workspace.invalid",
    "workspace.root_path": "/Workspace/Users/ada/.bundle/lakeloop",
    "workspace.file_path": "/Workspace/Users/ada/.bundle/lakeloop/files",
    "workspace.artifact_path": "/Workspace/Users/ada/.bundle/lakeloop/artifacts",
    "workspace.resource_path": "/Workspace/Users/ada/.bundle/lakeloop/resources",
    "workspace.current_user.userName": "ada@lakeloop.invalid",
    "workspace.current_user.short_name": "ada",
}
REFERENCE = re.compile(r"(?<!\$)\$\{([^{}]*)\}?")
WHOLE = re.compile(r"\$\{[^{}]+\}")


class Dangling(Exception):
    """A reference that leads nowhere."""


def texts(node: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """(place, text) of every string below `node`."""
    return ((place, value) for place, value in leaves(node, where) if isinstance(value, str))


def leaves(node: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """(place, value) of everything below `node` that holds nothing itself; of an empty list or mapping too."""
    items = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else ()
    if not items:
        yield where, node
    for key, value in items:
        yield from leaves(value, f"{where}.{key}".lstrip("."))


class Scope:
    """What a reference can reach in one target."""

    def __init__(self, root: Mapping[str, Any], resources: Mapping[str, Any], *, target: str) -> None:
        self.declared = root.get("variables") or {}
        self.given = ((root.get("targets") or {}).get(target) or {}).get("variables") or {}
        self.built_in = {**BUILT_IN, "bundle.name": (root.get("bundle") or {}).get("name"), "bundle.target": target}
        self.target, self.resources = target, resources

    def replaced(self, node: Any) -> Any:
        """`node` with every reference in it replaced."""
        if isinstance(node, Mapping):
            return {key: self.replaced(value) for key, value in node.items()}
        if isinstance(node, list):
            return [self.replaced(value) for value in node]
        return self.resolve(node) if isinstance(node, str) else node

    def resolve(self, text: str, seen: tuple[str, ...] = ()) -> Any:
        """`text` with every reference replaced; the value itself where the text is one reference."""
        if WHOLE.fullmatch(text):
            return self._value(text[2:-1], seen)
        return REFERENCE.sub(
            lambda m: str(self._value(m.group(1), seen)) if m.group().endswith("}") else _unclosed(m), text
        )

    def _value(self, path: str, seen: tuple[str, ...]) -> Any:
        if path in seen:
            raise Dangling(f"${{{path}}} leads back to itself")
        match path.split("."):
            case ["var", name]:
                value = self._variable(name)
            case ["resources", kind, key, field]:
                value = self._field(path, kind, key, field)
            case _ if path in self.built_in:
                value = self.built_in[path]
            case _:
                raise Dangling(f"${{{path}}} is neither a variable, a field of a resource nor known to the CLI")
        return self.resolve(value, (*seen, path)) if isinstance(value, str) else value

    def _variable(self, name: str) -> Any:
        if name not in self.declared:
            raise Dangling(f"${{var.{name}}}: no such variable; there are {sorted(self.declared)}")
        declared = self.declared[name] or {}
        if name not in self.given and "default" not in declared and "lookup" not in declared:
            raise Dangling(f"${{var.{name}}} has no default and no value in target {self.target}")
        return self.given.get(name, declared.get("default", "looked-up"))

    def _field(self, path: str, kind: str, key: str, field: str) -> Any:
        if key not in self.resources.get(kind, {}):
            raise Dangling(f"${{{path}}}: no such resource; {kind} are {sorted(self.resources.get(kind, {}))}")
        fields = self.resources[kind][key]
        if field == "id":
            return "0"
        if field not in fields:
            raise Dangling(f"${{{path}}}: {kind}.{key} does not set {field!r}; it sets {sorted(fields)}")
        return fields[field]


def _unclosed(match: re.Match[str]) -> str:
    raise Dangling(f"{match.group()!r} is not closed")
