"""`make crash N=200`: kills at random moments while a real history is replayed, and a table of what they left behind.

    python -m tests.crash --kills 200 --changes FILE [--seed 1]

The killer is this process; the victim is another one, killed with all of its children. After each kill the index is
read as its readers would. A history that comes to its end is begun again in a new workspace. In the end each workspace
is brought to the end of its history, and compared row by row with its files and tables.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

from pipelines.conductor.run import new_context
from pipelines.operations.verify import verify
from pipelines.vector_index.state import served
from tests.crash.victim import DELIVERIES
from tests.support.chunked import settings_for
from tests.support.embedders import counted
from transformations.index.fingerprint import fingerprint

STAGES = ("ingest-documents", "refine-documents", "chunk-documents", "embed-chunks", "sync-index")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.crash")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--changes", type=Path, required=True, help="changes.jsonl.gz of a real edit history")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    if not arguments.changes.is_file():
        sys.exit(f"there is no edit history at {arguments.changes}: name one with CHANGES=FILE")
    result = campaign(arguments.changes, kills=arguments.kills, seed=arguments.seed)
    print(json.dumps(result, indent=2))
    sys.exit(1 if result["differences"] or result["torn_states"] else 0)


def campaign(changes: Path, *, kills: int, seed: int) -> dict[str, object]:
    """Kill `kills` times; returns what was seen."""
    chance = random.Random(seed)
    base = Path(tempfile.mkdtemp(prefix="lakeloop-crash-"))
    os.environ["LAKELOOP_TEST_COUNTER"] = str(base / "embedded")
    steps: Counter[str] = Counter()
    torn = differences = distinct = killed = workspaces = completed = 0
    begun = time.monotonic()
    while killed < kills:
        workspaces += 1
        root = base / f"workspace-{workspaces}"
        root.mkdir()
        while killed < kills and _step(root) != "done":
            # Any moment of any stage: the stages differ in length, and Spark's start is the longest of all.
            (root / "step").write_text("start")
            if not _run(root, changes, stage=chance.choice(STAGES), seconds=chance.uniform(0, 4)):
                continue
            killed += 1
            steps[_step(root)] += 1
            torn += not _is_whole(root)
            print(f"kill {killed}: delivery {_progress(root)} of {DELIVERIES}, in {_step(root)}", flush=True)
        # To the end of the delivery at hand, or of all where it is there already.
        _run(root, changes, stage=None, deliveries=_progress(root) + 1)
        completed += _progress(root)
        context = new_context(settings_for(root))
        differences += len(verify(context).differences)
        distinct += context.lake.read_arrow("gold.embeddings", columns=["text_hash"]).num_rows
    return {
        "kills": killed,
        "by_step": dict(steps.most_common()),
        "workspaces": workspaces,
        "deliveries": completed,
        "torn_states": torn,
        "differences": differences,
        "texts_embedded": counted(),
        "texts_needed": distinct,
        "paid_twice_per_kill": round((counted() - distinct) / max(killed, 1), 2),
        "batch": 64,
        "minutes": round((time.monotonic() - begun) / 60, 1),
    }


def _run(root: Path, changes: Path, *, stage: str | None, seconds: float = 0, deliveries: int = DELIVERIES) -> bool:
    """The victim, until some seconds after `stage` began (None: to its end). Returns whether it had to be killed."""
    command = [sys.executable, "-m", "tests.crash.victim", str(root), str(changes), str(deliveries)]
    with (root / "victim.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        while process.poll() is None:
            if stage is not None and _step(root) == stage:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(seconds)
                    break
                return True
            time.sleep(0.02)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.returncode:
        sys.exit(f"the victim failed by itself, see {root / 'victim.log'}")
    return False


def _is_whole(root: Path) -> bool:
    """Do readers of the index see rows that are exactly those its manifest names?"""
    settings = settings_for(root)
    state = served(new_context(settings).lake, "chunks")
    manifest = state.open(settings).manifest() if state else None
    if state is None or manifest is None:
        return True
    rows = [value for batch in state.open(settings).rows() for value in batch.column("row_hash").to_pylist()]
    return (fingerprint(rows), len(rows)) == (manifest.fingerprint, manifest.rows)


def _step(root: Path) -> str:
    return (root / "step").read_text() if (root / "step").exists() else "start"


def _progress(root: Path) -> int:
    return int((root / "progress").read_text() or 0) if (root / "progress").exists() else 0


if __name__ == "__main__":
    main()
