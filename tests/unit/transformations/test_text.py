from hypothesis import given
from hypothesis import strategies as st

from transformations.text.canonical_text import normalise_text, text_hash, words_hash


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
def test_words_hash_does_not_see_normalisation(text: str) -> None:
    assert words_hash(normalise_text(text)) == words_hash(text)


def test_words_hash_sees_words_but_not_wrapping() -> None:
    assert words_hash("one two\n  three") == words_hash("one two three")
    assert words_hash("one two") != words_hash("onetwo")
    assert len(words_hash("")) == 64


@given(st.lists(st.text(st.sampled_from(" \t\nab\u00e9\u00a0"), max_size=6), min_size=2, unique=True))
def test_texts_that_a_model_may_tell_apart_have_hashes_of_their_own(texts: list[str]) -> None:
    hashes = {text_hash(text) for text in texts}
    assert len(hashes) == len(texts)
    assert not hashes & {words_hash(text) for text in texts}, "nor one under which a cache may hold an older vector"
