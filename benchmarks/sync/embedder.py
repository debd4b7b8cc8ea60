"""Texts in, unit vectors made from their hashes out: an embedding model that costs nothing and counts every text.

Environment variables steer it, so that one program can be run well, slowly, with a poison text or with another model,
and so that the counts survive a kill -9:

    STUB_COUNTER   file to append to: "begin N" when N texts arrive, "end N" when their vectors are handed out
    STUB_POISON    a text that contains this word makes its whole batch fail, as a provider's API would
    STUB_SECONDS   how long a batch takes at least
    STUB_MODEL     the model's name; another name gives other vectors
    STUB_REAL      "1": no stub; lakeloop's own MiniLM, for what a first load takes with a model that costs something
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DIMENSION = 384
COUNTER, POISON, SECONDS, MODEL = "STUB_COUNTER", "STUB_POISON", "STUB_SECONDS", "STUB_MODEL"
REAL, REAL_MODEL = "STUB_REAL", "all-minilm-l6-v2"
DEFAULT_MODEL = "stub-a"


class PoisonError(ValueError):
    """A text that the model refuses."""


class StubEmbedder:
    """What a pipeline is given as its embedding model: for lakeloop `benchmarks.sync.embedder:StubEmbedder`.

    Its name is its revision too, since lakeloop knows a model by its class's path and its revision.
    """

    name = revision = os.environ.get(MODEL, DEFAULT_MODEL)
    dimension = DIMENSION
    instruction = ""

    def embed(self, texts: Sequence[str], *, batch_size: int = 8) -> NDArray[np.float32]:
        """Vectors of the texts, in their order: float32 [len(texts), 384], unit norm.

        Raises:
            PoisonError: a text of a batch contains the word in STUB_POISON. Batches before it were counted.
        """
        import numpy as np

        parts = [self._embed_batch(texts[start : start + batch_size]) for start in range(0, len(texts), batch_size)]
        return np.concatenate(parts) if parts else np.empty((0, DIMENSION), dtype=np.float32)

    def _embed_batch(self, texts: Sequence[str]) -> NDArray[np.float32]:
        _count(f"begin {len(texts)}")
        time.sleep(float(os.environ.get(SECONDS, "0")))
        poison = os.environ.get(POISON)
        if poison and any(poison in text for text in texts):
            raise PoisonError(f"one of {len(texts)} texts contains {poison!r}")
        vectors = _minilm().embed(texts) if os.environ.get(REAL) else vectors_of(texts, model=self.name)
        _count(f"end {len(texts)}")
        return vectors


@cache
def _minilm() -> Any:
    from pipelines.models.embedders import model_named

    return model_named(REAL_MODEL).load(threads=os.cpu_count() or 1)


def vectors_of(texts: Sequence[str], *, model: str) -> NDArray[np.float32]:
    """What `embed` gives for these texts, uncounted: SplitMix64 of a text's hash, scaled to norm 1."""
    import numpy as np

    seeds = [int.from_bytes(blake2b(f"{model}\0{text}".encode(), digest_size=8).digest(), "little") for text in texts]
    steps = np.arange(1, DIMENSION + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = np.array(seeds, dtype=np.uint64)[:, None] + steps[None, :]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    uniform = (z >> np.uint64(40)).astype(np.float32) / np.float32(1 << 23) - np.float32(1)
    return np.asarray(uniform / np.linalg.norm(uniform, axis=1, keepdims=True), dtype=np.float32)


def embedded(counter: Path, *, event: str = "end") -> int:
    """How many texts the counter file says were embedded (or, for "begin", arrived)."""
    if not counter.exists():
        return 0
    # A process that is killed in the middle of a line leaves one without its end.
    lines = [line.split() for line in counter.read_text().split("\n")[:-1]]
    return sum(int(number) for name, number in lines if name == event)


def _count(line: str) -> None:
    counter = os.environ.get(COUNTER)
    if counter:
        # One short write to a file opened for appending is whole, whichever process makes it.
        descriptor = os.open(counter, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, f"{line}\n".encode())
        finally:
            os.close(descriptor)
