"""Reads a file of questions, or makes questions from the headings of documents: rows for `add_questions`.

A row is {"question": text}, optionally with "id" (the asker's own id of the question) and "gold": {"path": file,
"heading": heading}, the section that answers it (without heading, the whole file). Other keys are kept for the caller.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines.answering.ask import question_problem
from transformations.errors import ConfigurationError

_ASKS = re.compile(r"(?:how to|how do i|how can i)\s", re.IGNORECASE)


def read_questions(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON lines file; blank lines are skipped.

    Raises:
        ConfigurationError: the file cannot be read, or a line is not a question; the text has the line's number.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"questions cannot be read from {path}: {error}") from None
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ConfigurationError(f"{path}, line {number} is not JSON ({error}): {_shown(line)}") from None
        problem = _problem(row)
        if problem:
            raise ConfigurationError(
                f'{path}, line {number}: {problem}. A line is {{"question": "…"}}, optionally with "id" and "gold": '
                f'{{"path": "…", "heading": "…"}}, but it is: {_shown(line)}'
            )
        rows.append(row)
    return rows


def heading_questions(chunks: pa.Table, *, limit: int) -> list[dict[str, Any]]:
    """Questions from headings like "How to …" and "How do I …", each with its own section as gold.

    A heading that several files have is left out, because it has no single gold section.

    Args:
        chunks: silver.chunks, at least `path` and `heading_path`; with `ordinal`, headings come in document order.
        limit: the largest number of questions; they are in the order of paths, and of headings within a path.
    """
    places: dict[str, set[str]] = {}
    columns = [c for c in ("path", "ordinal", "heading_path") if c in chunks.column_names]
    rows = chunks.select(columns).to_pylist()
    for row in sorted(rows, key=lambda r: (r["path"], r.get("ordinal") or 0)):
        for heading in row["heading_path"]:
            if _ASKS.match(heading) and question_problem(heading) is None:
                places.setdefault(heading, set()).add(row["path"])
    return [
        {"question": heading.rstrip("?.! ") + "?", "gold": {"path": next(iter(paths)), "heading": heading}}
        for heading, paths in places.items()
        if len(paths) == 1
    ][:limit]


def _problem(row: object) -> str | None:
    if not isinstance(row, dict) or not isinstance(row.get("question"), str):
        return 'there is no text under "question"'
    if not isinstance(row.get("id", ""), str):
        return '"id" is not text'
    gold = row.get("gold")
    if gold is not None and (
        not isinstance(gold, dict)
        or not isinstance(gold.get("path"), str)
        or not isinstance(gold.get("heading"), str | None)
    ):
        return '"gold" names no path, or not as text'
    return question_problem(row["question"])


def _shown(line: str) -> str:
    return line.strip()[:120]
