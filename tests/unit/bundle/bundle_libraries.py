"""What an environment installs in, a sentence for every line that would fail there, or install something else, out."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution, metadata, requires
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

DISTRIBUTION = "lakeloop"
# The versions of serverless environments, and the Python of the one that tasks have.
ENVIRONMENT_VERSIONS = {"1", "2", "3", "4", "5"}
_SERVERLESS = {"python_version": "3.12", "python_full_version": "3.12.3"}
# The roles that a deployed task has. Spark is the platform's; the demo runs nowhere but on a laptop.
_ROLES = frozenset({"documents", "quality", "databricks", "embedding", "language", "mlflow", "report"})
# In the platform's own environment; or, the local language model, replaced by a served endpoint.
_NOT_INSTALLED = {"pyarrow", "pyyaml", "xllamacpp"}
_LOCK = Path(__file__).parents[3] / "requirements/dev.lock"
# How a line begins that is a path, or an option in front of one.
_PATHS = (".", "/", "-")
_EXTRAS = re.compile(r"\[([^\]]*)\]$")


def without_extras(line: str) -> str:
    return _EXTRAS.sub("", line)


def line_problems(line: str) -> Iterator[str]:
    """What is wrong with one dependency: a requirement, or a path of this distribution, each with extras or without."""
    if line.startswith(_PATHS):
        yield from _extra_problems(DISTRIBUTION, _extras(line))
        return
    if (requirement := _requirement(line)) is None:
        yield f"{line!r} is no requirement"
        return
    locked = _locked().get(canonicalize_name(requirement.name), "no version of it")
    if str(requirement.specifier) != locked:
        yield f"{line!r} is not what requirements/dev.lock has: {locked}"
    yield from _extra_problems(requirement.name, requirement.extras)


def set_problems(lines: Sequence[str]) -> Iterator[str]:
    """What the lines of one environment leave out of what deployed tasks need, and what they install besides."""
    requirements = [_requirement(line) for line in lines if not line.startswith(_PATHS)]
    given = {canonicalize_name(requirement.name) for requirement in requirements if requirement}
    by_extras = {extra for line in lines for extra in _extras(line)}
    yield from (f"{name!r}, which a task needs, is left out" for name in sorted(_needed(_ROLES - by_extras) - given))
    yield from (f"{name!r} is installed, but no task needs it" for name in sorted(given - _needed(_ROLES)))


def _requirement(line: str) -> Requirement | None:
    try:
        return Requirement(line)
    except InvalidRequirement:
        return None


def _extras(line: str) -> set[str]:
    match = _EXTRAS.search(line)
    return {extra.strip() for extra in match[1].split(",")} if match else set()


@cache
def _extras_of(name: str) -> set[str]:
    return {*(metadata(name).get_all("Provides-Extra") or [])}


def _extra_problems(name: str, extras: set[str]) -> Iterator[str]:
    known = _extras_of(name) if extras else set()
    yield from (f"{name} has no extra {extra!r}; it has {sorted(known)}" for extra in sorted(extras - known))


@cache
def _needed(roles: frozenset[str]) -> set[str]:
    requirements = [Requirement(text) for text in requires(DISTRIBUTION) or []]
    names = {
        canonicalize_name(r.name)
        for r in requirements
        if r.marker is None or any(r.marker.evaluate({"extra": role}) for role in roles)
    }
    return names - _NOT_INSTALLED


@cache
def _locked() -> dict[str, str]:
    """name -> "==version" in requirements/dev.lock, on serverless compute's Python."""
    lines = re.findall(r"^([\w.-]+==[^\\\n]+)", _LOCK.read_text(encoding="utf-8"), re.MULTILINE)
    pins = [Requirement(line) for line in lines]
    return {canonicalize_name(r.name): str(r.specifier) for r in pins if not r.marker or r.marker.evaluate(_SERVERLESS)}


@cache
def console_scripts() -> list[str]:
    """The commands that the wheel installs."""
    try:
        return sorted(e.name for e in distribution(DISTRIBUTION).entry_points.select(group="console_scripts"))
    except PackageNotFoundError:
        return []
