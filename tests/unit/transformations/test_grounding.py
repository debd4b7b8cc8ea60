"""Answers and sources in; what the check lets through, and what is quoted instead."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transformations.answers.answer_spans import Reading
from transformations.answers.grounding import Grounding, check_grounding, finished, quote, split_sentences, split_spans
from transformations.answers.roles import has_reversed_roles
from transformations.text.stems import content_stems

CAPTURE = (
    "Accessing captured output\n\n"
    "The `capsys` fixture gives a test access to stdout and stderr. Its `readouterr()` method returns the output "
    "captured so far, and resets the capture.\n\n"
    "```python\ndef test_output(capsys):\n    print('hello')\n    assert capsys.readouterr().out == 'hello\\n'\n```\n\n"
    "Capturing does not work in 2 cases."
)
QUESTION = "How can a test read captured output?"


def verdict(answer: str, *, question: str = QUESTION, sources: tuple[str, ...] = (CAPTURE,)) -> Grounding:
    return check_grounding(answer, question=question, sources=sources, min_ratio=0.6)


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
        ("291 episodes", "291 episodes"),
        ("Short answer: Conrad", "Conrad"),
        ("the answer to", ""),
        ("", ""),
    ],
)
def test_an_answer_is_kept_up_to_its_last_whole_sentence(written, kept):
    assert finished(written) == kept


def test_a_phrase_that_was_cut_off_is_not_kept():
    assert finished("291 episodes", is_cut=True) == ""


NOBEL = (
    "The first Nobel Prize in Physics was awarded in 1901 to Wilhelm Conrad Röntgen, of Germany, who received 150,782 "
    "SEK. John Bardeen is the only laureate to win the prize twice, in 1956 and 1972. Two women have won the prize: "
    "Marie Curie and Maria Goeppert-Mayer. As of 2017, the prize has been awarded to 206 individuals."
)
KNOWN = [
    ("who got the first nobel prize in physics", "Wilhelm Conrad Röntgen", "John Bardeen"),
    ("when was the first nobel prize in physics awarded", "1901", "1956"),
    ("who is the only laureate to win the prize twice", "John Bardeen", "Wilhelm Conrad Röntgen"),
]


@pytest.mark.parametrize("form", ["{}", "The answer is {}.", "It is {}.", "Answer: {}"])
@pytest.mark.parametrize(("question", "right", "wrong"), KNOWN)
def test_a_short_answer_is_judged_by_where_it_stands(question, right, wrong, form):
    assert check_grounding(form.format(right), question=question, sources=[NOBEL], min_ratio=0.6).is_grounded
    reading = Reading(question, NOBEL, tuple(split_spans(NOBEL)))
    assert reading.support(right) > reading.support(wrong)


def test_an_answer_that_stands_nowhere_or_only_repeats_the_question_is_refused():
    question = KNOWN[0][0]
    for wrong in ("Albert Einstein", "The answer is 1999.", "physics", "The answer is the Nobel Prize."):
        assert not check_grounding(wrong, question=question, sources=[NOBEL], min_ratio=0.6).is_grounded


@pytest.mark.parametrize(
    ("said", "is_reversed"),
    [
        ("Beta acquired Alpha for 5 million dollars in 2001.", True),
        ("Alpha acquired Beta for 5 million dollars in 2001.", False),
        ("Beta was acquired by Alpha for 5 million dollars.", False),
        ("Alpha was acquired by Beta for 5 million dollars.", True),
    ],
)
def test_who_did_what_to_whom_must_be_as_the_source_says(said, is_reversed):
    source = "The markets were calm. In 2001 Alpha acquired Beta for 5 million dollars. Nobody else was interested."
    found = check_grounding(said, question="What happened in 2001?", sources=[source], min_ratio=0.6)
    assert (found.reason == "the answer exchanges who did what to whom") is is_reversed
    assert has_reversed_roles(said, source) is is_reversed


def test_names_that_only_stand_in_a_list_may_come_in_any_order():
    assert not has_reversed_roles("Beta, Alpha and Gamma agreed.", "Alpha, Beta and Gamma agreed.")


def test_a_quotation_never_begins_in_the_middle_of_a_row():
    table = (
        "| Option | What it does |\n| --- | --- |\n| -x | Stops. Then it reports the failure. |\n| -v | Tells more. |"
    )
    for source in (f"Options are listed.\n\n{table}\n\nThe end.", table + "\n" + "| -z | Nothing at all. |\n" * 40):
        quotation = quote("What reports the failure and stops?", sources=[source])
        assert quotation is not None
        assert all(line.startswith("|") and line.endswith("|") for line in quotation.text.splitlines())
        assert "reports the failure" in quotation.text
        assert quotation.text.startswith("| Option |")


def test_a_source_that_has_nothing_of_the_question_is_not_quoted():
    assert quote("Who painted the ceiling of the chapel?", sources=[CAPTURE]) is None


def test_one_word_in_its_forms_has_one_stem_and_an_identifier_stays_whole():
    assert len(set(content_stems("capture captures captured capturing"))) == 1
    assert content_stems("tmp_path_factory --last-failed") == ["tmp_path_factory", "--last-failed"]


@given(st.text(max_size=300), st.text(max_size=80), st.lists(st.text(max_size=300), max_size=3))
def test_no_text_breaks_the_check_and_a_quotation_stands_in_its_source(answer, question, sources):
    found = check_grounding(answer, question=question, sources=sources, min_ratio=0.6)
    assert 0 <= found.ratio <= 1
    assert found.is_grounded == (found.reason == "")
    assert finished(finished(answer)) == finished(answer)
    quotation = quote(question, sources=sources)
    if quotation is not None:
        assert quotation.text in sources[quotation.source]


@given(st.lists(st.sampled_from(["capsys", "returns", "output", "stdout", "resets", "method"]), min_size=3, max_size=8))
def test_more_may_be_grounded_at_a_lower_threshold_and_never_less(words):
    answer = " ".join(words) + "."
    strict = check_grounding(answer, question="?", sources=[CAPTURE], min_ratio=0.9)
    lax = check_grounding(answer, question="?", sources=[CAPTURE], min_ratio=0.1)
    assert lax.is_grounded or not strict.is_grounded


@pytest.mark.parametrize(
    ("question", "said", "is_right"),
    [(KNOWN[2][0], "John Bardeen", True), (KNOWN[1][0], "Maria Goeppert-Mayer", False)],
)
def test_a_short_answer_that_is_also_a_title_is_judged_by_the_sentence_that_it_stands_in(question, said, is_right):
    found = check_grounding(said, question=question, sources=[f"{said}\n\n{NOBEL}"], min_ratio=0.6)
    assert found == check_grounding(said, question=question, sources=[NOBEL], min_ratio=0.6)
    assert found.is_grounded is is_right
