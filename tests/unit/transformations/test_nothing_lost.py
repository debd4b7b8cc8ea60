"""Every word of a document is in one of its chunks: the real parsers, and the real chunker behind them."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.support import files
from transformations.documents import parse_document
from transformations.text.blocks import split_blocks
from transformations.text.chunks import chunk_markdown

WORD = st.sampled_from(["2007.", "1)", "-", "#", "alpha", "Beta:", "x|y", "*", "7", "a_b", "é", "(3)", "+", "=", "---"])
TEXT = st.lists(WORD, min_size=1, max_size=5).map(" ".join)
CELL = st.one_of(st.just(""), TEXT)
TABLE = st.lists(st.lists(CELL, min_size=1, max_size=4), min_size=1, max_size=4)


def words(text: str) -> set[str]:
    return set(re.findall(r"[^\W_]+", text))


def chunked(text: str) -> set[str]:
    def count(texts: Sequence[str]) -> list[int]:
        return [len(text.split()) + 2 for text in texts]

    return {
        word
        for chunk in chunk_markdown(text, max_tokens=32, count_tokens=count)
        for word in words(f"{' '.join(chunk.heading_path)} {chunk.embed_text}")
    }


@st.composite
def markdown(draw: st.DrawFn) -> str:
    def ragged(rows: list[list[str]]) -> str:
        lines = [f"| {' | '.join(cell.replace('|', ' ') for cell in row)} |" for row in rows]
        return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])

    blocks = st.one_of(
        TEXT, TABLE.map(ragged), TEXT.map("## {}".format), TEXT.map("- {}".format), TEXT.map("> {}".format)
    )
    return "\n\n".join(draw(st.lists(blocks, max_size=6)))


@settings(max_examples=150, deadline=None)
@given(markdown())
@example("| a |\n| --- |\n| 1 | beyond | more |")
@example("| a | unused |\n| --- | --- |\n| 1 |  |")
@example("| a \\| b | c |\n|---|---|\n| 1 \\| 2 | 3 | four")
@example("2007.\n\n3)")
@example("1. \n2. two\n3.")
def test_every_word_of_markdown_is_in_a_chunk(text: str) -> None:
    assert words(text) - chunked(text) == set()


def test_cells_beyond_the_header_and_names_without_cells_are_rows() -> None:
    text = "| a | b |\n| --- | --- |\n| 1 |  | 3 | 4\\|5 |\n| 2 |"
    assert [block.text for block in split_blocks(text)] == ["a | b", "a: 1 | 3 | 4|5", "a: 2"]


def _table(rows: list[list[str]]) -> str:
    cells = ["".join(f"<w:tc>{_paragraph(cell)}</w:tc>" for cell in row) for row in rows]
    return f"<w:tbl>{''.join(f'<w:tr>{row}</w:tr>' for row in cells)}</w:tbl>"


def _paragraph(text: str) -> str:
    return text if text.startswith("<") else f"<w:p><w:r><w:t>{text}</w:t></w:r></w:p>"


WORD_TABLE = st.recursive(
    TABLE,
    lambda inner: st.lists(st.lists(st.one_of(CELL, inner), min_size=1, max_size=3), min_size=1, max_size=3),
    max_leaves=6,
)


def _nested(rows: object) -> str:
    if isinstance(rows, str):
        return rows
    assert isinstance(rows, list)
    return _table([[_nested(cell) + ("<w:p/>" if isinstance(cell, list) else "") for cell in row] for row in rows])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.one_of(TEXT.map(_paragraph), WORD_TABLE.map(_nested)), min_size=1, max_size=4))
def test_every_word_of_a_word_document_is_in_a_chunk(blocks: list[str]) -> None:
    body = "".join(blocks)
    said = words(" ".join(re.findall(r"<w:t>([^<]*)</w:t>", body)))
    document = parse_document(files.docx(body), path="a.docx")
    if said:
        assert document.error is None
        assert said - chunked(document.text) == set()


@settings(max_examples=20, deadline=None)
@given(TABLE)
@pytest.mark.parametrize("suffix", [".xlsx", ".csv"])
def test_every_word_of_a_sheet_is_in_a_chunk(suffix: str, rows: list[list[str]]) -> None:
    cells = [[f" {cell}" if cell.startswith("=") else cell for cell in row] for row in rows]
    if suffix == ".xlsx":
        content = files.xlsx([[cell or None for cell in row] for row in cells])
    else:
        content = "\n".join(",".join(row) for row in cells).encode()
    document = parse_document(content, path=f"a{suffix}")
    said = words(" ".join(cell for row in cells for cell in row))
    if said:
        assert document.error is None, document.error
        assert said - chunked(document.text) == set()
