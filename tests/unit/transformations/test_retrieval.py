"""Rankings in, hit and rank out, the same as NIST's trec_eval says."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transformations.metrics.retrieval import hit_at_k, is_in_section, mean, ndcg_at_k, recall_at_k, reciprocal_rank


def test_the_first_relevant_id_decides():
    assert reciprocal_rank(["a", "b", "c"], gold={"b", "c"}) == 0.5
    assert reciprocal_rank(["a"], gold={"z"}) == 0
    assert not hit_at_k(["a", "b"], gold={"b"}, k=1)
    assert hit_at_k(["a", "b"], gold={"b"}, k=2)


def test_nothing_retrieved_or_nothing_relevant_is_a_miss():
    assert not hit_at_k([], gold={"a"}, k=5)
    assert reciprocal_rank([], gold={"a"}) == 0
    assert reciprocal_rank(["a"], gold=set()) == 0
    assert recall_at_k(["a"], gold=set(), k=5) == ndcg_at_k(["a"], gold=set(), k=5) == 0
    assert mean([]) is None


@given(st.lists(st.integers(0, 30).map(str), unique=True), st.sets(st.integers(0, 30).map(str)), st.integers(1, 40))
def test_a_hit_at_k_is_a_first_rank_of_at_most_k(ranked, gold, k):
    assert hit_at_k(ranked, gold=gold, k=k) == (reciprocal_rank(ranked, gold=gold) >= 1 / k)


@pytest.mark.parametrize(
    ("path", "headings", "expected"),
    [
        ("a.rst", ["Guide", "Fixture scopes"], True),
        ("a.rst", ["Guide", "fixture `scopes`"], True),
        ("a.rst", ["Fixture scopes", "Dynamic scope"], True),
        ("a.rst", ["Guide"], False),
        ("a.rst", [], False),
        ("b.rst", ["Guide", "Fixture scopes"], False),
    ],
)
def test_a_section_holds_its_subsections_and_knows_headings_by_their_words(path, headings, expected):
    assert is_in_section(path, headings, gold_path="a.rst", gold_heading="Fixture scopes") is expected


def test_ranks_equal_those_of_trec_eval(shared_data: Path):
    folder = shared_data / "trec_eval_oracle"
    if not folder.is_dir():
        pytest.skip(f"trec_eval's files are not here (looked in {folder})")
    gold: dict[str, set[str]] = defaultdict(set)
    for line in (folder / "qrels.test").read_text().splitlines():
        topic, _, document, relevance = line.split()
        if int(relevance) > 0:
            gold[topic].add(document)
    scored: dict[str, list[tuple[float, str]]] = defaultdict(list)
    for line in (folder / "results.test").read_text().splitlines():
        topic, _, document, _, score, _ = line.split()
        scored[topic].append((float(score), document))
    # trec_eval ranks by score, ties by the later name first; the column of ranks is not read.
    ranked = {topic: [document for _, document in sorted(found, reverse=True)] for topic, found in scored.items()}

    expected: dict[tuple[str, str], float] = {}
    for line in (folder / "out.test.aq").read_text().splitlines():
        name, topic, value = line.split("\t")
        if name.strip() == "recip_rank" or name.strip().startswith(("recall_", "ndcg_cut_")):
            expected[name.strip(), topic] = float(value)

    ranks = {topic: reciprocal_rank(ranked[topic], gold=gold[topic]) for topic in ranked}
    assert len(ranks) == 3
    for topic, rank in ranks.items():
        assert rank == pytest.approx(expected["recip_rank", topic], abs=5e-5)
        for k in (5, 10, 15, 20, 30, 100, 200, 500, 1000):
            recall = expected[f"recall_{k}", topic]
            assert hit_at_k(ranked[topic], gold=gold[topic], k=k) == (recall > 0), (topic, k)
            assert recall_at_k(ranked[topic], gold=gold[topic], k=k) == pytest.approx(recall, abs=5e-5)
            ndcg = expected[f"ndcg_cut_{k}", topic]
            assert ndcg_at_k(ranked[topic], gold=gold[topic], k=k) == pytest.approx(ndcg, abs=5e-5)
    assert mean(ranks.values()) == pytest.approx(expected["recip_rank", "all"], abs=5e-5)
