"""A judged reading set in; the weights of the check of grounding, and how often it is right and wrong, out.

    bin/in-venv python -m benchmarks.grounding ../shared/data/qed/qed-dev.jsonlines          # held-out figures
    bin/in-venv python -m benchmarks.grounding ../shared/data/qed/qed-dev.jsonlines --fit    # rewrites the weights

Each question comes with its passage and the answers that people found there. Right is such an answer; wrong is another
question's answer that stands in the same passage; each as the bare words, as "The answer is …." and as the sentence
that holds it (wrong: a sentence without any right answer). The weights are fitted to one half of the questions, the
figures are of the other half. The data is QED's (real questions, Wikipedia's text): it is not part of the project.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipelines.settings.sections import AnswerSettings
from transformations.answers.answer_spans import FEATURES, Reading, rivals
from transformations.answers.grounding import check_grounding, split_spans

WEIGHTS_FILE = Path(__file__).parents[1] / "transformations" / "answers" / "span_weights.py"
_MIN_RATIO = AnswerSettings().min_grounded_ratio
# So many right ones of the half that is fitted are refused; the other half has what this one has not.
_MISSED = 0.09
# Of sentences, right and wrong overlap so much that more right ones are given up.
_MISSED_SENTENCES = 0.15


@dataclass
class Judged:
    """A question with its passage; `right` answers, where they stand, and `wrong` ones that stand there too."""

    question: str
    passage: str
    right: list[str]
    places: list[tuple[int, int]]
    wrong: list[str] = field(default_factory=list)

    @property
    def is_held_out(self) -> bool:
        return hashlib.sha256(self.question.encode()).digest()[0] % 2 == 0

    @property
    def reading(self) -> Reading:
        return Reading(self.question, self.passage, tuple(split_spans(self.passage)))


def read_qed(path: Path) -> list[Judged]:
    """The questions of QED whose answer stands in their passage."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        passage = row["paragraph_text"]
        said = [span["string"] for answer in row["original_nq_answers"] for span in answer]
        right = [text for text in dict.fromkeys(said) if standing(text, passage)]
        places = [place for text in right for place in standing(text, passage)]
        for answer in row["annotation"].get("answer", []):
            span = answer["paragraph_reference"]
            places.append((span["start"], span["end"]))
        if right:
            found.append(Judged(row["question_text"], passage, right, places))
    answers = sorted({text for one in found for text in one.right if len(text) > 1})
    for one in found:
        one.wrong = [text for text in answers if text in one.passage and _is_wrong(text, one)]
    return found


def standing(text: str, passage: str) -> list[tuple[int, int]]:
    return [m.span() for m in re.finditer(rf"(?<!\w){re.escape(text)}(?!\w)", passage)]


def _is_wrong(text: str, one: Judged) -> bool:
    if any(text in right or right in text for right in one.right):
        return False
    places = standing(text, one.passage)
    return bool(places) and not any(a < d and c < b for a, b in places for c, d in one.places)


def pairs(one: Judged) -> list[tuple[str, str, str]]:
    """(form, right, wrong) answers to one question; a form without a wrong one is left out."""
    rng = random.Random(one.question)
    found = []
    if one.wrong:
        right, wrong = one.right[0], rng.choice(one.wrong)
        found += [("bare", right, wrong), ("told", f"The answer is {right}.", f"The answer is {wrong}.")]
    spans = split_spans(one.passage)
    texts = [one.passage[a:b] for a, b in spans]
    holds = [any(a < d and c < b for c, d in one.places) for a, b in spans]
    others = [text for text, is_held in zip(texts, holds, strict=True) if not is_held and len(text.split()) > 4]
    first = next((n for n, (a, b) in enumerate(spans) if a <= one.places[0][0] < b), None)
    if others and first is not None:
        found.append(("sentence", texts[first], rng.choice(others)))
    return found


def figures(questions: Iterable[Judged]) -> dict[str, tuple[float, float, int]]:
    """form → share of right answers that are accepted, of wrong ones, and the number of pairs."""
    counts: dict[str, list[int]] = {}
    for one in questions:
        for form, right, wrong in pairs(one):
            of = counts.setdefault(form, [0, 0, 0])
            of[0] += accepted(right, one)
            of[1] += accepted(wrong, one)
            of[2] += 1
    return {form: (right / n, wrong / n, n) for form, (right, wrong, n) in counts.items()}


def accepted(answer: str, one: Judged) -> bool:
    return check_grounding(answer, question=one.question, sources=[one.passage], min_ratio=_MIN_RATIO).is_grounded


def fit(questions: Sequence[Judged]) -> str:
    """The text of the module of weights, fitted to these questions."""
    import numpy as np
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    rows, is_right, weight = [], [], []
    for one in questions:
        reading = one.reading
        right = [reading.features(a, b) for text in one.right for a, b in standing(text, one.passage)]
        told = [reading.features(a, b) for text in one.wrong for a, b in standing(text, one.passage)]
        wrong = [
            reading.features(a, b) for a, b in rivals(one.passage) if not any(a < d and c < b for c, d in one.places)
        ]
        rows += [*right, *told, *wrong]
        is_right += [True] * len(right) + [False] * (len(told) + len(wrong))
        # Other questions' answers are what a model takes for the answer; any other span counts a little.
        for of, share in ((right, 1.0), (told, 3.0), (wrong, 0.7)):
            weight += [share / max(len(of), 1)] * len(of)
    values = np.array([[row.get(name, 0.0) for name in FEATURES] for row in rows])
    scaler = StandardScaler().fit(values)
    model = LogisticRegression(C=0.05, max_iter=1_000).fit(scaler.transform(values), is_right, sample_weight=weight)
    weights = model.coef_[0] / scaler.scale_
    bias = float(model.intercept_[0] - (weights * scaler.mean_).sum())
    return _module(bias, {name: float(w) for name, w in zip(FEATURES, weights, strict=True) if abs(w) >= 0.005})


def thresholds(questions: Sequence[Judged]) -> tuple[float, float]:
    """The least support, of a short answer and of a sentence, by which so many right ones are accepted."""
    spans, sentences = [], []
    for one in questions:
        reading = one.reading
        for form, right, _ in pairs(one):
            if form == "bare" and (support := reading.support(right)) is not None:
                spans.append(support)
            if form == "sentence":
                sentences.append(reading.support_of_sentence(reading.sentence_of(one.passage.index(right))))
    return sorted(spans)[int(_MISSED * len(spans))], sorted(sentences)[int(_MISSED_SENTENCES * len(sentences))]


def _module(bias: float, weights: dict[str, float], least: tuple[float, float] = (0.0, 0.0)) -> str:
    lines = [f'    "{name}": {weight:.3f},' for name, weight in weights.items()]
    return "\n".join(
        [
            '"""The weight of each trait of a span as an answer: a logistic model, fitted by benchmarks/grounding.py.',
            "",
            "`kind: trait` counts only if the question asks for that kind. A short answer is taken for right from a "
            "support of LEAST",
            "on, a longer one from LEAST_OF_SENTENCE on. These bounds accept "
            f"{1 - _MISSED:.0%} of the right short answers and {1 - _MISSED_SENTENCES:.0%} of the right",
            "longer ones, measured on the half of the data that the model was fitted to.",
            '"""',
            "",
            "from __future__ import annotations",
            "",
            f"BIAS = {bias:.3f}",
            f"LEAST, LEAST_OF_SENTENCE = {least[0]:.2f}, {least[1]:.2f}",
            "WEIGHTS: dict[str, float] = {",
            *lines,
            "}",
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("qed", type=Path)
    parser.add_argument("--fit", action="store_true", help="fit the weights to the other half, and write them")
    chosen = parser.parse_args()
    questions = read_qed(chosen.qed)
    fitted = [one for one in questions if not one.is_held_out]
    held_out = [one for one in questions if one.is_held_out]
    if chosen.fit:
        _write(fitted)
    print(f"{len(questions)} questions, {len(held_out)} of them held out")
    for form, (right, wrong, count) in figures(held_out).items():
        print(f"{form:<10} accepted right {right:.1%}, accepted wrong {wrong:.1%}, {count} pairs")


def _write(fitted: Sequence[Judged]) -> None:
    import transformations.answers.answer_spans as used
    import transformations.answers.grounding as checks

    text = fit(fitted)
    names: dict[str, object] = {}
    exec(text, names)
    used.BIAS, used.WEIGHTS = names["BIAS"], names["WEIGHTS"]  # type: ignore[assignment]
    least = thresholds(fitted)
    checks.LEAST, checks.LEAST_OF_SENTENCE = least
    WEIGHTS_FILE.write_text(_module(names["BIAS"], names["WEIGHTS"], least), encoding="utf-8")  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
