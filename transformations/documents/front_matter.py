"""A Markdown text in, the fields of its front matter (YAML or TOML) and the text below it out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import import_module

import yaml

from transformations.documents.extract import Extract
from transformations.text.blocks import first_heading

_YAML = re.compile(r"\A---\n(.*?\n)??(?:---|\.\.\.)(?:\n|\Z)", re.DOTALL)
_TOML = re.compile(r"\A\+\+\+\n(.*?\n)??\+\+\+(?:\n|\Z)", re.DOTALL)
_FIELD = re.compile(r"([A-Za-z_][\w -]{0,60}?)[ \t]*(:|=)(?:[ \t]+(.*)|$)")
_CONTINUED = re.compile(r"[ \t]|- |[\]})#]|$")
# Front matter longer than this is not read: the YAML library takes some seconds for this many characters.
_MAX_CHARACTERS = 500_000


def front_matter(text: str) -> tuple[dict[object, object], str]:
    """Return fields and body; no fields and all of `text` if it does not begin with front matter.

    A block that is no valid YAML (a colon in a title is enough) but is made of `name: value` lines is still front
    matter: if it stayed in the text, Markdown would read its last line as a heading.
    """
    for pattern, read in ((_YAML, _from_yaml), (_TOML, _from_toml)):
        match = pattern.match(text)
        fields = read(match.group(1) or "") if match and match.end() <= _MAX_CHARACTERS else None
        if match and fields is not None:
            return fields, text[match.end() :].lstrip("\n")
    return {}, text


def titled(fields: Mapping[object, object], body: str) -> Extract:
    """A document whose title is that of its front matter, or else its first heading.

    If the front matter has a title and the body does not begin with a heading of level 1, the title becomes one, as a
    site shows it.
    """
    written = fields.get("title")
    title = str(written).strip() if written is not None else None
    metadata = {str(key): text for key, value in fields.items() if key != "title" and (text := _as_text(value))}
    heading = first_heading(body)
    if not title:
        return Extract(heading[1] if heading else None, body, metadata)
    if heading and heading[0] == 1:
        return Extract(title, body, metadata)
    return Extract(title, f"# {' '.join(title.split())}\n\n{body}", metadata)


def _from_yaml(written: str) -> dict[object, object] | None:
    try:
        fields = yaml.safe_load(written)
    except (yaml.YAMLError, ValueError, RecursionError):
        return _line_by_line(written, ":")
    return {} if fields is None else fields if isinstance(fields, dict) else None


def _from_toml(written: str) -> dict[object, object] | None:
    try:
        tomllib = import_module("tomllib")
    except ModuleNotFoundError:  # Python 3.10
        return _line_by_line(written, "=")
    try:
        return dict(tomllib.loads(written))
    except (tomllib.TOMLDecodeError, RecursionError):
        return _line_by_line(written, "=")


def _line_by_line(written: str, mark: str) -> dict[object, object] | None:
    """The fields, one a line; None if there are other lines, or no field."""
    fields: dict[object, object] = {}
    for line in written.split("\n"):
        field = _FIELD.match(line)
        if field and field.group(2) == mark:
            fields[field.group(1)] = (field.group(3) or "").strip().strip("\"'")
        elif not _CONTINUED.match(line):
            return None
    return fields or None


def _as_text(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(text for each in value if not isinstance(each, list) and (text := _as_text(each)))
    return "" if value is None or isinstance(value, dict) else str(value)
