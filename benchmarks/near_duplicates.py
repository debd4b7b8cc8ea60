"""A number of documents in; how many planted near-duplicates are found, how many found ones are none, time, memory out.

    python -m benchmarks.near_duplicates [--documents 100000] [--peer 5000] [--folder DIR]

Documents are drawn from a vocabulary whose words are as unequal as those of a language. A tenth of them have a partner
at one of several similarities, above the threshold of 0.8 and below it (these must not be found); 2 % are pages of one
template; 100 are one text. The truth is the Jaccard similarity of sets of word triples, computed without anything
of lakeloop. The peer is MinHashLSH of pyspark.ml, on fewer of the same documents.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

THRESHOLD = 0.8
LEVELS = (1.0, 0.97, 0.93, 0.9, 0.87, 0.84, 0.82, 0.78, 0.75, 0.7, 0.6)
_WORDS, _ROWS_A_FILE = 40_000, 10_000


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.near_duplicates")
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--peer", type=int, default=5_000, help="documents for the peer; 0 leaves it out")
    parser.add_argument("--folder", type=Path, help="where the files go; a temporary folder by default")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="lakeloop-bench-", dir=arguments.folder))
    try:
        spark = session(folder)
        sizes = {"lakeloop": [arguments.peer, arguments.documents], "MinHashLSH": [arguments.peer]}
        print("| system | documents | seconds | peak MB | planted | found | recall | precision |")
        print("| --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
        for system, run in (("MinHashLSH", run_peer), ("lakeloop", run_lakeloop)):
            for size in filter(None, sizes[system]):
                texts, planted = make(folder / str(size), documents=size)
                with peak_memory() as peak:
                    begun = time.perf_counter()
                    pairs = run(spark, folder / str(size))
                    seconds = time.perf_counter() - begun
                report(system, seconds, peak["bytes"], pairs, texts=texts, planted=planted)
        spark.stop()
    finally:
        shutil.rmtree(folder)


def make(folder: Path, *, documents: int) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """Write the documents; returns their texts and the pairs that were planted, near and not near, smaller id first."""
    chance = np.random.default_rng(0)
    ranks = np.arange(1, _WORDS + 1)
    weights = 1 / (ranks + 2.7)
    weights /= weights.sum()
    vocabulary = np.array([f"w{n:x}" for n in range(_WORDS)])

    def draw(size: int) -> list[str]:
        return list(vocabulary[chance.choice(_WORDS, size=size, p=weights)])

    texts: list[str] = []
    partners: list[tuple[int, int]] = []
    template, same = draw(250), " ".join(draw(120))
    crowd = documents // 50
    for _ in range(crowd):
        texts.append(" ".join([*template, *draw(6)]))
    texts.extend([same] * 100)
    while len(texts) < documents:
        words = draw(int(np.clip(chance.lognormal(5.3, 0.6), 60, 2000)))
        texts.append(" ".join(words))
        if chance.random() < 0.1:
            texts.append(" ".join(edited(words, level=float(chance.choice(LEVELS)), chance=chance)))
            partners.append((len(texts) - 2, len(texts) - 1))
    ids = [f"{n:032x}" for n in chance.permutation(len(texts))]
    folder.mkdir(exist_ok=True)
    for start in range(0, len(texts), _ROWS_A_FILE):
        part = slice(start, start + _ROWS_A_FILE)
        pq.write_table(pa.table({"document_id": ids[part], "text": texts[part]}), folder / f"{start}.parquet")
    planted = [(ids[a], ids[b]) for a, b in partners]
    for group in (ids[:crowd], ids[crowd : crowd + 100]):
        planted += pairwise(sorted(group))
    return dict(zip(ids, texts, strict=True)), [(min(pair), max(pair)) for pair in planted]


def edited(words: list[str], *, level: float, chance: np.random.Generator) -> list[str]:
    """`words` with as many replaced, far from each other, as bring the similarity of word triples to about `level`."""
    count = round((len(words) - 2) * (1 - level) / (3 * (1 + level)))
    words = list(words)
    if count:
        step = len(words) / count
        for number in range(count):
            words[int((number + 0.5) * step)] = f"x{chance.integers(1 << 40):x}"
    return words


def jaccard(left: str, right: str) -> float:
    a, b = ({tuple(w[i : i + 3]) for i in range(len(w) - 2)} for w in (left.split(), right.split()))
    return len(a & b) / len(a | b)


def report(
    system: str,
    seconds: float,
    peak: int,
    pairs: set[tuple[str, str]],
    *,
    texts: dict[str, str],
    planted: list[tuple[str, str]],
) -> None:
    near = {pair for pair in planted if jaccard(texts[pair[0]], texts[pair[1]]) >= THRESHOLD}
    right = sum(jaccard(texts[a], texts[b]) >= THRESHOLD for a, b in pairs)
    recall, precision = len(near & pairs) / len(near), right / max(len(pairs), 1)
    print(
        f"| {system} | {len(texts)} | {seconds:.1f} | {peak / 1e6:.0f} | {len(near)} | {len(pairs)} "
        f"| {recall:.4f} | {precision:.4f} |",
        flush=True,
    )
    levels = Counter(f"{jaccard(texts[a], texts[b]):.2f}" for a, b in near - pairs)
    if levels:
        print(f"missed, by similarity: {json.dumps(dict(sorted(levels.items())))}", flush=True)


def run_lakeloop(spark: Any, folder: Path) -> set[tuple[str, str]]:
    """From texts to clusters, as a first run does. Every pair in a cluster counts as found; of a large one, neighbours
    by id, as they were planted: its pairs are millions."""
    from transformations.text.near_duplicates import clusters, signatures

    documents = spark.read.parquet(str(folder))
    kept = f"{folder}.signatures"
    signatures(documents).write.mode("overwrite").parquet(kept)
    result = clusters(documents, spark.read.parquet(kept)).toArrow()
    members: dict[str, list[str]] = {}
    for document_id, cluster_id in zip(*(result[c].to_pylist() for c in result.column_names), strict=True):
        members.setdefault(cluster_id, []).append(document_id)
    pairs: set[tuple[str, str]] = set()
    for ids in members.values():
        pairs.update(combinations(sorted(ids), 2) if len(ids) <= 50 else pairwise(sorted(ids)))
    return pairs


def run_peer(spark: Any, folder: Path) -> set[tuple[str, str]]:
    """MinHashLSH with three tables: a pair at the threshold has a chance of 99.2 % to meet. It measures exactly."""
    from pyspark.ml.feature import HashingTF, MinHashLSH, NGram, RegexTokenizer

    documents = spark.read.parquet(str(folder))
    tokens = RegexTokenizer(inputCol="text", outputCol="words", pattern="\\W+").transform(documents)
    triples = NGram(n=3, inputCol="words", outputCol="triples").transform(tokens)
    features = HashingTF(inputCol="triples", outputCol="features", numFeatures=1 << 22, binary=True).transform(triples)
    features = features.select("document_id", "features").persist()
    model = MinHashLSH(inputCol="features", outputCol="hashes", numHashTables=3, seed=0).fit(features)
    joined = model.approxSimilarityJoin(features, features, 1 - THRESHOLD, distCol="distance")
    rows = joined.where("datasetA.document_id < datasetB.document_id")
    found = rows.select("datasetA.document_id", "datasetB.document_id").collect()
    features.unpersist()
    return {(row[0], row[1]) for row in found}


def session(folder: Path) -> Any:
    """The session of `lakeloop run`: 1 GB of heap, as it was when the figures were taken, and two partitions."""
    from pipelines.lakehouse.session import get_spark
    from pipelines.settings.sections import Settings

    return get_spark(Settings(root=folder, spark={"driver_memory": "1g", "conf": {"spark.local.dir": str(folder)}}))


@contextmanager
def peak_memory() -> Iterator[dict[str, int]]:
    """Most memory of this process, the JVM and Spark's Python workers together, looked at every half second; shared
    pages count once (PSS)."""
    peak, ended = {"bytes": 0}, threading.Event()

    def watch() -> None:
        while not ended.wait(0.5):
            total = 0
            for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
                try:
                    total += process.memory_full_info().pss
                except psutil.Error:
                    continue
            peak["bytes"] = max(peak["bytes"], total)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        ended.set()
        watcher.join()


if __name__ == "__main__":
    main()
