"""Questions whose right and wrong answers are known in; how many of each the check lets through."""

from __future__ import annotations

import random

import pytest

from benchmarks.grounding import WEIGHTS_FILE, _module, figures, read_qed
from transformations.answers import span_weights
from transformations.answers.answer_spans import Reading
from transformations.answers.grounding import check_grounding, split_spans

NAMES = ["Ada Byron", "Carl Friedrich Gauss", "Niels Abel", "Sofia Kovalevskaya", "Henri Poincaré", "Mary Cartwright"]
TOWNS = ["Lyon", "Uppsala", "Port Louis", "Göttingen", "Kraków", "Santa Fe", "Leeds"]
THINGS = ["bridge", "observatory", "harbour", "library", "theatre", "aqueduct", "lighthouse"]


def passages(count: int) -> list[tuple[str, list[tuple[str, str]]]]:
    """Passages made of facts, and what is asked of each: (question, answer). Another question's answer is wrong."""
    rng = random.Random(7)
    made = []
    for _ in range(count):
        who, owner, heir = rng.sample(NAMES, 3)
        town, other = rng.sample(TOWNS, 2)
        thing = rng.choice(THINGS)
        began, sold = sorted(rng.sample(range(1700, 1990), 2))
        workers, height = rng.sample(range(120, 990), 2)
        text = (
            f"The {thing} of {town} was designed by {who}. Construction began in {began}, employing {workers} workers. "
            f"It stands {height} metres above the river. In {sold} the {thing} was sold to {owner}, whose daughter "
            f"{heir} later moved its archive to {other}."
        )
        made.append(
            (
                text,
                [
                    (f"who designed the {thing} of {town}", who),
                    ("when did construction begin", str(began)),
                    ("how many workers were employed in construction", str(workers)),
                    (f"who was the {thing} sold to", owner),
                    (f"when was the {thing} sold", str(sold)),
                    ("where was the archive moved to", other),
                ],
            )
        )
    return made


def test_right_answers_pass_and_stand_above_wrong_ones():
    right, wrong, leads = [], [], []
    for text, asked in passages(12):
        for place, (question, answer) in enumerate(asked):
            other = asked[(place + 1) % len(asked)][1]
            reading = Reading(question, text, tuple(split_spans(text)))
            leads.append(reading.support(answer) > reading.support(other))
            for form in ("{}", "The answer is {}."):
                right.append(
                    check_grounding(form.format(answer), question=question, sources=[text], min_ratio=0.6).is_grounded
                )
                wrong.append(
                    check_grounding(form.format(other), question=question, sources=[text], min_ratio=0.6).is_grounded
                )
    assert sum(right) / len(right) >= 0.9
    assert sum(leads) / len(leads) >= 0.8
    # The neighbouring fact of a passage of facts is harder than another question's answer in a text of Wikipedia.
    assert sum(wrong) / len(wrong) <= 0.4


@pytest.mark.long
def test_of_the_questions_that_were_held_out_most_right_answers_pass_and_few_wrong_ones(shared_data):
    questions = read_qed(shared_data / "qed" / "qed-dev.jsonlines")
    held_out = [one for one in questions if one.is_held_out][::3]
    found = figures(held_out)
    for form in ("bare", "told"):
        right, wrong, _ = found[form]
        assert right >= 0.83
        assert wrong <= 0.25
    right, wrong, _ = found["sentence"]
    assert right > wrong


def test_the_module_of_weights_is_as_the_benchmark_writes_it():
    least = (span_weights.LEAST, span_weights.LEAST_OF_SENTENCE)
    written = _module(span_weights.BIAS, span_weights.WEIGHTS, least)
    assert WEIGHTS_FILE.read_text(encoding="utf-8") == written
    assert "91% of the right short answers and 85% of the right" in written
