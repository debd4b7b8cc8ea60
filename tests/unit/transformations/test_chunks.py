import random
import re
from collections.abc import Callable, Sequence
from statistics import mean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transformations.text.canonical_text import normalise_text, text_hash
from transformations.text.chunks import Chunk, chunk_id, chunk_markdown

WORD = re.compile(r"\w+|[^\w\s]")


def count_tokens(texts: Sequence[str]) -> list[int]:
    """Words and marks, and two more for each text, as a tokenizer with start and end marks has it."""
    return [len(WORD.findall(text)) + 2 for text in texts]


def chunks_of(text: str, max_tokens: int = 64) -> list[Chunk]:
    return chunk_markdown(text, max_tokens=max_tokens, count_tokens=count_tokens)


def hashes(text: str, max_tokens: int = 256) -> set[str]:
    return {chunk.text_hash for chunk in chunks_of(text, max_tokens)}


def words(count: int, seed: int = 0) -> str:
    generator = random.Random(seed)
    return " ".join("".join(generator.choices("abcdefgh", k=5)) for _ in range(count))


DOCUMENTS = st.lists(
    st.one_of(
        st.integers(1, 200).map(words),
        st.integers(1, 90).map(lambda n: f"{words(n)}:"),
        st.integers(1, 60).map(lambda n: "```py\n" + "\n\n".join(words(3, i) for i in range(n)) + "\n```"),
        st.integers(1, 9).map(lambda n: "\n".join(f"- {words(n * 9, i)}" for i in range(n))),
        st.integers(1, 40).map(
            lambda n: "| k | v |\n|---|---|\n" + "\n".join(f"| {i} | {words(2, i)} |" for i in range(n))
        ),
        st.integers(1, 70).map(lambda n: f"## {words(n, 1)}"),
        st.integers(1, 9).map(lambda n: "> " + ". ".join(words(9, i) for i in range(n))),
        st.text(alphabet="ab\n`#-|>.: 好。", max_size=60),
    ),
    max_size=12,
).map("\n\n".join)


@settings(max_examples=150, deadline=None)
@given(DOCUMENTS, st.sampled_from([16, 24, 64, 256]))
def test_chunks_fit_are_complete_and_always_the_same(text: str, max_tokens: int) -> None:
    chunks = chunks_of(text, max_tokens)
    assert chunks == chunks_of(text, max_tokens)
    assert [chunk.ordinal for chunk in chunks] == list(range(len(chunks)))
    for chunk in chunks:
        path = " > ".join(chunk.heading_path)
        assert chunk.embed_text == (f"{path}\n{chunk.text}" if path else chunk.text)
        assert chunk.token_count == count_tokens([chunk.embed_text])[0] <= max_tokens
        assert chunk.text_hash == text_hash(chunk.embed_text)
        assert chunk.text.strip()
    kept = set(re.findall(r"[a-h]{3,}", " ".join(chunk.embed_text for chunk in chunks)))
    assert set(re.findall(r"[a-h]{3,}", text)) <= kept
    keys = {(chunk.text_hash, chunk.occurrence) for chunk in chunks}
    assert len(keys) == len(chunks)


def test_a_small_section_is_one_chunk_and_no_chunk_crosses_a_heading() -> None:
    chunks = chunks_of("# A\n\none\n\n- two\n- three\n\n## B\n\nfour\n\n# A\n\nfive")
    assert [(chunk.heading_path, chunk.text) for chunk in chunks] == [
        (("A",), "one\n\n- two\n- three"),
        (("A", "B"), "four"),
        (("A",), "five"),
    ]
    assert chunks[1].embed_text == "A > B\nfour"


def test_equal_chunks_are_counted() -> None:
    chunks = chunks_of("# A\n\nsame\n\n# A\n\nsame\n\n# B\n\nsame")
    assert [chunk.occurrence for chunk in chunks] == [0, 1, 0]
    ids = {chunk_id("d", text_hash=chunk.text_hash, occurrence=chunk.occurrence) for chunk in chunks}
    assert len(ids) == 3
    assert all(re.fullmatch("[0-9a-f]{32}", id_) for id_ in ids)
    assert chunk_id("e", text_hash="x", occurrence=0) != chunk_id("d", text_hash="x", occurrence=0)


def test_chunks_are_the_same_on_every_platform() -> None:
    text = "# T\n\n" + "\n\n".join(words(40, i) for i in range(20))
    assert text_hash(" ".join(chunk.text for chunk in chunks_of(text, 128)))[:16] == "ad14afb25ed99fb1"


def test_a_lead_in_stays_with_what_it_leads_to() -> None:
    text = "\n\n".join(f"{words(20, i)}\n\nExample {i}:\n\n```\n{words(20, 100 + i)}\n```" for i in range(30))
    for chunk in chunks_of(text):
        assert not chunk.text.endswith(":")


def test_code_that_is_too_long_is_cut_between_lines_and_fenced_again() -> None:
    code = "\n".join(f"def f{i}():\n    {words(9, i)}\n" for i in range(20))
    chunks = chunks_of(f"```python\n{code}\n```")
    assert len(chunks) > 3
    assert all(re.fullmatch(r"```python\ndef .*\n```", chunk.text, re.DOTALL) for chunk in chunks)
    assert "\n".join(chunk.text[10:-4].strip("\n") + "\n" for chunk in chunks).strip() == code.strip()


def test_a_heading_path_over_half_of_the_limit_is_shortened_and_its_headings_kept() -> None:
    chunks = chunks_of(f"# {words(40)}\n\n## short\n\ntext")
    assert {chunk.heading_path for chunk in chunks} == {("short",)}
    assert words(40) in " ".join(chunk.text for chunk in chunks)


def test_too_small_a_limit_is_refused() -> None:
    with pytest.raises(ValueError, match="max_tokens=15 is too small"):
        chunks_of("text", 15)


def test_tokens_are_counted_in_few_batches() -> None:
    calls: list[int] = []

    def counting(texts: Sequence[str]) -> list[int]:
        calls.append(len(texts))
        return count_tokens(texts)

    text = "\n\n".join(f"# {i}\n\n" + "\n\n".join(words(30, 9 * i + j) for j in range(9)) for i in range(50))
    assert len(chunk_markdown(text, max_tokens=64, count_tokens=counting)) > 150
    assert len(calls) <= 7


def test_a_table_of_20000_rows_is_cut_in_seconds() -> None:
    rows = "\n".join(f"| name {i} | {words(4, i)} |" for i in range(20_000))
    chunks = chunks_of(f"| a | b |\n|---|---|\n{rows}", 256)
    assert 20_000 * 10 / 256 < len(chunks) < 20_000 * 30 / 256


def test_equal_blocks_make_no_endless_work() -> None:
    chunks = chunks_of("\n\n".join(["same text again"] * 5_000), 64)
    assert sum(chunk.text.count("same") for chunk in chunks) == 5_000


def paragraphs() -> list[str]:
    return [words(random.Random(i).randint(8, 60), i) + "." for i in range(200)]


def new_hashes(edited: list[list[str]]) -> list[int]:
    before = hashes("# T\n\n" + "\n\n".join(paragraphs()))
    return [len(hashes("# T\n\n" + "\n\n".join(edit)) - before) for edit in edited]


def test_a_paragraph_put_in_anywhere_makes_one_or_two_new_chunks() -> None:
    edits = []
    for i in range(60):
        edit = paragraphs()
        edit.insert(random.Random(i).randrange(201), words(30, 1_000 + i))
        edits.append(edit)
    new = new_hashes(edits)
    assert max(new) <= 3
    assert mean(new) < 1.5


def test_a_paragraph_in_front_of_a_long_document_makes_one_new_chunk() -> None:
    new = new_hashes([[words(30, 1_000 + i), *paragraphs()] for i in range(20)])
    assert mean(new) < 1.2


def test_a_word_changed_or_a_paragraph_removed_makes_about_one_new_chunk() -> None:
    edits = []
    for i in range(30):
        changed, removed = paragraphs(), paragraphs()
        at = random.Random(i).randrange(200)
        changed[at] = changed[at][:-6] + "zzzzz."
        removed.pop(at)
        edits += [changed, removed]
    new = new_hashes(edits)
    assert max(new) <= 4
    assert mean(new) < 1.3


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 200), st.integers(1, 60), st.randoms(use_true_random=False))
def test_an_insertion_never_reaches_far(at: int, length: int, generator: random.Random) -> None:
    edit = paragraphs()
    edit.insert(at, words(length, generator.randrange(10**6)))
    assert new_hashes([edit])[0] <= 5


def unlike_words(texts: Sequence[str]) -> list[int]:
    """Like WordPiece: a word of over 100 letters is one token, and so is one with a letter that nobody knows."""
    return [
        sum(1 if len(word) > 100 or not word.isascii() else -(-len(word) // 4) for word in text.split()) + 2
        for text in texts
    ]


# Scripts without blanks, what nobody can cut at a blank, and what must not be torn apart.
_ALPHABETS = {
    "thai": "กขคงจฉชซญดตถทนบปผพมยรลวสหอเแโใไาิีึืุู่้๊",
    "khmer": "កខគឃងចឆជឈញដឋឌណតថទធនបផពភមយរលវសហអាិីុូេៃោំះ្",
    "chinese": "的一是不了人我在有他这中大来上国个到说们为子和你地出道也时年得。",
    "japanese": "あいうえおかきくけこさしすせそたちつてとアイウエオカキクケコ日本語東京。",
    "base64": "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=",
    "emoji": "😀👍🏽👨\u200d👩\u200d👧🇩🇪🇫🇷❤\ufe0f",
    "marks": "aeo\u0300\u0301\u0302\u0308\u0327\u20dd",
    "invisible": "a\u200b\u2060\ufeffb\u00adc",
}
_UNBROKEN = st.one_of(
    [
        st.tuples(st.text(alphabet=letters, min_size=1, max_size=40), st.integers(1, 90)).map(lambda t: t[0] * t[1])
        for letters in _ALPHABETS.values()
    ]
)


def _letters(text: str) -> str:
    return "".join(normalise_text(text).split())


@settings(max_examples=60, deadline=None)
@given(
    st.lists(_UNBROKEN, min_size=1, max_size=5),
    st.sampled_from([" ", "\n\n", ""]),
    st.sampled_from([(16, 16), (16, 128), (64, 300), (256, None)]),
    st.sampled_from([count_tokens, unlike_words]),
)
def test_what_has_no_blanks_is_cut_within_both_limits_and_nothing_is_lost(
    texts: list[str], between: str, limits: tuple[int, int | None], count: Callable[[Sequence[str]], list[int]]
) -> None:
    max_tokens, max_characters = limits
    text = between.join(texts)
    chunks = chunk_markdown(text, max_tokens=max_tokens, max_characters=max_characters, count_tokens=count)
    for chunk in chunks:
        assert len(chunk.embed_text) <= (max_characters or 8 * max_tokens)
        assert chunk.token_count == count([chunk.embed_text])[0] <= max_tokens
    # "+ " and "= " may be markup at the beginning of a line: then they are no text.
    assert _letters("".join(chunk.text for chunk in chunks)) == _letters(text)


@pytest.mark.parametrize(
    ("text", "largest"),
    [("a" * 200_000, 2048), ("QUJD" * 20_000, 2048), ("ประเทศไทยรวมเลือดเนื้อ" * 2_000, 2048)],
)
def test_a_word_that_a_model_takes_for_one_token_is_many_chunks(text: str, largest: int) -> None:
    chunks = chunk_markdown(f"# Title\n\n{text}", max_tokens=256, count_tokens=unlike_words)
    assert max(len(chunk.embed_text) for chunk in chunks) <= largest
    assert len(chunks) >= len(text.strip()) // largest
    assert "".join(chunk.text for chunk in chunks) == text.strip()


def test_a_heading_that_no_chunk_holds_and_code_without_a_break_keep_every_letter() -> None:
    heading, code = "H" * 9_000, "C" * 9_000
    chunks = chunk_markdown(f"# {heading}\n\ntext\n\n```\n{code}\n```", max_tokens=256, count_tokens=unlike_words)
    assert max(len(chunk.embed_text) for chunk in chunks) <= 2048
    everything = "".join(chunk.text for chunk in chunks)
    assert (everything.count("H"), everything.count("C"), everything.count("text")) == (9_000, 9_000, 1)


def test_a_letter_keeps_its_marks_where_there_is_another_place_to_cut() -> None:
    family, flag, accent = "👨\u200d👩\u200d👧\u200d👦", "🇩🇪", "x\u0302\u0323"
    for whole in (family, flag, accent, "👍🏽", "❤\ufe0f", "กำ่"):
        chunks = chunk_markdown(whole * 400, max_tokens=16, max_characters=64, count_tokens=unlike_words)
        assert len(chunks) > 10
        assert all(chunk.text.replace(normalise_text(whole), "") == "" for chunk in chunks), whole


def test_fewer_characters_than_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match="max_characters=40 is less than max_tokens=64"):
        chunk_markdown("text", max_tokens=64, max_characters=40, count_tokens=count_tokens)
