"""Reads a settings file, the environment and the options of a command line as plain mappings.

All of these are untrusted input: their size is limited, and so is what error messages quote of them. A settings file in
a folder above the current one is used only after `lakeloop trust`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from pipelines.settings.redaction import note_secret
from transformations.errors import ConfigurationError

FILE_NAME = "lakeloop.yml"
ENV_PREFIX = "LAKELOOP__"
_TRUSTED = "trusted.json"
# Limits far above what settings need: some thousand record sources fit.
_MAX_BYTES = 4_000_000
_MAX_VALUES = 200_000
_MAX_DEPTH = 50
_MAX_SHOWN = 300
# ${NAME} is replaced by the variable's value; $${NAME} is the text ${NAME}. Spark's own ${a.b} has a dot and is kept.
_REFERENCE = re.compile(r"\$?\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def find_settings(config: Path | None) -> Path | None:
    """The file `config`; else lakeloop.yml of this folder; else that of the nearest folder above; else None.

    Raises:
        ConfigurationError: `config` does not exist, or the file of a folder above is not trusted.
    """
    if config is not None:
        if not config.is_file():
            raise ConfigurationError(f"no settings file at {config}. Write one with: lakeloop init")
        return config.absolute()
    here = Path.cwd()
    if (here / FILE_NAME).is_file():
        return here / FILE_NAME
    above = next((file for folder in here.parents if (file := folder / FILE_NAME).is_file()), None)
    if above is not None and str(above.resolve()) not in _trusted():
        raise ConfigurationError(
            f"{above} lies above this folder, and nobody has trusted it: settings name servers, secrets and code. "
            f"If it is yours, say so once with: lakeloop trust {above.parent} · or name it: --config {above} · or make "
            "a workspace of this folder: lakeloop init"
        )
    return above


def trust(file: Path) -> None:
    """Let this settings file be used from the folders below it from now on.

    Raises:
        ConfigurationError: that cannot be noted in the cache.
    """
    from pipelines.machine.cache import cache_dir

    known = sorted({*_trusted(), str(file.resolve())})
    kept = cache_dir() / _TRUSTED
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        draft = kept.with_name(f".{_TRUSTED}-{os.getpid()}")
        draft.write_text(json.dumps(known, indent=1), encoding="utf-8")
        draft.replace(kept)
    except OSError as error:
        raise ConfigurationError(
            f"cannot note in {kept.parent} that {file} is trusted ({error.strerror}). Name it instead: --config {file}"
        ) from None


def _trusted() -> frozenset[str]:
    from pipelines.machine.cache import cache_dir

    try:
        return frozenset(json.loads((cache_dir() / _TRUSTED).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return frozenset()


def read_file(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
        return _mapping(content.decode("utf-8"), of=str(path))
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path} is not valid YAML: it is no UTF-8 ({error.reason})") from None


def from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in environ.items():
        if name.startswith(ENV_PREFIX):
            keys = name[len(ENV_PREFIX) :].lower().split("__")
            merge(found, _nest(keys, read_yaml(value, of=f"the environment variable {name}")))
    return found


def from_override(override: str) -> dict[str, Any]:
    key, separator, value = override.partition("=")
    if not separator or not key.strip():
        raise ConfigurationError(f"--set takes key=value, as in index.name=docs, but it is {shown(override)}")
    # YAML would read an empty value as null; on a command line it is an empty text.
    return _nest(key.strip().split("."), read_yaml(value, of=f"--set {key}") if value else "")


def merge(base: dict[str, Any], layer: Mapping[str, Any]) -> None:
    """Merge `layer` into `base`: mappings are merged, all other values replaced. An empty mapping replaces too."""
    for key, value in layer.items():
        if isinstance(value, Mapping) and value and isinstance(base.get(key), dict):
            merge(base[key], value)
        else:
            base[key] = dict(value) if isinstance(value, Mapping) else value


def resolve_references(value: Any, *, where: str = "") -> Any:
    """`value` with each ${NAME} in its texts replaced by that environment variable, whose value is then a secret.

    Raises:
        ConfigurationError: the variable is not set; the text names the setting.
    """
    if isinstance(value, dict):
        return {k: resolve_references(v, where=f"{where}.{k}" if where else str(k)) for k, v in value.items()}
    if isinstance(value, list):
        return [resolve_references(one, where=f"{where}[{place}]") for place, one in enumerate(value)]
    if not isinstance(value, str) or "${" not in value:
        return value

    def replaced(found: re.Match[str]) -> str:
        if found[0].startswith("$$"):
            return found[0][1:]
        name = found[1]
        if name not in os.environ:
            raise ConfigurationError(f"{where} names the environment variable ${{{name}}}, which is not set")
        note_secret(os.environ[name])
        return os.environ[name]

    return _REFERENCE.sub(replaced, value)


def is_reference(value: Any) -> bool:
    """Whether the whole value is one ${NAME}."""
    return isinstance(value, str) and re.fullmatch(r"\$\{[A-Za-z_][A-Za-z0-9_]*\}", value.strip()) is not None


def read_yaml(text: str, *, of: str) -> Any:
    """Parse YAML to plain values.

    Raises:
        ConfigurationError: it is not YAML, a key occurs twice or is not a text, or it is larger than settings can be.
            An alias counts each time it is used.
    """
    if len(text) > _MAX_BYTES:
        raise ConfigurationError(f"{of} is larger than {_MAX_BYTES // 1_000_000} MB: no settings are")
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if node is None:
            return None
        _check_size(node, of=of)
        return _Loader.values(node)
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{of} is not valid YAML: {cut(str(error))}") from None
    except RecursionError:
        raise ConfigurationError(f"{of} is nested deeper than settings are") from None
    except (ValueError, OverflowError) as error:  # a text that looks like a date or a number, but is none
        raise ConfigurationError(f"{of} is not valid YAML: {cut(str(error))}") from None


def cut(text: str, length: int = _MAX_SHOWN) -> str:
    return text if len(text) <= length else f"{text[:length]} … ({len(text):,} characters)"


def shown(value: Any) -> str:
    """A value as an error message shows it: short, and without making the whole text of a huge one."""
    if isinstance(value, str):
        return cut(repr(value[: _MAX_SHOWN + 1]) if len(value) > _MAX_SHOWN else repr(value))
    if isinstance(value, (Mapping, Sequence)) and len(value) > 8:
        return f"a {type(value).__name__} of {len(value):,}"
    return cut(repr(value))


class _Loader(yaml.SafeLoader):
    """Constructs the values of composed nodes; a key that occurs twice is an error."""

    @classmethod
    def values(cls, node: yaml.Node) -> Any:
        loader = cls("")
        try:
            return loader.construct_document(node)
        finally:
            loader.dispose()

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key must be a text", key.start_mark)
            if key.tag != "tag:yaml.org,2002:merge" and key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {cut(key.value)!r} stands twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _check_size(root: yaml.Node, *, of: str) -> None:
    """Refuse a document with too many values, too deep nesting, or an alias to itself.

    A value counts each time an alias uses it, because a small file can become huge in memory. Each node is visited only
    once.

    Raises:
        ConfigurationError: it is refused.
    """
    sizes: dict[int, int] = {}

    def size(node: yaml.Node, depth: int) -> int:
        if id(node) in sizes:
            if sizes[id(node)] < 0:
                raise ConfigurationError(f"{of} refers to itself by an alias: settings cannot")
            return sizes[id(node)]
        if depth > _MAX_DEPTH:
            raise ConfigurationError(f"{of} is nested deeper than settings are ({_MAX_DEPTH} levels)")
        sizes[id(node)] = -1
        total = 1
        if isinstance(node, yaml.MappingNode):
            total += sum(size(part, depth + 1) for pair in node.value for part in pair)
        elif isinstance(node, yaml.SequenceNode):
            total += sum(size(part, depth + 1) for part in node.value)
        sizes[id(node)] = total
        return total

    values = size(root, 0)
    if values > _MAX_VALUES:
        count = cut(f"{values:,}", 30)
        raise ConfigurationError(f"{of} holds {count} values once its aliases are followed: no settings do")


def _mapping(text: str, *, of: str) -> dict[str, Any]:
    content = read_yaml(text, of=of)
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigurationError(f"{of} must hold keys and values, but it holds a {type(content).__name__}")
    return content


def _nest(keys: Sequence[str], value: Any) -> dict[str, Any]:
    if len(keys) > _MAX_DEPTH:
        raise ConfigurationError(f"{shown('.'.join(keys))} is nested deeper than settings are")
    for key in reversed(keys):
        value = {key: value}
    return dict(value)
