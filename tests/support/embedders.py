"""Embedding models for tests: free, exact, counted in a file, and refusing where a text asks for it.

They are named as users name theirs, `tests.support.embedders:Free`, and run where the real ones run.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


class Free:
    """A vector of 64 dimensions from a text's hash."""

    revision, dimension, seed = "1", 64, "one"

    def embed(self, texts: Sequence[str], *, batch_size: int = 8) -> NDArray[np.float32]:
        vectors = np.empty((len(texts), self.dimension), dtype=np.float32)
        for place, text in enumerate(texts):
            digest = hashlib.sha256((self.seed + text).encode()).digest()
            vectors[place] = np.random.default_rng(list(digest)).standard_normal(self.dimension)
        count(len(texts))
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class Other(Free):
    """Another model: the vectors of the two cannot be compared."""

    seed = "two"


class Refusing(Free):
    """Refuses a text that says POISON(file) until that file is there."""

    def embed(self, texts: Sequence[str], *, batch_size: int = 8) -> NDArray[np.float32]:
        for text in texts:
            for file in re.findall(r"POISON\(([^)]*)\)", text):
                if not Path(file).exists():
                    raise ValueError("this text is refused")
        return super().embed(texts, batch_size=batch_size)


class Away(Free):
    """A server that cannot be reached while the file `away()` is there."""

    def embed(self, texts: Sequence[str], *, batch_size: int = 8) -> NDArray[np.float32]:
        if away().exists():
            raise ConnectionError("the embedding server is down")
        return super().embed(texts, batch_size=batch_size)


def away() -> Path:
    """Beside the counter, so that every process of a test run knows it."""
    return Path(os.environ["LAKELOOP_TEST_COUNTER"] + ".away")


def count(texts: int) -> None:
    """One line a call, appended: it survives a kill, and writers in several processes."""
    counter = os.environ.get("LAKELOOP_TEST_COUNTER")
    if counter:
        with open(counter, "a", encoding="utf-8") as stream:
            stream.write(f"{texts}\n")


def counted() -> int:
    """Texts embedded so far, by all processes."""
    counter = Path(os.environ["LAKELOOP_TEST_COUNTER"])
    return sum(map(int, counter.read_text().split())) if counter.exists() else 0
