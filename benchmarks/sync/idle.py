"""A number of chunks and of runs in; what a run with nothing to do takes after the first load, and after the runs, out.

    python -m benchmarks.sync.idle --out DIR [--peers DIR] [--chunks 24000] [--runs 1000] [--times 5]

The runs are recorded as every run is, but do nothing; as in daily use, tables are maintained once that is due. With
`--peers`, cocoindex does nothing as often, on the same folder, and the ratios are to it.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import median

from benchmarks.sync.corpus import Corpus
from benchmarks.sync.lakeloop_peer import Lakeloop
from benchmarks.sync.systems import System, known_systems

# After so many runs it is asked whether the tables are to be maintained.
_RUNS_BETWEEN = 20


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sync.idle")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--peers", type=Path)
    parser.add_argument("--chunks", type=int, default=24_000)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--times", type=int, default=5)
    arguments = parser.parse_args()
    out, lakeloop = arguments.out.absolute(), Lakeloop()
    shutil.rmtree(out, ignore_errors=True)
    corpus = Corpus(out / "folder", chunks=arguments.chunks)
    corpus.create()
    _load(lakeloop, corpus.folder, out / "lakeloop")
    after_one = _idle(lakeloop, times=arguments.times)
    _record(out / "lakeloop", runs=arguments.runs)
    after_all = _idle(lakeloop, times=arguments.times)
    print(f"nothing to do: {after_one:.2f} s after 1 run, {after_all:.2f} s after {arguments.runs:,}", end="")
    print(f", {after_all / after_one:.2f} times as long")
    if arguments.peers is not None:
        peer = known_systems(arguments.peers.absolute())["cocoindex"]
        _load(peer, corpus.folder, out / "cocoindex")
        takes = _idle(peer, times=arguments.times)
        print(f"cocoindex: {takes:.2f} s; the ratios are {after_one / takes:.2f} and {after_all / takes:.2f}")


def _load(system: System, folder: Path, state: Path) -> None:
    state.mkdir(parents=True)
    system.prepare(folder, state)
    _synced(system)


def _idle(system: System, *, times: int) -> float:
    """The median of what nothing to do takes, in seconds, without the start of the process and its imports."""
    _synced(system)  # what the last run left to look at again
    return median(_synced(system) for _ in range(times))


def _synced(system: System) -> float:
    environment: Mapping[str, str] = {}
    outcome = system.sync(environment)
    if outcome.exit != 0 or outcome.seconds is None:
        raise SystemExit(f"{system.name} ended with {outcome.exit}:\n{outcome.error}")
    return outcome.seconds


def _record(workspace: Path, *, runs: int) -> None:
    """Record runs of a stage that read nothing new and changed nothing."""
    from pipelines.conductor.run import new_context, run_stage, run_stages
    from pipelines.conductor.stages import stage_named
    from pipelines.flow.stage import nothing_new
    from pipelines.settings.load import load_settings

    settings = load_settings(workspace / "lakeloop.yml")
    stage = replace(stage_named("refine-documents"), work=lambda context, due: {"update": 0})
    for number in range(runs):
        context = new_context(settings)
        run_stage(stage, context, nothing_new(stage, context))
        if number % _RUNS_BETWEEN == 0:
            run_stages(new_context(settings), stages=[stage_named("maintain")])


if __name__ == "__main__":
    main()
