"""Systems and a number of chunks in; what a first load takes with a real embedding model, as a table, out.

    python -m benchmarks.sync.first_load --peers DIR --out DIR [--chunks 2400] [--rounds 1] [--systems …]

Every system embeds with the same MiniLM (onnxruntime; two threads a process, or one in each of two
workers). A fresh process each; systems take turns, and another one begins in each round. The peers' environments
need onnxruntime, tokenizers, platformdirs, pyyaml and markdown-it-py besides.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from benchmarks.sync.corpus import Corpus
from benchmarks.sync.embedder import REAL, REAL_MODEL
from benchmarks.sync.systems import known_systems


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sync.first_load")
    parser.add_argument("--peers", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--chunks", type=int, default=2400)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--systems", nargs="+", default=["lakeloop", "langchain", "llamaindex", "cocoindex"])
    arguments = parser.parse_args()
    out, known = arguments.out.absolute(), known_systems(arguments.peers.absolute())
    out.mkdir(parents=True, exist_ok=True)
    corpus = Corpus(out / "folder", chunks=arguments.chunks)
    corpus.create()
    print("| round | system | seconds, start included | of the work |\n| --- | --- | --- | --- |", flush=True)
    for number in range(arguments.rounds):
        turn = number % len(arguments.systems)
        for name in arguments.systems[turn:] + arguments.systems[:turn]:
            state = out / f"state-{name}"
            shutil.rmtree(state, ignore_errors=True)
            state.mkdir()
            known[name].prepare(corpus.folder, state)
            if name == "lakeloop":
                settings = {"landing": str(corpus.folder), "embedding": {"model": REAL_MODEL}}
                (state / "lakeloop.yml").write_text(json.dumps(settings), encoding="utf-8")
            outcome = known[name].sync({REAL: "1"})
            if outcome.exit != 0:
                raise SystemExit(f"{name} ended with {outcome.exit}:\n{outcome.error}")
            work = "" if outcome.seconds is None else f"{outcome.seconds:.1f}"
            print(f"| {number} | {name} | {outcome.wall_seconds:.1f} | {work} |", flush=True)


if __name__ == "__main__":
    main()
