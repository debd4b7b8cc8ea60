"""Finds missing and broken files of a Delta folder, and says what is lost and how to get it back.

A table is checked after an operation on it has failed. Before a run says that there is nothing to do, the names and
sizes of the files are compared with the log.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from pipelines.lakehouse import delta_folder
from pipelines.lakehouse.open_folder import OpenFolder, added_files, open_folder
from pipelines.storage.object_path import AnyPath, ObjectPath, scan, spark_name
from pipelines.storage.storage_errors import explained
from transformations.errors import DamagedTableError, LakeloopError

if TYPE_CHECKING:
    from deltalake import DeltaTable

_COMMIT = re.compile(r"(\d{20})\.json")
_CHECKPOINT = re.compile(r"(\d{20})\.checkpoint(\..*)?\.parquet")
# How many files a message names; the others are counted.
_SHOWN = 3
# Tables that can be computed again, and from what. The other tables record what happened once.
_MADE_OF = {
    "bronze.documents": "the files of the landing folder, as far as they are still there",
    "silver.documents": "bronze.documents",
    "silver.documents_history": "bronze.documents",
    "silver.documents_quarantine": "bronze.documents",
    "silver.chunks": "silver.documents",
    "silver.chunks_quarantine": "silver.documents",
    "gold.embeddings": "silver.chunks, embedding their texts again",
    "gold.chunk_index": "silver.chunks and the cache gold.embeddings",
    "monitoring.inference_log_profile_metrics": "inference.inference_log",
    "monitoring.llm_quality_metrics": "inference.inference_log",
    "monitoring.retrieval_metrics": "inference.inference_log",
    "ops.stage_state": "nothing, and every stage compares all of its source once",
}


def damaged(
    table: str, folder: AnyPath, *, deeply: bool = True, opened: OpenFolder | None = None
) -> DamagedTableError | None:
    """What is wrong with a table, as an error that names it; None if nothing is found.

    Args:
        deeply: the files are read too; else only their names and sizes are compared with the log.
        opened: the folder, if it was opened already: a log that has not changed is then not read again.
    """
    found = list(_broken_log(folder, deeply=deeply))
    lost: int | None = None
    if not found:
        found, lost = _broken_files(folder, deeply=deeply, opened=opened)
    if not found:
        return None
    shown = "; ".join(found[:_SHOWN]) + (f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else "")
    rows = "how many rows that concerns cannot be told" if lost is None else f"it held {lost} rows"
    return DamagedTableError(
        f"{table} is damaged: {shown} ({rows}). It is in {folder}. Nothing was changed. Put the files back from a copy "
        f"of that folder, or {_remedy(table)}"
    )


def is_named(folder: AnyPath, text: str) -> bool:
    """Whether the text of an error names a file in the folder. Spark writes paths as URLs."""
    return f"{spark_name(folder)}/" in unquote(text)


def mend(folder: AnyPath) -> str:
    """Make a damaged table readable again, with the files that are left. Nothing is deleted.

    Files that cannot be read are renamed and removed from the log. If the log itself cannot be read, the whole folder
    is renamed, and the table begins empty.

    Returns:
        What was done, as a text.
    """
    delta = None
    if not any(_broken_log(folder, deeply=True)):
        with suppress(Exception):
            delta = open_folder(folder)
    if delta is None:
        return _moved_aside(folder)
    names: list[str] = []
    # One pass does not always find all files that cannot be read.
    while broken := _broken_files(folder, deeply=True)[0]:
        for name in (text.partition(" ")[0] for text in broken):
            file = folder / unquote(name)
            if name in names or not file.suffix:
                return _moved_aside(folder)
            names.append(name)
            if file.exists():
                _renamed(file)
        delta.update_incremental()
        delta.repair(dry_run=False)
    return f"{len(names)} files were taken out of it: {', '.join(names)}"


def _moved_aside(folder: AnyPath) -> str:
    return f"its folder was set aside as {_renamed(folder)}"


def _renamed(place: AnyPath) -> AnyPath:
    """Give a file or a folder a name that nothing has, and return its new place."""
    names = (place.with_name(f"{place.name}.damaged-{n}") for n in count(1))
    # Any: mypy does not see that a place is renamed to one of its kind.
    to: Any = next(name for name in names if not name.exists())
    return place.rename(to)


def _remedy(table: str) -> str:
    schema, _, name = table.partition(".")
    made_of = _MADE_OF.get(table)
    if made_of is None and name.startswith(("records_", "features_")):
        arrivals = re.sub(r"_(history|quarantine)$", "", name)
        made_of = "its source, as far as that still has it" if schema == "bronze" else f"bronze.{arrivals}"
        made_of = "its source" if name.startswith("features_") else made_of
    if made_of is None:
        return f"give up what is lost, which nothing else holds, and keep the rest: lakeloop rebuild {table}"
    return f"have it made anew (from {made_of}): lakeloop rebuild {table}"


def _broken_log(folder: AnyPath, *, deeply: bool) -> Iterator[str]:
    log = folder / "_delta_log"
    entries = {entry.name: entry for entry in scan(log)} if isinstance(log, ObjectPath) or log.is_dir() else {}
    commits = {int(match[1]): name for name in sorted(entries) if (match := _COMMIT.fullmatch(name))}
    checkpoints = {int(match[1]): name for name in sorted(entries) if (match := _CHECKPOINT.fullmatch(name))}
    if not commits and not checkpoints:
        if folder.is_dir() and any(folder.glob("*.parquet")):
            yield "its log (_delta_log) is gone, its files are there"
        return
    # No reader needs the commits before the last checkpoint.
    first = max(checkpoints, default=-1)
    for version, name in commits.items():
        if version <= first:
            continue
        if entries[name].stat().st_size == 0:
            yield f"version {version} of its log ({name}) is empty"
        elif deeply and (wrong := _broken_commit(log / name)):
            yield f"version {version} of its log ({name}) {wrong}"
    for name in checkpoints.values():
        if deeply and (wrong := _broken_parquet(log / name)):
            yield f"the checkpoint {name} of its log {wrong}"
    missing = [version for version in range(first + 1, max([*commits, first]) + 1) if version not in commits]
    if missing:
        yield f"version {', '.join(map(str, missing))} of its log is missing"
    if "_last_checkpoint" not in entries:
        return
    with suppress(OSError, ValueError, TypeError, KeyError):
        hint = int(json.loads((log / "_last_checkpoint").read_text(encoding="utf-8"))["version"])
        if hint not in checkpoints:
            yield f"the checkpoint of version {hint} of its log is missing"


def _broken_commit(path: AnyPath) -> str | None:
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.strip():
                json.loads(line)
    except (ValueError, UnicodeDecodeError):
        return "is cut short, or its bytes are not what was written"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return None


def _broken_files(folder: AnyPath, *, deeply: bool, opened: OpenFolder | None = None) -> tuple[list[str], int | None]:
    """What is wrong with files of the newest version, and how many rows those files held; None if that is unknown."""
    try:
        delta = (opened or OpenFolder(folder)).now()
        if delta is None:
            return [], 0
        added = added_files(delta)
    except LakeloopError:
        raise
    except Exception as error:  # delta-rs raises the same class of error for everything that is wrong with a log
        _check_answered(folder, error)
        return ([f"its log cannot be read ({_first_line(error)})"], None) if deeply else ([], None)
    counts = added["num_records"].to_pylist() if "num_records" in added.column_names else [None] * added.num_rows
    rows = dict(zip(added["path"].to_pylist(), counts, strict=True))
    sizes = dict(zip(rows, added["size_bytes"].to_pylist(), strict=True))
    there = _sizes_below(folder) if isinstance(folder, ObjectPath) else None
    found = {path: wrong for path, size in sizes.items() if (wrong := _other_size(folder, unquote(path), size, there))}
    if not found and deeply:
        found = _unreadable(delta, folder, list(rows))
    held = [rows.get(path) for path in found]
    return [f"{path} {wrong}" for path, wrong in found.items()], None if None in held else sum(map(int, held))  # type: ignore[arg-type]


def _sizes_below(folder: ObjectPath) -> dict[str, int]:
    """The size of each object below the folder: one request tells a thousand of them."""
    return {entry.name: entry.size for entry in folder.entries(is_deep=True)}


def _other_size(folder: AnyPath, name: str, size: int, there: Mapping[str, int] | None) -> str | None:
    try:
        has = (folder / name).stat().st_size if there is None else there[name]
    except (OSError, KeyError):
        return "is missing"
    return None if has == size else f"has {has} bytes of {size}"


def _unreadable(delta: DeltaTable, folder: AnyPath, paths: list[str]) -> dict[str, str]:
    """The files that cannot be read, each with what is wrong. delta-rs stops at the first, and may not name it."""
    try:
        for _ in delta_folder.scan(delta):
            pass
    except Exception as error:
        _check_answered(folder, error)
        text = _last_words(str(error))
        found = {path: f"cannot be read ({text})" for path in paths if path.rpartition("/")[2] in unquote(str(error))}
        return found or _stumbled_over(folder, paths) or {"a file of it": f"cannot be read ({text})"}
    return {}


def _check_answered(folder: AnyPath, error: Exception) -> None:
    """Raise an error of object storage that did not answer: it says nothing of the table."""
    if isinstance(folder, ObjectPath) and "Error performing" in str(error):
        raise explained(str(folder), error) from error


# A broken file can crash the process that reads it. The number of lines that it printed says which file it was.
_READER = """
import sys, pyarrow.parquet as parquet
for line in sys.stdin.read().splitlines():
    print("begin", flush=True)
    try:
        parquet.read_table(line, partitioning=None)
        print("fine", flush=True)
    except Exception as error:
        print("wrong", " ".join(str(error).split())[:120], flush=True)
"""


def _stumbled_over(folder: AnyPath, paths: list[str]) -> dict[str, str]:
    """The files that cannot be read, found by reading each in a separate process, which a file may crash."""
    if isinstance(folder, ObjectPath):
        with TemporaryDirectory() as copies:
            for path in paths:
                copy = Path(copies) / unquote(path)
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes((folder / unquote(path)).read_bytes())
            return _stumbled_over(Path(copies), paths)
    found: dict[str, str] = {}
    left = list(paths)
    while left:
        files = "\n".join(str(folder / unquote(path)) for path in left)
        done = subprocess.run([sys.executable, "-c", _READER], input=files, capture_output=True, text=True, check=False)
        results = [line for line in done.stdout.splitlines() if line != "begin"]
        for path, line in zip(left, results, strict=False):
            if line.startswith("wrong"):
                found[path] = f"cannot be read ({line.removeprefix('wrong ')})"
        if len(results) < len(left):
            found[left[len(results)]] = "ends the process that reads it"
        left = left[len(results) + 1 :]
    return found


def _broken_parquet(path: AnyPath) -> str | None:
    """What is wrong with the beginning or the end of a Parquet file; None if both look right."""
    content = path.read_bytes()
    if len(content) < 12 or content[:4] != b"PAR1" or content[-4:] != b"PAR1":
        return "is cut short, or its bytes are not what was written"
    return None if int.from_bytes(content[-8:-4], "little") <= len(content) - 12 else "has lost its footer"


def _last_words(text: str) -> str:
    return text.strip().splitlines()[0].rpartition(": ")[2][:120]


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
