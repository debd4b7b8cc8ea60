"""Clusters in memory, against a search by hand over all pairs, from scratch and after any edits."""

from __future__ import annotations

import random

import pyarrow as pa
import pytest

from tests.support.near_texts import SHORT, THRESHOLD, clusters_by_hand, corpus, edit
from transformations.text.few_near_duplicates import affected, candidate_pairs, clusters
from transformations.text.near_duplicates import SIGNATURE_SCHEMA, signature_batches

CLUSTERS = pa.schema([("document_id", pa.string()), ("cluster_id", pa.string())])


def signed(texts: dict[str, str | None]) -> pa.Table:
    rows = [{"document_id": document, "text": text} for document, text in texts.items()]
    batches = pa.Table.from_pylist(rows, schema=pa.schema([("document_id", pa.string()), ("text", pa.string())]))
    return pa.Table.from_batches(signature_batches(THRESHOLD)(iter(batches.to_batches())), SIGNATURE_SCHEMA)


def found(signatures: pa.Table, texts: dict[str, str | None], among: set[str]) -> dict[str, str]:
    pairs = candidate_pairs(signatures, among=among)
    read = {document: texts[document] for pair in pairs for document in pair}
    assert read.keys() <= among
    rows = clusters(signatures, among=among, pairs=pairs, texts=read, threshold=THRESHOLD)
    assert rows.num_rows == len(among)
    return dict(zip(rows["document_id"].to_pylist(), rows["cluster_id"].to_pylist(), strict=True))


def test_clusters_are_those_of_a_search_over_all_pairs():
    texts = corpus(random.Random(11), families=40) | SHORT
    assert found(signed(texts), texts, set(texts)) == clusters_by_hand(texts)


@pytest.mark.parametrize("seed", range(3))
def test_after_any_edits_the_clusters_are_those_made_from_scratch_and_few_are_looked_at(seed: int):
    chance = random.Random(seed)
    texts: dict[str, str | None] = corpus(chance, families=15) | SHORT
    held = clusters_by_hand(texts)
    looked_at = []
    for _ in range(8):
        before = signed(texts)
        changed = edit(texts, chance)
        now = signed(texts)
        old = before.filter(pa.compute.is_in(before["document_id"], pa.array(sorted(changed))))
        known = pa.table([pa.array(list(held)), pa.array(list(held.values()))], schema=CLUSTERS)
        among = affected(now, known, changed=changed, before=old)
        assert changed & texts.keys() <= among
        looked_at.append(len(among) / len(texts))
        updated = found(now, texts, among)
        held = {document: cluster for document, cluster in held.items() if document in texts} | updated
        assert held == clusters_by_hand(texts)
    assert sorted(looked_at)[4] < 0.5


def test_of_no_documents_nothing_is_said():
    nothing = SIGNATURE_SCHEMA.empty_table()
    assert affected(nothing, CLUSTERS.empty_table(), changed=set(), before=nothing) == set()
    assert candidate_pairs(nothing, among=set()) == []
    assert clusters(nothing, among=set(), pairs=[], texts={}, threshold=THRESHOLD).num_rows == 0
