"""embed-chunks where `embedding.commit_seconds` says never, or more than an integer holds: one portion."""

from pathlib import Path

import pyarrow as pa
import pytest

from pipelines.conductor.run import new_context
from pipelines.gold import embed_chunks
from pipelines.models.embedders import EmbeddingModel
from pipelines.settings.load import load_settings


@pytest.mark.parametrize("seconds", [".inf", "1.0e+308"])
def test_all_texts_are_one_portion_where_commits_are_never_due(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: str
) -> None:
    (tmp_path / "lakeloop.yml").write_text(f"embedding: {{commit_seconds: {seconds}}}\n", encoding="utf-8")
    context = new_context(load_settings(tmp_path / "lakeloop.yml"))
    context.lake.ensure(embed_chunks.CACHE)
    sizes: list[int] = []

    def embed(context: object, texts: pa.Table, *, model: object, size: int) -> dict[str, str]:
        sizes.append(len(texts))
        return {}

    monkeypatch.setattr(embed_chunks, "_embed", embed)
    texts = pa.table({"text_hash": [str(n) for n in range(1000)], "embed_text": ["text"] * 1000})
    counts, refused = embed_chunks.embed_missing(context, texts, model=EmbeddingModel("some", "1", 4))
    assert (sizes, counts, refused) == ([1000], {"computed": 1000, "cached": 0}, {})
