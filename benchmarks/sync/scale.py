"""Numbers of chunks in; what a first load, an edit and nothing new take at each, and how they grow, out.

    python -m benchmarks.sync.scale --out DIR [--chunks 24000 240000]

Each step is `lakeloop run`, cold, in a process of its own. Memory is the greatest sum of the resident sets of the
processes of one kind: the driver, its Java (none where no Spark is needed), and the workers that parse and embed.
What is read are the bytes that all of them asked the system for, libraries included; what is written are the files
that commits of Delta tables added and the index has anew. The edit is one paragraph of the document of 200 chunks.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.sync.corpus import Corpus
from benchmarks.sync.lakeloop_peer import Lakeloop
from benchmarks.sync.systems import ROOT

_SAMPLE_SECONDS = 0.1
_MB = 1e6


@dataclass
class Cost:
    """What one run took: seconds, peaks in bytes by kind of process, bytes read, files and bytes written, files that
    commits took out."""

    seconds: float = 0.0
    peaks: Counter[str] = field(default_factory=Counter)
    read: int = 0
    written: int = 0
    written_bytes: int = 0
    taken_out: int = 0


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sync.scale")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--chunks", type=int, nargs="+", default=[24_000, 240_000])
    arguments = parser.parse_args()
    print(
        "| chunks | step | seconds | driver, MB | Java, MB | workers, MB | read, MB | files written | MB written | "
        "files taken out |\n|---|---|---|---|---|---|---|---|---|---|",
        flush=True,
    )
    costs: dict[int, dict[str, Cost]] = {}
    for chunks in arguments.chunks:
        costs[chunks] = {}
        for step, cost in steps(arguments.out.absolute() / str(chunks), chunks=chunks):
            costs[chunks][step] = cost
            memory = " | ".join(f"{cost.peaks[kind] / _MB:.0f}" for kind in ("driver", "java", "workers"))
            files = f"{cost.written} | {cost.written_bytes / _MB:.1f} | {cost.taken_out}"
            print(
                f"| {chunks:,} | {step} | {cost.seconds:.1f} | {memory} | {cost.read / _MB:.0f} | {files} |", flush=True
            )
    for few, many in zip(arguments.chunks, arguments.chunks[1:], strict=False):
        ratios = ", ".join(f"{step} {costs[many][step].seconds / costs[few][step].seconds:.1f}" for step in costs[many])
        print(f"\n{many / few:.3g} times the chunks take so many times the seconds: {ratios}")


def steps(folder: Path, *, chunks: int) -> Iterator[tuple[str, Cost]]:
    """Each step and its cost, in order."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "state").mkdir(parents=True)
    corpus, lakeloop = Corpus(folder / "folder", chunks=chunks), Lakeloop()
    corpus.create()
    lakeloop.prepare(corpus.folder, folder / "state")
    yield "first load", measured(lakeloop)
    corpus.edit_long_document()
    yield "one edit", measured(lakeloop)
    yield "nothing new", measured(lakeloop)


def measured(lakeloop: Lakeloop) -> Cost:
    """One run, watched from outside."""
    cost, read = Cost(), Counter[int]()
    before = _files(lakeloop.state)
    # A file, not a pipe, which nobody would empty.
    with tempfile.TemporaryFile("w+") as said:
        start = time.perf_counter()
        process = subprocess.Popen(
            lakeloop.command(is_new_model=False),
            cwd=lakeloop.state,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL,
            stderr=said,
        )
        while process.poll() is None:
            _sample(psutil.Process(process.pid), cost, read)
            time.sleep(_SAMPLE_SECONDS)
        cost.seconds = time.perf_counter() - start
        if process.returncode != 0:
            said.seek(0)
            raise SystemExit(f"lakeloop ended with {process.returncode}:\n{said.read()[-2000:]}")
    cost.read = sum(read.values())
    now = _files(lakeloop.state)
    added = [path for path in now if path not in before]
    cost.written, cost.written_bytes = len(added), sum(now[path] for path in added)
    cost.taken_out = sum(_taken_out(path) for path in added if path.parent.name == "_delta_log")
    return cost


def _sample(root: psutil.Process, cost: Cost, read: Counter[int]) -> None:
    now: Counter[str] = Counter()
    with suppress(psutil.Error):  # it may end while it is looked at
        for each in [root, *root.children(recursive=True)]:
            with suppress(psutil.Error):
                kind = "driver" if each.pid == root.pid else "java" if each.name() == "java" else "workers"
                now[kind] += each.memory_info().rss
                read[each.pid] = max(read[each.pid], each.io_counters().read_chars)
    for kind, size in now.items():
        cost.peaks[kind] = max(cost.peaks[kind], size)


def _files(state: Path) -> dict[Path, int]:
    """The files of the tables and of the index, with their sizes."""
    found = {}
    for folder in ("lakehouse", "index"):
        for path in (state / folder).rglob("*"):
            with suppress(FileNotFoundError):
                if path.is_file():
                    found[path] = path.stat().st_size
    return found


def _taken_out(commit: Path) -> int:
    """How many files a commit of a Delta table says that the table no longer has."""
    if commit.suffix != ".json":
        return 0
    return sum("remove" in json.loads(line) for line in commit.read_text(encoding="utf-8").splitlines())


if __name__ == "__main__":
    main()
