"""A number of chunks in; the seconds from the saving of a file to the index's commit in a watched workspace, out.

    python -m benchmarks.sync.watched --out DIR [--chunks 24000] [--edits 8]

The workspace is loaded, then `lakeloop run --watch` begins, and one paragraph of the document of 200 chunks is edited
again and again, as in step S4. The index has committed once its tag `served` names another version.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import lance

from benchmarks.sync.corpus import Corpus
from benchmarks.sync.lakeloop_peer import Lakeloop
from benchmarks.sync.systems import ROOT

_LONGEST_SECONDS = 300
_POLL_SECONDS = 0.02


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sync.watched")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--chunks", type=int, default=24_000)
    parser.add_argument("--edits", type=int, default=8)
    arguments = parser.parse_args()
    out, system = arguments.out.absolute(), Lakeloop()
    shutil.rmtree(out, ignore_errors=True)
    (out / "state").mkdir(parents=True)
    corpus = Corpus(out / "folder", chunks=arguments.chunks)
    corpus.create()
    system.prepare(corpus.folder, out / "state")
    loaded = system.sync({})
    if loaded.exit != 0:
        raise SystemExit(f"the first load ended with {loaded.exit}:\n{loaded.error}")
    seconds = edits(system, corpus, count=arguments.edits)
    shown = ", ".join(f"{each:.2f}" for each in seconds)
    print(f"first load {loaded.wall_seconds:.1f} s; from saving to commit: {shown} s; median {median(seconds):.2f} s")


def edits(system: Lakeloop, corpus: Corpus, *, count: int) -> list[float]:
    """The seconds from saving to commit of each of `count` edits."""
    command = [sys.executable, "-m", "pipelines.cli.main", "run", "--watch", "--until", "sync-index"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    watch = subprocess.Popen(
        command, cwd=system.state, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        assert watch.stderr is not None
        while "watching" not in watch.stderr.readline():
            if watch.poll() is not None:
                raise SystemExit(f"the watch ended with {watch.returncode}")
        time.sleep(5)  # its first look, which finds nothing
        found = []
        for edition in range(1, count + 1):
            before, start = _served(system), time.perf_counter()
            corpus.edit_long_document(edition=edition)
            while _served(system) == before:
                if time.perf_counter() - start > _LONGEST_SECONDS or watch.poll() is not None:
                    raise SystemExit("the index did not follow the edit")
                time.sleep(_POLL_SECONDS)
            found.append(time.perf_counter() - start)
            time.sleep(1)
        return found
    finally:
        watch.send_signal(signal.SIGINT)
        watch.wait(60)


def _served(system: Lakeloop) -> int:
    return int(lance.dataset(str(system.table)).tags.list()["served"]["version"])


if __name__ == "__main__":
    main()
