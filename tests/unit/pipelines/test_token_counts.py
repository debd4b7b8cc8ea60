"""MiniLM's tokens, counted word by word, against its tokenizer that reads each text as a whole, alone."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipelines.models import embedders
from pipelines.models.embedders import count_tokens, load_tokenizer, model_named, unknown_ratios
from pipelines.silver.chunk_documents import chunk_batches
from transformations.text.chunks import chunk_markdown

SCRIPTS = [
    "ascii Words, and-signs!", "größer Éclairs naïve", "ΑΣ ΟΔΥΣΣΕΥΣ σοφός", "Съешь ещё этих", "שָׁלוֹם עולם",
    "السلامُ عليكم",
    "नमस्ते दुनिया", "ประเทศไทย", "每次运行都会比较", "日本語のテキスト", "한국어 글", "𝔘𝔫𝔦 😀👩‍👩‍👧", "e\u0301 \u0301x",
    "[CLS] [UNK] [MASK]x [SEP]",
    "\x00\x0b\x0c\x1c\x85\xa0\u200b\u2028\u3000\ufeff\ufffd", "İstanbul ǅ ﬁ ß", " \t\r\n", "x" * 120,
]  # fmt: skip
ALPHABET = sorted({letter for script in SCRIPTS for letter in script})
PIECES = st.one_of(
    st.sampled_from([*SCRIPTS, "[UNK]", "[CLS]", " ", "\n", "\n\n", "\t"]),
    st.text(ALPHABET, max_size=12),
    st.text(st.characters(codec="utf-8"), max_size=6),
)
TEXTS = st.lists(PIECES, max_size=12).map("".join)


def counted_alone(text: str) -> int:
    return len(load_tokenizer().encode(text, add_special_tokens=False).ids)


def unread_alone(text: str) -> float:
    tokenizer = load_tokenizer()
    unknown, found = tokenizer.token_to_id("[UNK]"), tokenizer.encode(text, add_special_tokens=False)
    unread = sum(end - start for token, (start, end) in zip(found.ids, found.offsets, strict=True) if token == unknown)
    return min(unread / max(len("".join(text.split())), 1), 1.0)


@settings(max_examples=40)
@given(st.lists(TEXTS, max_size=5))
@example([" ".join(SCRIPTS), "".join(SCRIPTS), "", " ", "\n"])
def test_texts_count_as_the_tokenizer_counts_each_alone(texts: list[str]):
    assert count_tokens(texts) == [counted_alone(text) for text in texts]
    assert unknown_ratios(texts) == [unread_alone(text) for text in texts]


@settings(max_examples=25)
@given(st.lists(TEXTS, min_size=1, max_size=30).map("\n\n".join), st.sampled_from([16, 32]))
def test_chunks_are_those_that_texts_counted_one_by_one_would_give(text: str, max_tokens: int):
    def alone(texts):
        return [counted_alone(text) for text in texts]

    def chunks(count):
        try:
            return chunk_markdown(text, max_tokens=max_tokens, count_tokens=count)
        except ValueError as error:
            return str(error)

    assert chunks(count_tokens) == chunks(alone)


def test_the_tokenizer_reads_each_word_once(monkeypatch: pytest.MonkeyPatch):
    """Over all documents: their parts, chunks, heading paths, and what of them cannot be read."""
    real, read = load_tokenizer(), []

    class Counting:
        token_to_id = staticmethod(real.token_to_id)

        @staticmethod
        def encode_batch(texts, **options):
            read.extend(texts)
            return real.encode_batch(texts, **options)

    monkeypatch.setattr(embedders, "load_tokenizer", lambda: Counting)
    monkeypatch.setattr(embedders, "_words", {})
    text = "# Pumps\n\n" + "\n\n".join(f"Paragraph {n} says why the pump number {n} stopped." for n in range(200))
    columns = ["document_id", "path", "title", "text", "format", "source"]
    rows = [{**dict.fromkeys(columns, "x"), "document_id": str(n), "text": text} for n in range(3)]
    chunk = chunk_batches(model_named("all-minilm-l6-v2"), max_tokens=64, max_characters=512)
    chunks = sum(batch.num_rows for batch in chunk(iter([pa.RecordBatch.from_pylist(rows)])))
    assert chunks > 30
    assert len(read) == len(set(read)) < 300
    assert set(text.split()) - {"#"} <= set(read)
