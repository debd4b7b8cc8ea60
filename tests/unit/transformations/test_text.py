from hypothesis import given
from hypothesis import strategies as st

from transformations.text import normalise_text, text_hash


def test_normalise_text_makes_every_newline_one_character() -> None:
    assert normalise_text("a\r\nb\rc\u2028d\x85e\ff") == "a\nb\nc\nd\ne\nf"


def test_normalise_text_strips_trailing_blanks_and_outer_blank_lines_but_no_indentation() -> None:
    assert normalise_text("\n  \n    code \t\n\n") == "    code"


def test_normalise_text_composes_accents() -> None:
    assert normalise_text("e\u0301") == "\u00e9"


@given(st.text())
def test_normalise_text_is_idempotent(text: str) -> None:
    once = normalise_text(text)
    assert normalise_text(once) == once


@given(st.text())
def test_text_hash_does_not_see_normalisation(text: str) -> None:
    assert text_hash(normalise_text(text)) == text_hash(text)


def test_text_hash_sees_words_but_not_wrapping() -> None:
    assert text_hash("one two\n  three") == text_hash("one two three")
    assert text_hash("one two") != text_hash("onetwo")
    assert len(text_hash("")) == 64
