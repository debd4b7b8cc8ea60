"""Reads a file, the environment and the words of a command line as plain mappings of settings.

All of it is input: what is read is bounded, what is said of it is bounded too, and a file that merely lies in a folder
above the own one is not believed until somebody has said so.
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
# Far above what settings need; some thousand sources of records fit.
_MAX_BYTES = 4_000_000
_MAX_VALUES = 200_000
_MAX_DEPTH = 50
_MAX_SHOWN = 300
# ${NAME} is the value of a variable, $${NAME} the text itself. Spark's own ${a.b} have dots and are left to Spark.
_REFERENCE = re.compile(r"\$?\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def find_settings(config: Path | None) -> Path | None:
    """The file named; else lakeloop.yml of this folder; else that of the nearest folder above, if it is trusted.

    Raises:
        ConfigurationError: no such file, or one above that nobody has trusted yet.
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
    """Let this settings file be found from the folders below it, from now on."""
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
    # YAML reads nothing as null; on a command line it is an empty text.
    return _nest(key.strip().split("."), read_yaml(value, of=f"--set {key}") if value else "")


def merge(base: dict[str, Any], layer: Mapping[str, Any]) -> None:
    """Lay one layer over another: mappings are merged, everything else is replaced. An empty mapping empties."""
    for key, value in layer.items():
        if isinstance(value, Mapping) and value and isinstance(base.get(key), dict):
            merge(base[key], value)
        else:
            base[key] = dict(value) if isinstance(value, Mapping) else value


def resolve_references(value: Any, *, where: str = "") -> Any:
    """`value` with each ${NAME} in its texts replaced by that environment variable, which is a secret from then on.

    Raises:
        ConfigurationError: a variable that is not set; the setting that names it is said.
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
    """Whether a setting is nothing but one ${NAME}."""
    return isinstance(value, str) and re.fullmatch(r"\$\{[A-Za-z_][A-Za-z0-9_]*\}", value.strip()) is not None


def read_yaml(text: str, *, of: str) -> Any:
    """YAML as plain values.

    Raises:
        ConfigurationError: no YAML, a key twice, a key that is no text, or more of it than settings can be: aliases
            that grow count as often as they are used.
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
    except (ValueError, OverflowError) as error:  # dates and numbers that only look like such
        raise ConfigurationError(f"{of} is not valid YAML: {cut(str(error))}") from None


def cut(text: str, length: int = _MAX_SHOWN) -> str:
    return text if len(text) <= length else f"{text[:length]} … ({len(text):,} characters)"


def shown(value: Any) -> str:
    """A value as an error says it: short, and without asking a huge one for its whole text."""
    if isinstance(value, str):
        return cut(repr(value[: _MAX_SHOWN + 1]) if len(value) > _MAX_SHOWN else repr(value))
    if isinstance(value, (Mapping, Sequence)) and len(value) > 8:
        return f"a {type(value).__name__} of {len(value):,}"
    return cut(repr(value))


class _Loader(yaml.SafeLoader):
    """Values of nodes that are composed already; a key that stands twice is an error, not a silent loss."""

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
    """Count values as often as aliases use them, each node once: what is small in the file may be huge in memory."""
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
        told = cut(f"{values:,}", 30)
        raise ConfigurationError(f"{of} holds {told} values once its aliases are followed: no settings do")


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
