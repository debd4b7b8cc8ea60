"""Questions with their passages in; how a question about the documents scores, and one about something else, out.

    bin/in-venv python -m benchmarks.off_topic ../shared/data/qed/qed-dev.jsonlines

Each question meets its own passage (it is about it), and the best of 100 passages of other questions (it is about none
of them). `answers.min_score` tells the two apart; what it refuses of either is printed for some values of it.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

from benchmarks.grounding import read_qed
from pipelines.models.embedders import model_named

MODEL = "all-minilm-l6-v2"
LIMITS = (0.2, 0.25, 0.3, 0.35, 0.4, 0.45)
OTHERS = 100


def main(path: Path) -> None:
    questions = read_qed(path)
    embedder = model_named(MODEL).load(threads=2)
    asked = embedder.embed([one.question for one in questions])
    passages = embedder.embed([one.passage for one in questions])
    scores = asked @ passages.T
    rng = random.Random(0)
    own, best = [], []
    for number, one in enumerate(questions):
        others = [n for n, other in enumerate(questions) if other.passage != one.passage]
        own.append(float(scores[number, number]))
        best.append(max(float(scores[number, n]) for n in rng.sample(others, OTHERS)))
    for limit in LIMITS:
        refused = [sum(score < limit for score in of) / len(of) for of in (own, best)]
        print(f"{limit:.2f}: of its own passage {refused[0]:.1%} refused, of {OTHERS} others {refused[1]:.1%}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
