"""A number in; the documents and the records of that delivery, real texts that every Python has, out."""

from __future__ import annotations

import importlib
import inspect
from types import ModuleType

# Modules of the standard library, whose documentation differs in length and form. The second delivery brings as many.
_MODULES = (
    (
        "argparse", "ast", "calendar", "codecs", "collections", "configparser", "contextlib", "csv", "datetime",
        "decimal", "difflib", "email.message", "enum", "fractions", "functools", "gettext", "gzip", "heapq",
        "html.parser", "inspect",
    ),
    (
        "ipaddress", "itertools", "json", "locale", "logging", "mailbox", "optparse", "os", "pathlib", "pickle",
        "random", "re", "shutil", "smtplib", "socket", "statistics", "string", "tarfile", "textwrap", "threading",
    ),
)  # fmt: skip
_GONE, _EDITED = "calendar", "decimal"


def documents(delivery: int) -> dict[str, str]:
    """The files (path → text) after the first or the second delivery, which brings, edits and removes some."""
    files = {f"{name}.md": _page(importlib.import_module(name)) for names in _MODULES[:delivery] for name in names}
    if delivery > 1:
        files[f"{_EDITED}.md"] += "\n## As of this delivery\n\nA paragraph that was not there before.\n"
        del files[f"{_GONE}.md"]
    return files


def _page(module: ModuleType) -> str:
    parts = [f"# {module.__name__}\n\n{inspect.getdoc(module) or 'No text.'}\n"]
    for name, value in sorted(vars(module).items()):
        if not name.startswith("_") and (inspect.isclass(value) or inspect.isroutine(value)):
            parts.append(f"## {module.__name__}.{name}\n\n{inspect.getdoc(value) or 'No text.'}\n")
    return "\n".join(parts)


ORDERS = {
    "format": "csv",
    "location": "orders",
    "key": ["order_id"],
    "order_by": ["updated_at"],
    "columns": {"order_id": "string", "updated_at": "timestamp", "amount": "int"},
    "op": {"column": "op", "delete": ["D"]},
}


def orders(delivery: int) -> str:
    """A file of records; the second one changes some of the first one's and deletes others."""
    lines = ["order_id,updated_at,amount,op"]
    for number in range(500 * (delivery - 1), 500 * (delivery + 1), 1 if delivery == 1 else 2):
        op = "D" if delivery > 1 and number % 6 == 0 else "U"
        lines.append(f"order-{number},2024-01-{10 * delivery + number % 9}T00:00:00Z,{number * delivery},{op}")
    return "\n".join([*lines, "order-x,2024-01-01T00:00:00Z,not a number,U"]) + "\n"
