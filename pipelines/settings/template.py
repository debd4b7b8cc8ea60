"""Lists every setting with its default and description, for `lakeloop init` and for the docs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from pipelines.settings.sections import Settings, named_section

# Stands for the name that a user chooses, in settings that map names to sections.
NAMED = "NAME"


def described(model: type[BaseModel] = Settings) -> Iterator[tuple[int, str, Any, str]]:
    """(depth, key, default, description) of every setting, in order."""
    for name, field in model.model_fields.items():
        if name == "root":
            continue
        default = field.get_default(call_default_factory=True)
        if isinstance(default, BaseModel):
            yield 0, name, None, (type(default).__doc__ or "").strip().splitlines()[0]
            yield from ((depth + 1, key, value, text) for depth, key, value, text in described(type(default)))
        else:
            yield 0, field.alias or name, default, field.description or ""
            section = named_section(field.annotation)
            if section is not None:
                yield 1, NAMED, None, (section.__doc__ or "").strip().splitlines()[0]
                yield from ((depth + 2, key, value, text) for depth, key, value, text in described(section))


def settings_template() -> str:
    """The lakeloop.yml that `lakeloop init` writes: every setting with its default, and a comment that describes it."""
    lines = ["# lakeloop: settings of this workspace. Every value below is the default; keep what you change.", ""]
    named_at: int | None = None
    for depth, key, default, text in described():
        indent = "  " * depth
        if key == NAMED:
            named_at = depth if named_at is None else named_at
        elif named_at is not None and depth <= named_at:
            named_at = None
        if named_at is not None:  # no source exists by default, so its settings are written as comments
            shown = "" if key == NAMED or default is None or default is PydanticUndefined else f" {_plain(default)}"
            lines.append(f"# {indent}{key}:{shown}  # {text}")
            continue
        if text:
            lines.append(f"{indent}# {text}")
        if default is None and depth == 0 and key in Settings.model_fields and _is_section(key):
            lines.append(f"{key}:")
        else:
            lines.append(f"{indent}{key}: {_plain(default)}")
    return "\n".join(lines) + "\n"


def _plain(value: Any) -> str:
    """A default as YAML on one line."""
    plain = list(value) if isinstance(value, tuple) else value
    return str(yaml.safe_dump(plain, default_flow_style=True, width=1000).splitlines()[0])


def _is_section(key: str) -> bool:
    annotation = Settings.model_fields[key].annotation
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
