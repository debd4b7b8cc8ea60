"""Clusters of near-duplicates where few documents are concerned: `near_duplicates`, without Spark.

One document that comes meets a handful of others. To find them takes one pass over the keys of all documents (some
170 bytes each), which numpy makes in memory; Spark takes 200 jobs. The two give the same, which
tests/spark/test_near_duplicates.py tries on random texts.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from transformations.text.near_duplicates import REACH, SIGNATURE_SCHEMA, components
from transformations.text.shingles import SKETCH_SIZE, sketch

Keys = npt.NDArray[np.int64]
# To measure one takes 0.2 ms, and up to 2 ms where texts are long.
MOST_PAIRS = 20_000


def affected(signatures: pa.Table, clusters: pa.Table, *, changed: Collection[str], before: pa.Table) -> set[str]:
    """`transformations.text.near_duplicates.affected`, of tables: the ids of the documents."""
    changed_ids = pa.array(list(changed), pa.string())
    own = signatures.filter(pc.is_in(signatures["document_id"], changed_ids))
    met = {*changed, *_meeting(signatures, np.concatenate([_flat(own), _flat(before)]))["document_id"].to_pylist()}
    theirs = clusters.filter(pc.is_in(clusters["document_id"], pa.array(list(met), pa.string())))["cluster_id"]
    with_them = clusters.filter(pc.is_in(clusters["cluster_id"], theirs.combine_chunks()))["document_id"].to_pylist()
    now = signatures.filter(pc.is_in(signatures["document_id"], pa.array([*{*met, *with_them}], pa.string())))
    return set(now["document_id"].to_pylist())


def candidate_pairs(
    signatures: pa.Table, *, among: Collection[str] | None = None, reach: int = REACH, most: int = MOST_PAIRS
) -> list[tuple[str, str]] | None:
    """`transformations.text.near_duplicates.candidate_pairs`, of a table: (smaller id, larger id), in order.

    None if they are more than `most`: too many to be measured one after the other.
    """
    if among is not None:
        asked = signatures.filter(pc.is_in(signatures["document_id"], pa.array(list(among), pa.string())))
        signatures = _meeting(signatures, _flat(asked))
    first_of: dict[str, tuple[str, list[int]]] = {}
    for row in signatures.to_pylist():
        document, text_hash = row["document_id"], row["text_hash"]
        if text_hash is not None and (text_hash not in first_of or document < first_of[text_hash][0]):
            first_of[text_hash] = (document, row["keys"])
    crowds: dict[int, list[str]] = {}
    for document, keys in sorted(first_of.values()):
        for key in {*keys}:
            crowds.setdefault(key, []).append(document)
    pairs: set[tuple[str, str]] = set()
    for crowd in crowds.values():
        for place, right in enumerate(crowd):
            if among is None or right in among:
                pairs.update((left, right) for left in crowd[: min(place, reach)] if among is None or left in among)
        if len(pairs) > most:
            return None
    return sorted(pairs)


def clusters(
    signatures: pa.Table,
    *,
    among: Collection[str],
    pairs: Sequence[tuple[str, str]],
    texts: Mapping[str, str],
    threshold: float,
) -> pa.Table:
    """`transformations.text.near_duplicates.clusters`, of a table.

    Args:
        signatures: of all documents of `among`, and of any others.
        pairs: the `candidate_pairs` among them.
        texts: of every document in a pair.

    Returns:
        One row a document of `among`: `SIGNATURE_SCHEMA` and `cluster_id`.
    """
    asked = signatures.filter(pc.is_in(signatures["document_id"], pa.array(list(among), pa.string())))
    ids, hashes = asked["document_id"].to_pylist(), asked["text_hash"].to_pylist()
    first_of: dict[str, str] = {}
    for document, text_hash in sorted(zip(ids, hashes, strict=True), key=lambda pair: pair[0]):
        first_of.setdefault(text_hash or document, document)
    sketches = {document: sketch(text) for document, text in texts.items()}
    near = [pair for pair in pairs if similarity(sketches[pair[0]], sketches[pair[1]]) >= threshold]
    linked = components(near)
    firsts = [first_of[text_hash or document] for document, text_hash in zip(ids, hashes, strict=True)]
    found = pa.array([linked.get(first, first) for first in firsts], pa.string())
    return asked.select(SIGNATURE_SCHEMA.names).append_column("cluster_id", found)


def similarity(left: Keys, right: Keys) -> float:
    """The Jaccard similarity of two texts' shingles, by their sketches: as `near_pairs` measures it."""
    compared = np.union1d(left, right)
    if max(len(left), len(right)) >= SKETCH_SIZE:
        compared = compared[:SKETCH_SIZE]
    shared = np.intersect1d(np.intersect1d(left, right, assume_unique=True), compared, assume_unique=True)
    return len(shared) / len(compared)


def _meeting(signatures: pa.Table, keys: Keys) -> pa.Table:
    """The rows that have one of `keys`."""
    lists = signatures["keys"].combine_chunks()
    parents = pc.list_parent_indices(lists).to_numpy()
    rows = np.unique(parents[np.isin(_flat(signatures), keys)])
    return signatures.take(pa.array(rows, pa.int64()))


def _flat(signatures: pa.Table) -> Keys:
    return np.asarray(pc.list_flatten(signatures["keys"]).to_numpy(), dtype=np.int64)
