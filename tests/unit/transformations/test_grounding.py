"""Answers and sources in; what the check lets through, and what is quoted instead."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transformations.grounding import Grounding, content_stems, finished, judge, quote, split_sentences

CAPTURE = (
    "Accessing captured output\n\n"
    "The `capsys` fixture gives a test access to stdout and stderr. Its `readouterr()` method returns the output "
    "captured so far, and resets the capture.\n\n"
    "```python\ndef test_output(capsys):\n    print('hello')\n    assert capsys.readouterr().out == 'hello\\n'\n```\n\n"
    "Capturing does not work in 2 cases."
)
QUESTION = "How can a test read captured output?"


def verdict(answer: str, *, question: str = QUESTION, sources: tuple[str, ...] = (CAPTURE,)) -> Grounding:
    return judge(answer, question=question, sources=sources, min_ratio=0.6)


@pytest.mark.parametrize(
    "answer",
    [
        "The `readouterr()` method returns the output captured so far.",
        "Use the capsys fixture: its readouterr() method returns the captured output and resets the capture.",
        "The capsys fixture gives access.\n\n```python\nassert capsys.readouterr().out == 'hello\\n'\n```",
    ],
)
def test_an_answer_in_the_words_of_its_source_is_grounded(answer):
    assert verdict(answer) == Grounding(True, verdict(answer).ratio, "")
    assert verdict(answer).ratio >= 0.6


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("", "is empty"),
        ("I don't know.", "refuses"),
        ("The sources do not contain the answer.", "refuses"),
        ("The capsys fixture gives access to", "does not come to an end"),
        ("The capsys fixture gives access. The capsys fixture gives access.", "does not come to an end"),
        ("A test can read captured output.", "only repeats the question"),
        ("Use the readall() method of capsys, which returns the captured output.", "do not contain 'readall'"),
        ("Use `capfd.read`, which returns the captured output.", "do not contain 'capfd.read'"),
        ("Pass --capture=sys for access to stdout and stderr.", "do not contain '--capture'"),
        ("The capsys fixture gives a test access to stdout in 3 cases.", "do not contain '3'"),
        ("The readouterr() method never returns the output captured so far.", "denies what its source does not"),
        ("Postgres replicates tables between distant regions overnight.", "0% of the answer's words"),
        ("```python\nprint('goodbye')\n```", "do not contain"),
    ],
)
def test_what_a_source_does_not_support_is_not_grounded(answer, reason):
    found = verdict(answer)
    assert not found.is_grounded
    assert reason in found.reason


def test_an_answer_from_a_source_about_something_else_is_not_grounded():
    found = verdict(
        "The readouterr() method returns the output captured so far.", question="How do I register marker names?"
    )
    assert not found.is_grounded
    assert found.reason == "the answer's source is not about the question"


def test_words_scattered_over_distant_sentences_do_not_ground_a_sentence():
    source = "Alpha begins. " + "Nothing stands here at present. " * 5 + "Omega closes. " + "Nothing again stands. " * 5
    found = verdict("Alpha closes omega begins gamma.", question="?", sources=(source + "Gamma.",))
    assert not found.is_grounded


def test_without_sources_nothing_is_grounded():
    assert verdict("The capsys fixture gives access to stdout.", sources=()).is_grounded is False


def test_the_quotation_is_the_passage_nearest_to_the_question():
    other = "Logging can be switched off. Colours can be chosen."
    quotation = quote("What returns the output captured so far?", sources=[other, CAPTURE])
    assert quotation is not None
    assert quotation.source == 1
    assert "returns the output captured so far" in " ".join(quotation.text.split())
    assert quotation.text in CAPTURE


def test_a_quotation_that_ends_in_a_colon_goes_on_to_what_follows():
    source = (
        "Unrelated words stand first.\n\nTo see the slowest tests, type:\n\n```bash\npytest --durations=10\n```\n\nEnd."
    )
    quotation = quote("How do I see the slowest tests?", sources=[source])
    assert quotation is not None
    assert quotation.text.endswith("pytest --durations=10\n```")


def test_no_source_gives_no_quotation():
    assert quote("anything", sources=[]) is None
    assert quote("anything", sources=["", "  \n"]) is None


def test_a_fenced_block_is_one_sentence():
    assert split_sentences("One. Two.\n\n```\na. B. c.\n```\nThree.") == [
        "One.",
        "Two.",
        "```\na. B. c.\n```",
        "Three.",
    ]


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("Use capsys. Then", "Use capsys."),
        ("Use capsys. Use capsys. Use", "Use capsys."),
        ("The answer is: Use capsys.", "Use capsys."),
        ("### Source 4: Capturing\nUse capsys.", "Use capsys."),
        ("You can use the following command:", ""),
        ("never ends", ""),
        ("", ""),
    ],
)
def test_an_answer_is_kept_up_to_its_last_whole_sentence(written, kept):
    assert finished(written) == kept


def test_one_word_in_its_forms_has_one_stem_and_an_identifier_stays_whole():
    assert len(set(content_stems("capture captures captured capturing"))) == 1
    assert content_stems("tmp_path_factory --last-failed") == ["tmp_path_factory", "--last-failed"]


@given(st.text(max_size=300), st.text(max_size=80), st.lists(st.text(max_size=300), max_size=3))
def test_no_text_breaks_the_check_and_a_quotation_stands_in_its_source(answer, question, sources):
    found = judge(answer, question=question, sources=sources, min_ratio=0.6)
    assert 0 <= found.ratio <= 1
    assert found.is_grounded == (found.reason == "")
    assert finished(finished(answer)) == finished(answer)
    quotation = quote(question, sources=sources)
    if quotation is not None:
        assert quotation.text in sources[quotation.source]


@given(st.lists(st.sampled_from(["capsys", "returns", "output", "stdout", "resets", "method"]), min_size=3, max_size=8))
def test_more_may_be_grounded_at_a_lower_threshold_and_never_less(words):
    answer = " ".join(words) + "."
    strict = judge(answer, question="?", sources=[CAPTURE], min_ratio=0.9)
    lax = judge(answer, question="?", sources=[CAPTURE], min_ratio=0.1)
    assert lax.is_grounded or not strict.is_grounded
