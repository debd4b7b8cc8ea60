"""A folder in; an empty workspace for the demo out, in the place of an earlier demo's and of nothing else.

The demo leaves a mark in what it makes: the hash of the settings that it wrote, and of each file that it delivered.
What the mark does not account for is somebody's own, and a folder that holds such a thing is left alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipelines.flow.lock import only_writer
from pipelines.settings.layers import FILE_NAME, from_environment, trust
from pipelines.settings.load import load_settings
from pipelines.settings.sections import Settings
from pipelines.settings.template import settings_template
from transformations.errors import ConfigurationError

MARK = ".lakeloop-demo.json"
LANDING = "landing"
# Settings that say where something is read or written.
_PLACES = (
    "catalog", "lakehouse", "landing", "checkpoints", "report", "quality", "records", "features", "index.uri",
    "mlflow.tracking_uri",
)  # fmt: skip
# What the loop makes in a workspace; any other name in its folder was put there by somebody.
_MADE = frozenset(
    {
        MARK,
        f"{MARK}.new",
        FILE_NAME,
        LANDING,
        ".lakeloop.lock",
        "checkpoints",
        "index",
        "lakehouse",
        "logs",
        "mlartifacts",
        "mlflow.db",
        "mlflow.db-shm",
        "mlflow.db-wal",
        "mlruns",
        "quality",
        "report.html",
        "report.html.new",
        "spark-warehouse",
        "summary.json",
    }
)


def check_environment(environ: Mapping[str, str]) -> None:
    """Raises ConfigurationError where variables name another place than the demo's folder: somebody's own tables."""
    names = sorted(name for name, value in environ.items() if _names_a_place(from_environment({name: value})))
    if names:
        raise ConfigurationError(
            "demo: it works in its own folder and with nothing else, but the environment says where other things are "
            f"({', '.join(names)}). Nothing was done. Unset them: env -u {' -u '.join(names)} lakeloop demo"
        )


def _names_a_place(given: Mapping[str, Any]) -> bool:
    sections = {section: value for section, value in given.items() if isinstance(value, dict)}
    inside = {f"{section}.{key}": value for section, values in sections.items() for key, value in values.items()}
    return any({**given, **inside}.get(place) for place in _PLACES)


def check_folder(folder: Path) -> None:
    """Raises ConfigurationError where `folder` holds, or is, anything that an earlier demo did not make."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise ConfigurationError(f"demo: {folder} is no folder of its own; it is left alone. Name another --folder.")
    if not folder.exists() or not any(folder.iterdir()):
        return
    foreign = _foreign(folder)
    if foreign:
        raise ConfigurationError(
            f"demo: {folder} holds what no demo made ({foreign}); it is left alone. Name another --folder, or remove "
            "it yourself."
        )


def make_workspace(folder: Path) -> Settings:
    """An empty workspace in `folder`, in the place of an earlier demo's.

    Raises:
        ConfigurationError: the folder holds something else than an earlier demo, or the environment names other
            places. Nothing was removed.
        RefusedError: a run is going on there. Nothing was removed.
    """
    check_environment(os.environ)
    check_folder(folder)
    if folder.exists():
        with only_writer(Settings(root=folder.absolute())):
            check_folder(folder)  # once more, now that nobody else writes
            _empty(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # Sphinx projects keep templates and change fragments beside their documents.
    text = _with_patterns(settings_template())
    # The mark first: a kill between the two leaves a folder that the next demo may take.
    _write_mark(folder, {"settings": _hash(text.encode()), "landing": {}})
    (folder / FILE_NAME).write_text(text, encoding="utf-8")
    with suppress(ConfigurationError):  # then the folders below have to name it
        trust(folder / FILE_NAME)
    (folder / LANDING).mkdir()
    return load_settings(folder / FILE_NAME)


def note_delivery(folder: Path, files: Mapping[str, Path]) -> None:
    """Say in the mark, before they are copied, which files (path in the landing folder → source) the demo delivers."""
    mark = _read_mark(folder) or {}
    landing = {path: sorted({*mark["landing"].get(path, []), _hash_of(file)}) for path, file in files.items()}
    _write_mark(folder, {**mark, "landing": {**mark["landing"], **landing}})


def _foreign(folder: Path) -> str:
    """What of `folder` its mark does not account for, in words; "" where the demo made all of it."""
    mark = _read_mark(folder)
    if mark is None:
        return f"there is no {MARK}"
    others = sorted(entry.name for entry in folder.iterdir() if entry.name not in _MADE)
    if others:
        return ", ".join(others[:3])
    links = sorted(entry.name for entry in folder.iterdir() if entry.is_symlink())
    if links:
        return f"the link {links[0]}"
    settings = folder / FILE_NAME
    if settings.exists() and _hash_of(settings) != mark["settings"]:
        return f"its {FILE_NAME} was changed"
    for file in _files(folder / LANDING):
        path = file.relative_to(folder / LANDING).as_posix()
        if file.is_symlink() or not file.is_file() or _hash_of(file) not in mark["landing"].get(path, []):
            return f"{LANDING}/{path}"
    return ""


def _files(folder: Path) -> Iterable[Path]:
    """Everything below `folder` but its folders; links are not followed."""
    for parent, folders, names in os.walk(folder):
        yield from (Path(parent) / name for name in names)
        yield from (path for name in folders if (path := Path(parent) / name).is_symlink())


def _empty(folder: Path) -> None:
    """Remove what a demo made, the mark last: after a kill in between the next demo goes on from there."""
    for entry in folder.iterdir():
        if entry.name in (MARK, ".lakeloop.lock"):
            continue
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _read_mark(folder: Path) -> dict[str, Any] | None:
    try:
        mark = json.loads((folder / MARK).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    is_whole = (
        isinstance(mark, dict) and isinstance(mark.get("landing"), dict) and isinstance(mark.get("settings"), str)
    )
    return mark if is_whole else None


def _write_mark(folder: Path, mark: Mapping[str, Any]) -> None:
    draft = folder / f"{MARK}.new"
    draft.write_text(json.dumps({"made_by": "lakeloop demo", **mark}, indent=1), encoding="utf-8")
    draft.replace(folder / MARK)


def _with_patterns(text: str) -> str:
    lines = ["  include: ['*.rst', '*.md']" if line.startswith("  include: [") else line for line in text.splitlines()]
    return "\n".join(lines) + "\n"


def _hash_of(file: Path) -> str:
    return _hash(file.read_bytes())


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
