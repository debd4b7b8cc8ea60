"""One handle, many threads that search, and commits by somebody else meanwhile: no error, and whole answers only."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pipelines.settings.sections import Settings
from pipelines.stores import Store, open_store
from tests.stores.holding import Rows, load, other_process
from tests.stores.rows import DIMENSION, manifest, row, table, vector
from transformations.tables.filters import equals

Make = Callable[..., Store]
_ROWS, _THREADS, _COMMITS = 30, 16, 6


def edition(number: int) -> Rows:
    """All rows, each with the text and the vector of this edition."""
    return [row(n, edition=number) for n in range(_ROWS)]


_KNOWN = {(r["chunk_id"], r["text"]): r for number in range(_COMMITS + 1) for r in edition(number)}
_TEXTS = {chunk_id: [text for other, text in _KNOWN if other == chunk_id] for chunk_id, _ in _KNOWN}
_EDITION = {r["text"]: number for number in range(_COMMITS + 1) for r in edition(number)}

_WRITER = """
import json, sys
from pipelines.settings.sections import Settings
from pipelines.stores import open_store
from tests.stores.rows import DIMENSION, manifest, table
from tests.stores.test_concurrency import _COMMITS, edition
store = open_store(Settings(**json.loads(sys.argv[1])), dimension=DIMENSION)
for number in range(1, _COMMITS + 1):
    sys.stdin.readline()
    store.upsert(table(edition(number)))
    store.delete(["nobody"])
    store.commit(manifest(edition(number), version=number + 1), expected=store.manifest())
    if store.capabilities["atomic_commit"].support == "yes" and number % 2:
        store.forget()  # readers have files open that are gone now
    print(number, flush=True)
store.close()
"""


def problem_of(store: Store, query: np.ndarray, *, is_atomic: bool) -> str | None:
    """What is wrong with an answer."""
    hits = store.search(query, k=_ROWS)
    if len({hit.chunk_id for hit in hits}) != _ROWS:
        return f"{len(hits)} hits of {_ROWS} rows"
    for hit in hits:
        known = _KNOWN.get((hit.chunk_id, hit.text))
        if known is None:
            return f"{hit} was never written"
        # A store without atomic commits may give a row's new text with its old vector, as it gives old rows with new.
        able = [known] if is_atomic else [_KNOWN[hit.chunk_id, text] for text in _TEXTS[hit.chunk_id]]
        cosines = [float(np.dot(one["vector"], query) / np.linalg.norm(query)) for one in able]
        if all(abs(cosine - hit.score) > 1e-3 for cosine in cosines):
            return f"{hit.text!r} with a score of no edition, or of another: {hit.score}, not of {cosines}"
    editions = {_EDITION[hit.text] for hit in hits}
    if is_atomic and len(editions) > 1:
        return f"of the editions {editions} at once"
    return None


def test_many_threads_search_by_one_handle_through_commits(make_store: Make, store_settings: str):
    load(make_store(), edition(0))
    reader = make_store_unopened(store_settings)
    is_atomic = reader.capabilities["atomic_commit"].support == "yes"
    problems: list[str] = []
    searches = [0] * _THREADS
    done, together = threading.Event(), threading.Barrier(_THREADS + 1)

    def search(number: int) -> None:
        together.wait()
        while not done.is_set() or searches[number] < 3:
            try:
                if number % 4 == 0:
                    assert reader.search(vector(5), k=3, where=equals(source="nowhere")) == []
                problem = problem_of(reader, vector(900 + number), is_atomic=is_atomic)
                assert reader.manifest() is not None
            except Exception as error:  # whatever it is, the test tells it
                problem = f"{type(error).__name__}: {error}"
            searches[number] += 1
            if problem:
                problems.append(problem)

    threads = [threading.Thread(target=search, args=(number,)) for number in range(_THREADS)]
    for thread in threads:
        thread.start()
    together.wait()
    try:
        commit_all(reader, store_settings, until=lambda: sum(searches))
    finally:
        done.set()
        for thread in threads:
            thread.join()
        reader.close()
    assert not problems, f"{len(problems)} of {sum(searches)} searches: {sorted(set(problems))[:5]}"


def make_store_unopened(store_settings: str) -> Store:
    """A handle that has not connected yet: the threads' first searches race for it."""
    return open_store(Settings(**json.loads(store_settings)), dimension=DIMENSION)


def commit_all(reader: Store, store_settings: str, *, until: Callable[[], int]) -> None:
    """Commits from another process; from this one where the store is open to one process only."""
    if reader.capabilities["other_processes"].support != "yes":
        writer = make_store_unopened(store_settings)
        for number in range(1, _COMMITS + 1):
            writer.upsert(table(edition(number)))
            writer.delete(["nobody"])
            writer.commit(manifest(edition(number), version=number + 1), expected=writer.manifest())
            wait_for(until, more=_THREADS)
        writer.close()
        return
    process = other_process(_WRITER, store_settings, stdin=True)
    assert process.stdin is not None
    assert process.stdout is not None
    for number in range(1, _COMMITS + 1):
        process.stdin.write("next\n")
        process.stdin.flush()
        assert process.stdout.readline() == f"{number}\n"
        wait_for(until, more=_THREADS)
    process.stdin.close()
    assert process.wait(timeout=60) == 0


def wait_for(count: Callable[[], int], *, more: int) -> None:
    """Until so many searches more have come to their end."""
    start, pause = count(), threading.Event()
    while count() < start + more:
        pause.wait(0.005)


@pytest.fixture(autouse=True)
def _no_thread_dies(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A thread that ends by an error fails the test that started it."""
    died: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", died.append)
    yield
    assert not died, died
