"""Imports an optional library, or raises an error that says what to install."""

from __future__ import annotations

from importlib import import_module, metadata
from typing import Any

from transformations.errors import ConfigurationError, MissingDependencyError


def library(module: str, *, distribution: str, minimum: str, extra: str) -> Any:
    """Import `module`.

    Raises:
        MissingDependencyError: it is not installed.
        ConfigurationError: the installed distribution is older than `minimum`.
    """
    try:
        found = metadata.version(distribution)
        loaded = import_module(module)
    except (ImportError, metadata.PackageNotFoundError):
        raise MissingDependencyError.for_extra(distribution, extra) from None
    check_version(distribution, found=found, minimum=minimum, remedy=f"pip install --upgrade 'lakeloop[{extra}]'")
    return loaded


def check_version(what: str, *, found: str, minimum: str, remedy: str) -> None:
    """Raises ConfigurationError if `found` (dotted numbers, then anything) is older than `minimum`."""
    if _numbers(found) < _numbers(minimum):
        raise ConfigurationError(f"{what} {found} is too old: lakeloop needs {minimum} or newer. {remedy}")


def _numbers(version: str) -> tuple[int, ...]:
    numbers = []
    for part in version.lstrip("v").split("."):
        digits = part[: next((i for i, c in enumerate(part) if not c.isdigit()), len(part))]
        if not digits:
            break
        numbers.append(int(digits))
    return tuple(numbers)
