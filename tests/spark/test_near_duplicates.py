"""Near-duplicates against a search by hand over all pairs, and updates of them against a computation from scratch."""

from __future__ import annotations

import random
from itertools import combinations
from typing import Any

import pytest

from transformations.text.near_duplicates import affected, candidate_pairs, clusters, near_pairs, signatures
from transformations.text.shingles import sketch, words

DOCUMENTS = "document_id string, text string"
SIGNATURES = "document_id string, text_hash string, keys array<bigint>"
THRESHOLD = 0.8


def _jaccard(left: str, right: str) -> float:
    """Of three-word shingles, by sets of tuples: nothing of the code under test but what a word is."""

    def of(text: str) -> set[tuple[str, ...]]:
        found = words(text)
        return {tuple(found[i : i + 3]) for i in range(max(len(found) - 2, min(len(found), 1)))}

    a, b = of(left), of(right)
    return len(a & b) / len(a | b) if a | b else 0.0


def _clusters_by_hand(texts: dict[str, str | None]) -> dict[str, str]:
    cluster = {document_id: document_id for document_id in texts}
    for left, right in combinations(sorted(texts), 2):
        a, b = texts[left], texts[right]
        if a is None or b is None or cluster[left] == cluster[right]:
            continue
        if a.split() == b.split() or _jaccard(a, b) >= THRESHOLD:
            low, high = sorted((cluster[left], cluster[right]))
            cluster = {d: low if c == high else c for d, c in cluster.items()}
    return cluster


def _edited(text: str, *, ratio: float, chance: random.Random) -> str:
    return " ".join(word if chance.random() >= ratio else f"edit{chance.randrange(1000)}" for word in text.split())


def _text(chance: random.Random, size: int) -> str:
    return " ".join(f"word{chance.randrange(2000)}" for _ in range(size))


def _corpus(chance: random.Random, *, families: int) -> dict[str, str | None]:
    """Families of one text and edits of it, some so slight that they are near and some not."""
    texts: list[str | None] = []
    for _ in range(families):
        first = _text(chance, chance.randrange(30, 200))
        texts.append(first)
        texts.extend(
            _edited(first, ratio=chance.choice([0, 0.01, 0.03, 0.06, 0.2]), chance=chance)
            for _ in range(chance.randrange(4))
        )
    chance.shuffle(texts)
    return {f"{chance.getrandbits(64):016x}": text for text in texts}


def _frame(spark: Any, texts: dict[str, str | None]) -> Any:
    return spark.createDataFrame(list(texts.items()), DOCUMENTS)


def _found(clustered: Any) -> dict[str, str]:
    rows = clustered.collect()
    found = {row["document_id"]: row["cluster_id"] for row in rows}
    assert len(found) == len(rows), "a document has two clusters"
    return found


SHORT = {
    "a1": "", "a2": "", "a3": "...", "b1": "one", "b2": "One!", "b3": "two", "c1": "two words", "c2": "two  words\n",
    "c3": "words two", "d1": None, "d2": None, "e1": "now three words", "e2": "now three words more",
}  # fmt: skip


def test_clusters_are_those_of_a_search_over_all_pairs_and_short_and_missing_texts_are_told_apart(spark):
    texts = _corpus(random.Random(11), families=120) | SHORT
    documents = _frame(spark, texts)
    signed = signatures(documents).persist()
    try:
        found = _found(clusters(documents, signed))
        expected = _clusters_by_hand(texts)
        # By chance one pair in 200 right at the threshold may not meet: of this seed none.
        assert found == expected
        shared = [c for c in expected.values() if list(expected.values()).count(c) > 1]
        assert len(shared) > 100
        assert {found[d] for d in ("a1", "a2")} == {"a1"}
        assert found["a3"] == "a3", "a text without words is near to nothing but its equal"
        assert (found["b2"], found["c2"], found["c3"]) == ("b1", "c1", "c3")
        assert (found["d1"], found["d2"], found["e2"]) == ("d1", "d2", "e2")
        pairs = near_pairs(documents, candidate_pairs(signed)).collect()
        assert len(pairs) > 50
        for left, right, similarity in pairs:
            assert similarity == pytest.approx(_jaccard(texts[left], texts[right]))
    finally:
        signed.unpersist()


def test_documents_in_any_order_and_in_any_number_of_partitions_give_the_same(spark):
    texts = _corpus(random.Random(2), families=30)
    results = []
    for seed in (0, 1):
        rows = list(texts.items())
        random.Random(seed).shuffle(rows)
        documents = spark.createDataFrame(rows, DOCUMENTS).repartition(seed + 1)
        signed = signatures(documents).collect()
        results.append((sorted(signed), _found(clusters(documents, spark.createDataFrame(signed, SIGNATURES)))))
    assert results[0] == results[1]


def test_a_crowd_of_texts_from_one_template_makes_few_pairs_and_one_cluster(spark):
    chance = random.Random(4)
    template = _text(chance, 200).split()
    texts = {f"{chance.getrandbits(64):016x}": " ".join([*template, f"page{n}"]) for n in range(400)}
    texts |= {f"{chance.getrandbits(64):016x}": " ".join(template) for _ in range(100)}
    documents = _frame(spark, texts)
    signed = signatures(documents).persist()
    try:
        pairs = candidate_pairs(signed, reach=5).persist()
        assert pairs.count() <= 21 * 5 * 401 < 401 * 400 / 2, "fewer than all pairs"
        assert set(_found(clusters(documents, signed)).values()) == {min(texts)}
        pairs.unpersist()
    finally:
        signed.unpersist()


@pytest.mark.parametrize("rounds", [2, pytest.param(4, marks=pytest.mark.longest)])
def test_after_any_edits_the_clusters_are_those_made_from_scratch(spark, rounds: int):
    """The first round is all documents; before each further one, documents come, change and go."""
    chance = random.Random(8)
    texts = _corpus(chance, families=15)
    held: dict[str, str] = {}
    signed: dict[str, Any] = {}
    changed = set(texts)
    narrower = 0
    for _ in range(rounds):
        documents = _frame(spark, texts)
        before = spark.createDataFrame([signed[d] for d in sorted(changed & signed.keys())], SIGNATURES)
        touched = spark.createDataFrame([(d,) for d in sorted(changed)], "document_id string")
        fresh = signatures(documents.join(touched, "document_id", "left_semi")).collect()
        signed = {d: row for d, row in signed.items() if d in texts and d not in changed}
        signed |= {row["document_id"]: row for row in fresh}
        now = spark.createDataFrame(list(signed.values()), SIGNATURES)
        known = spark.createDataFrame(list(held.items()), "document_id string, cluster_id string")
        among = affected(now, known, changed=touched, before=before)
        of_them = {row["document_id"] for row in among.collect()}
        assert changed & texts.keys() <= of_them
        narrower += len(of_them) < len(texts) / 2
        needed = _frame(spark, {d: texts[d] for d in of_them})
        updated = _found(clusters(needed, now, among=among))
        assert updated.keys() == of_them
        held = {d: c for d, c in held.items() if d in texts} | updated
        assert held == _found(clusters(documents, signatures(documents)))
        changed = _edit(texts, chance)
    assert narrower == rounds - 1, "an update looks at few documents"
    assert len(set(held.values())) < len(held)


def _edit(texts: dict[str, str | None], chance: random.Random) -> set[str]:
    """Change some texts in place; returns whose."""
    ids = sorted(texts)
    gone, changed = chance.sample(ids, 2), chance.sample(ids, 2)
    for document_id in changed:
        texts[document_id] = _edited(texts[chance.choice(ids)] or "", ratio=0.02, chance=chance)
    for document_id in gone:
        texts.pop(document_id)
    new = f"{chance.getrandbits(64):016x}"
    texts[new] = _edited(texts[chance.choice(sorted(texts))] or "", ratio=chance.choice([0, 0.02]), chance=chance)
    return {*gone, *changed, new}


def test_what_is_compared_of_a_text_is_bounded():
    assert len(sketch(_text(random.Random(0), 50_000) + " ".join(map(str, range(50_000))))) == 4096
