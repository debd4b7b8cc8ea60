"""A real edit history in; the folder as it was after each delivery out."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path


def deliveries(changes: Path, *, count: int | None) -> Iterator[dict[str, str]]:
    """The files (path → text) after each of `count` deliveries of about equal numbers of commits; None: each commit."""
    with gzip.open(changes, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    commits = sorted({row["seq"] for row in rows})
    ends = commits if count is None else [commits[(i + 1) * len(commits) // count - 1] for i in range(count)]
    files: dict[str, str] = {}
    position = 0
    rows.sort(key=lambda row: row["seq"])
    for end in ends:
        while position < len(rows) and rows[position]["seq"] <= end:
            row = rows[position]
            position += 1
            if row["op"] == "D":
                files.pop(row["path"], None)
                continue
            if row["op"] == "R":
                files.pop(row["old_path"], None)
            files[row["path"]] = row["text"]
        yield dict(files)


def write(folder: Path, files: dict[str, str]) -> None:
    """Make `folder` hold exactly `files`."""
    for path in [p for p in folder.rglob("*") if p.is_file()]:
        if path.relative_to(folder).as_posix() not in files:
            path.unlink()
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
