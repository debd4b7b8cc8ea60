"""A Lance table and the chunks that it should hold in; what is missing, too much or wrong in it out.

The table may be anybody's, as long as it has columns for id, text and vector. Rows are compared by text: each system
makes its own ids. Vectors are computed again from the texts.

    python -m benchmarks.sync.check TABLE FOLDER [--id id] [--text text] [--vector vector] [--tag TAG] [--model NAME]
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.sync.corpus import read_documents
from benchmarks.sync.embedder import DEFAULT_MODEL, vectors_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_ROWS_A_BATCH = 4096
_EXAMPLES = 5
_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Columns:
    """What the three columns are called."""

    id: str = "id"
    text: str = "text"
    vector: str = "vector"


@dataclass(frozen=True)
class Exactness:
    """How a table differs from the chunks that it should hold.

    Attributes:
        rows: of the table.
        missing: chunks without a row.
        ghosts: rows whose text is no chunk.
        duplicates: rows beyond as many as there are chunks of their text.
        wrong_vectors: all other rows whose vector is not that of their text and model.
        examples: ids of some rows that are ghosts, duplicates or wrong.
    """

    rows: int
    missing: int
    ghosts: int
    duplicates: int
    wrong_vectors: int
    examples: tuple[str, ...] = field(default=(), compare=False)

    @property
    def is_exact(self) -> bool:
        return not (self.missing or self.ghosts or self.duplicates or self.wrong_vectors)

    def __str__(self) -> str:
        found = {
            "missing": self.missing,
            "ghosts": self.ghosts,
            "duplicates": self.duplicates,
            "wrong vectors": self.wrong_vectors,
        }
        return ", ".join(f"{count:,} {name}" for name, count in found.items() if count) or "exact"


def compare(
    table: Path,
    chunks: Iterable[str],
    *,
    columns: Columns = Columns(),
    model: str = DEFAULT_MODEL,
    version: int | str | None = None,
    optional: Iterable[str] = (),
) -> Exactness:
    """Compare the rows with the chunks, as many of each text as there are.

    Args:
        table: the Lance dataset's folder; one that does not exist holds nothing.
        version: of the dataset, as a number or a tag; the latest by default.
        optional: texts that may also be held, such as the old text of a chunk that no model takes.
    """
    import numpy as np

    wanted = Counter(chunks)
    allowed = wanted | Counter(set(optional))
    held: Counter[str] = Counter()
    ghosts = duplicates = wrong = 0
    examples: list[str] = []
    for ids, texts, vectors in _rows(table, columns, version):
        is_right = (np.abs(vectors - vectors_of(texts, model=model)).max(axis=1) < _TOLERANCE).tolist()
        for key, text, right in zip(ids, texts, is_right, strict=True):
            held[text] += 1
            is_ghost, is_duplicate = text not in allowed, 0 < allowed[text] < held[text]
            is_wrong = not (right or is_ghost or is_duplicate)
            ghosts, duplicates, wrong = ghosts + is_ghost, duplicates + is_duplicate, wrong + is_wrong
            if len(examples) < _EXAMPLES and (is_ghost or is_duplicate or is_wrong):
                examples.append(str(key))
    return Exactness(held.total(), (wanted - held).total(), ghosts, duplicates, wrong, tuple(examples))


def held_texts(table: Path, *, columns: Columns, version: int | str | None = None) -> set[str]:
    """The texts that the table holds."""
    dataset = _open(table, version)
    return set() if dataset is None else set(dataset.to_table(columns=[columns.text])[columns.text].to_pylist())


def _rows(
    table: Path, columns: Columns, version: int | str | None
) -> Iterator[tuple[list[Any], list[str], NDArray[np.float32]]]:
    dataset = _open(table, version)
    if dataset is None:
        return
    for batch in dataset.to_batches(columns=[columns.id, columns.text, columns.vector], batch_size=_ROWS_A_BATCH):
        if batch.num_rows:
            vectors = batch.column(columns.vector).flatten().to_numpy(zero_copy_only=False)
            ids, texts = batch.column(columns.id).to_pylist(), batch.column(columns.text).to_pylist()
            yield ids, texts, vectors.reshape(batch.num_rows, -1)


def _open(table: Path, version: int | str | None) -> Any:
    import lance

    if not (table / "_versions").exists():
        return None
    if isinstance(version, str) and version not in lance.dataset(table).tags.list():
        return None  # readers follow the tag: without it they find nothing
    return lance.dataset(table, version=version)


def main() -> None:
    """Print how the table differs from the folder; exit 4 where it does."""
    parser = argparse.ArgumentParser()
    parser.add_argument("table", type=Path)
    parser.add_argument("folder", type=Path)
    for name, default in asdict(Columns()).items():
        parser.add_argument(f"--{name}", default=default, help="name of the column")
    parser.add_argument("--tag", help="what readers see, where that is not the latest version")
    parser.add_argument("--model", default=DEFAULT_MODEL)
    arguments = parser.parse_args()
    chunks = [chunk for _, held in read_documents(arguments.folder) for chunk in held]
    columns = Columns(arguments.id, arguments.text, arguments.vector)
    result = compare(arguments.table, chunks, columns=columns, model=arguments.model, version=arguments.tag)
    print(json.dumps({"exact": result.is_exact, "found": str(result), **asdict(result)}))
    raise SystemExit(0 if result.is_exact else 4)


if __name__ == "__main__":
    main()
