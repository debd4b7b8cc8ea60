"""Makes an empty workspace for the demo. It may replace the folder of an earlier demo, and no other folder.

The demo writes a mark file into its folder: the hash of the settings that it wrote, and of each file that it delivered.
If a folder has anything that the mark does not list, it belongs to somebody else, and is left alone.
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
# The settings that name a place which is read or written.
_PLACES = (
    "catalog", "lakehouse", "landing", "checkpoints", "report", "quality", "records", "features", "index.uri",
    "mlflow.tracking_uri",
)  # fmt: skip
# The names that the loop makes in a workspace; anything else in the folder was put there by somebody.
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


def check_environment(environ: Mapping[str, str], *, command: str = "demo") -> None:
    """Check that no environment variable names another place than the folder, such as somebody's own tables.

    Raises:
        ConfigurationError: one does.
    """
    names = sorted(name for name, value in environ.items() if _names_a_place(from_environment({name: value})))
    if names:
        raise ConfigurationError(
            f"{command}: it works in its own folder and with nothing else, but the environment says where other things "
            f"are ({', '.join(names)}). Nothing was done. Unset them, as in: env -u {' -u '.join(names)} lakeloop demo"
        )


def _names_a_place(given: Mapping[str, Any]) -> bool:
    sections = {section: value for section, value in given.items() if isinstance(value, dict)}
    inside = {f"{section}.{key}": value for section, values in sections.items() for key, value in values.items()}
    return any({**given, **inside}.get(place) for place in _PLACES)


def check_folder(folder: Path) -> None:
    """Check that `folder` is empty, does not exist, or has only what an earlier demo made.

    Raises:
        ConfigurationError: it has something else, or is a file or a link.
    """
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
    """Make an empty workspace in `folder`; an earlier demo there is removed. Returns its settings.

    Raises:
        ConfigurationError: the folder has something that no demo made, or environment variables name other places.
            Nothing was removed.
        RefusedError: another process is writing there. Nothing was removed.
    """
    check_environment(os.environ)
    check_folder(folder)
    if folder.exists():
        with only_writer(Settings(root=folder.absolute())):
            check_folder(folder)  # once more, now that no other process can write
            _empty(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # Only documents: Sphinx projects have templates and change fragments beside them.
    text = _with_patterns(settings_template())
    # The mark is written first, so that after a kill between the two writes the next demo may still use the folder.
    _write_mark(folder, {"settings": _hash(text.encode()), "landing": {}})
    (folder / FILE_NAME).write_text(text, encoding="utf-8")
    with suppress(ConfigurationError):  # if it cannot be trusted, folders below must name the file with --config
        trust(folder / FILE_NAME)
    (folder / LANDING).mkdir()
    return load_settings(folder / FILE_NAME)


def note_delivery(folder: Path, files: Mapping[str, Path]) -> None:
    """Add the files of a delivery (path in the landing folder → source) to the mark. Call this before copying them."""
    mark = _read_mark(folder) or {}
    landing = {path: sorted({*mark["landing"].get(path, []), _hash_of(file)}) for path, file in files.items()}
    _write_mark(folder, {**mark, "landing": {**mark["landing"], **landing}})


def _foreign(folder: Path) -> str:
    """What the mark of `folder` does not list, in words; "" if the demo made everything in it."""
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
    """All files and links below `folder`; links are not followed."""
    for parent, folders, names in os.walk(folder):
        yield from (Path(parent) / name for name in names)
        yield from (path for name in folders if (path := Path(parent) / name).is_symlink())


def _empty(folder: Path) -> None:
    """Remove everything in `folder` but the mark and the lock, so that after a kill the next demo knows the folder."""
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
