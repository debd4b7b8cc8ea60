"""Each model reads texts by its own tokenizer; what it cannot read is told, and what it would cut is refused."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import pyarrow as pa
import pytest

from pipelines.conductor.run import new_context
from pipelines.conductor.stages import stage_named
from pipelines.models.embedders import Embedder, chunk_limits, embedding_model, model_named, text_reader, unknown_ratios
from pipelines.settings.sections import Settings
from pipelines.silver.chunk_documents import chunk_batches
from tests.support.embedders import Free
from transformations.errors import ConfigurationError

THAI = "ประเทศไทยรวมเลือดเนื้อชาติเชื้อไทยเป็นประชารัฐไผทของไทยทุกส่วน"


class ByLetter(Free):
    """Its tokens are letters, and it knows ASCII only; nothing of it need be loaded to know."""

    max_tokens = 100

    def __init__(self) -> None:
        raise AssertionError("the weights are not needed to count")

    @staticmethod
    def count_tokens(texts: Sequence[str]) -> list[int]:
        return [len(text) for text in texts]

    @classmethod
    def unknown_ratios(cls, texts: Sequence[str]) -> list[float]:
        return [sum(not letter.isascii() for letter in text) / max(len(text), 1) for text in texts]


class ByWord(Free):
    """Its tokenizer comes with its weights."""

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(text.split()) for text in texts]


class Slow(Free):
    """Counts how often it is loaded."""

    loaded: ClassVar[list[int]] = []

    def __init__(self) -> None:
        self.loaded.append(threading.get_ident())
        threading.Event().wait(0.05)


def settings_of(cls: type, **chunks: Any) -> Settings:
    return Settings(embedding={"model": f"{cls.__module__}:{cls.__name__}"}, chunks=chunks)


def test_each_model_counts_by_its_own_tokenizer():
    texts = ["one two three", "x" * 300]
    by_letter, by_word, free = (text_reader(embedding_model(settings_of(cls))) for cls in (ByLetter, ByWord, Free))
    assert by_letter.count_tokens(texts) == [13, 300]
    assert by_word.count_tokens(texts) == [3, 1]
    assert by_letter.unknown_ratios(["aé"]) == [0.5]
    assert by_word.unknown_ratios(texts) == [None, None]
    minilm = text_reader(model_named("all-minilm-l6-v2"))
    assert minilm.count_tokens is Embedder.count_tokens
    assert free.count_tokens(texts) == minilm.count_tokens(texts) == [3, 1], "an estimate for a model without one"
    assert len({by_letter.label, by_word.label, free.label}) == 3
    assert free.label == minilm.label, "models that are counted alike share their chunks"


def test_chunks_are_cut_anew_for_another_tokenizer_or_limit_and_for_nothing_else():
    def definition(settings: Settings) -> str:
        return stage_named("chunk-documents").definition(new_context(settings))

    same = {definition(Settings()), definition(settings_of(Free)), definition(Settings(embedding={"batch_size": 3}))}
    assert len(same) == 1
    others = [settings_of(ByWord), Settings(chunks={"max_characters": 999}), Settings(chunks={"max_tokens": 99})]
    assert len(same | {definition(settings) for settings in others}) == 4


def test_a_limit_over_what_the_model_reads_is_refused():
    assert chunk_limits(settings_of(ByLetter, max_tokens=100)) == (100, 800)
    assert chunk_limits(Settings(chunks={"max_tokens": 512, "max_characters": 1000})) == (512, 1000)
    with pytest.raises(
        ConfigurationError, match=r"chunks.max_tokens is 256, but .*ByLetter reads 100 .* to 100 or less"
    ):
        chunk_limits(settings_of(ByLetter))


def test_the_share_of_letters_that_minilm_cannot_read():
    words, thai, base64, both, nothing = unknown_ratios(
        ["The pump's oil, 2 bar.", THAI, "QUJD" * 50, f"Thai: {THAI}", ""]
    )
    assert (words, thai, base64, nothing) == (0, 1, 1, 0)
    assert 0.9 < both < 1


@pytest.mark.parametrize(
    "text",
    [
        THAI * 760,
        "QUJDREVG" * 10_000,
        "ភាសាខ្មែរ" * 4_000,
        "你好世界" * 3_000,
        "にほんごのぶんしょう" * 2_000,
        "👩‍🔬🇩🇪" * 3_000,
    ],
)
def test_no_script_makes_a_chunk_over_its_limits_and_what_is_not_read_is_told(text: str):
    document = {"document_id": "d", "path": "d.md", "title": None, "text": text, "format": "md", "source": "files"}
    cut = chunk_batches(model_named("all-minilm-l6-v2"), max_tokens=256, max_characters=2048)
    rows = pa.Table.from_batches(cut(iter(pa.Table.from_pylist([document]).to_batches()))).to_pylist()
    assert "".join("".join(row["text"] for row in rows).split()) == text
    assert len(rows) >= len(text) / 2048
    assert all(1 <= row["token_count"] <= 256 and len(row["embed_text"]) <= 2048 for row in rows)
    assert {row["unknown_ratio"] for row in rows} == {ratio for row in rows for ratio in unknown_ratios([row["text"]])}


def test_a_model_is_loaded_once_for_threads_that_come_at_once():
    model = embedding_model(settings_of(Slow))
    with ThreadPoolExecutor(16) as pool:
        loaded = list(pool.map(lambda _: model.load(threads=1), range(16)))
    assert len(Slow.loaded) == 1
    assert len(set(map(id, loaded))) == 1
