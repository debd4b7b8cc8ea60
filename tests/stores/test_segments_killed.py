"""A sync of an index in segments, killed at each of its steps: readers see a whole state, and the next one finishes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipelines.settings.sections import Settings
from pipelines.stores import Store, open_store
from tests.stores.holding import assert_finds, assert_holds, hashes, held, load, other_process
from tests.stores.rows import DIMENSION, manifest, row, table, vector
from tests.stores.segment_files import named, present

pytestmark = pytest.mark.long

_KILLED = """
import json, os, shutil, sys
from pathlib import Path
import faiss
from pipelines.settings.sections import Settings
from pipelines.stores import open_store
from tests.stores.rows import DIMENSION, manifest, row, table

root, options = Path(sys.argv[1]), json.loads(sys.argv[2])
changed, kept = [row(n, edition=1) for n in range(20)], [row(n) for n in range(30, 60)]
upserts, deletes = table(changed), [row(n)["chunk_id"] for n in range(20, 30)]

def sync(folder):
    settings = Settings(root=folder, index={"store": "faiss", "uri": ".", "options": options})
    store = open_store(settings, dimension=DIMENSION)
    store.upsert(upserts)
    store.delete(deletes)
    store.commit(manifest(changed + kept, version=2), expected=store.manifest())

def die_at(step, folder):
    left = step
    def count(event, arguments):
        nonlocal left
        if event in ("open", "os.rename", "os.remove") and str(arguments[0]).startswith(str(folder)):
            left -= 1
            if left == 0:
                os._exit(9)
    sys.addaudithook(count)

step, status = 0, 9
while status == 9:
    step += 1
    folder = root / str(step)
    shutil.copytree(root / "0", folder)
    child = os.fork()
    if child == 0:
        die_at(step, folder)
        sync(folder)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(step, status)
"""


def test_a_sync_that_is_killed_at_any_step_leaves_a_whole_state_and_the_next_one_finishes(tmp_path: Path):
    """Every opening, renaming and removing of a file is a step; the kill comes in front of it."""
    options = {"base_rows": "20", "compact_rows": "8"}

    def index(folder: Path) -> Store:
        settings = Settings(root=folder, index={"store": "faiss", "uri": ".", "options": options})
        return open_store(settings, dimension=DIMENSION)

    before = [row(n) for n in range(60)]
    changed = [row(n, edition=1) for n in range(20)]
    after = changed + before[30:]
    load(index(tmp_path / "0"), before)
    program = other_process(_KILLED, str(tmp_path), json.dumps(options))
    steps, status = map(int, program.communicate(timeout=60)[0].split())
    assert status == 0
    seen = []
    for step in range(1, steps + 1):
        store = index(tmp_path / str(step))
        held_manifest = store.manifest()
        assert held_manifest is not None
        seen.append(held_manifest.version)
        rows = before if held_manifest == manifest(before) else after
        assert held_manifest.rows == len(rows)
        assert held(store).keys() == {r["chunk_id"] for r in rows}
        assert_finds(store, rows, vector(5), k=60)
        assert set(hashes(store).values()) <= {r["row_hash"] for r in before + changed}
        store.upsert(table(changed))
        store.delete([r["chunk_id"] for r in before[20:30]])
        store.commit(manifest(after, version=3), expected=held_manifest)
        assert_holds(store, after)
        assert_finds(store, after, vector(5), k=60)
        assert present(tmp_path / str(step)) == named(tmp_path / str(step))
        store.close()
    assert seen == sorted(seen)
    assert min(seen.count(1), seen.count(2)) > 3, "killed before the commit, and after it"
