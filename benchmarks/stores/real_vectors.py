"""A folder of texts, and questions, in; their chunks' vectors by the default model, kept in a file, out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.models.embedders import model_named, text_reader
from transformations.text.chunks import chunk_markdown

_MODEL = "all-minilm-l6-v2"
# Half of the default: more chunks of the same texts.
_MAX_TOKENS = 128
_SUFFIXES = (".md", ".mdx", ".txt", ".rst")


@dataclass(frozen=True)
class RealVectors:
    """Of the chunks (each text once), and of what is asked."""

    texts: list[str]
    vectors: NDArray[np.float32]
    questions: NDArray[np.float32]


def real_vectors(folder: Path, *, questions: Path | None, cache: Path) -> RealVectors:
    """The chunks of all texts below `folder`, embedded once: `cache` (an .npz) holds them for the next call.

    Args:
        questions: a file with one on each line; none: every twentieth chunk's first line, as one might search for it.
    """
    if not cache.exists():
        texts = _chunks(folder)
        asked = (
            questions.read_text(encoding="utf-8").splitlines() if questions else [_first_line(t) for t in texts[::20]]
        )
        model = model_named(_MODEL).load(threads=2)
        found = model.embed(texts, batch_size=16), model.embed(asked, batch_size=16)
        np.savez(cache, texts=np.array(texts, dtype=object), vectors=found[0], questions=found[1])
    held: Any = np.load(cache, allow_pickle=True)  # our own file
    return RealVectors(held["texts"].tolist(), held["vectors"], held["questions"])


def _chunks(folder: Path) -> list[str]:
    count_tokens = text_reader(model_named(_MODEL)).count_tokens
    found: dict[str, str] = {}
    for path in sorted(p for p in folder.rglob("*") if p.suffix in _SUFFIXES):
        text = path.read_text(encoding="utf-8", errors="replace")
        for chunk in chunk_markdown(text, max_tokens=_MAX_TOKENS, count_tokens=count_tokens):
            found.setdefault(chunk.text_hash, chunk.embed_text)
    return list(found.values())


def _first_line(text: str) -> str:
    lines: Sequence[str] = [line for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else text[:200]
