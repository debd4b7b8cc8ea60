"""Random texts, some of which are near each other, and a search by hand for those that are."""

from __future__ import annotations

import random
from itertools import combinations

from transformations.text.shingles import words

THRESHOLD = 0.8
SHORT = {
    "a1": "", "a2": "", "a3": "...", "b1": "one", "b2": "One!", "b3": "two", "c1": "two words", "c2": "two  words\n",
    "c3": "words two", "d1": None, "d2": None, "e1": "now three words", "e2": "now three words more",
}  # fmt: skip


def jaccard(left: str, right: str) -> float:
    """Of three-word shingles, by sets of tuples: nothing of the code under test but what a word is."""

    def of(text: str) -> set[tuple[str, ...]]:
        found = words(text)
        return {tuple(found[i : i + 3]) for i in range(max(len(found) - 2, min(len(found), 1)))}

    a, b = of(left), of(right)
    return len(a & b) / len(a | b) if a | b else 0.0


def clusters_by_hand(texts: dict[str, str | None]) -> dict[str, str]:
    cluster = {document_id: document_id for document_id in texts}
    for left, right in combinations(sorted(texts), 2):
        a, b = texts[left], texts[right]
        if a is None or b is None or cluster[left] == cluster[right]:
            continue
        if a.split() == b.split() or jaccard(a, b) >= THRESHOLD:
            low, high = sorted((cluster[left], cluster[right]))
            cluster = {d: low if c == high else c for d, c in cluster.items()}
    return cluster


def edited(text: str, *, ratio: float, chance: random.Random) -> str:
    return " ".join(word if chance.random() >= ratio else f"edit{chance.randrange(1000)}" for word in text.split())


def text_of(chance: random.Random, size: int) -> str:
    return " ".join(f"word{chance.randrange(2000)}" for _ in range(size))


def corpus(chance: random.Random, *, families: int) -> dict[str, str | None]:
    """Families of one text and edits of it, some so slight that they are near and some not."""
    texts: list[str | None] = []
    for _ in range(families):
        first = text_of(chance, chance.randrange(30, 200))
        texts.append(first)
        texts.extend(
            edited(first, ratio=chance.choice([0, 0.01, 0.03, 0.06, 0.2]), chance=chance)
            for _ in range(chance.randrange(4))
        )
    chance.shuffle(texts)
    return {f"{chance.getrandbits(64):016x}": text for text in texts}


def edit(texts: dict[str, str | None], chance: random.Random) -> set[str]:
    """Change some texts in place; returns whose."""
    ids = sorted(texts)
    gone, changed = chance.sample(ids, 2), chance.sample(ids, 2)
    for document_id in changed:
        texts[document_id] = edited(texts[chance.choice(ids)] or "", ratio=0.02, chance=chance)
    for document_id in gone:
        texts.pop(document_id)
    new = f"{chance.getrandbits(64):016x}"
    texts[new] = edited(texts[chance.choice(sorted(texts))] or "", ratio=chance.choice([0, 0.02]), chance=chance)
    return {*gone, *changed, new}
