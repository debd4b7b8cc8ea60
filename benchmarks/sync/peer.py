"""A peer's sync function in; a program `sync --folder F --state S --mode best|documented` with one JSON line out.

What all peers share: the command line, the clocks, and how an error ends the program.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

TABLE = "chunks"
EXIT_FAILED, EXIT_LEFT_OUT = 1, 6


@dataclass(frozen=True)
class Job:
    """What one run of a peer is asked to do.

    Attributes:
        folder: of the documents.
        state: a folder of the peer's own.
        is_best: the best settings that we found, or else those of the library's documentation.
        is_new_model: the peer is told that the model is another one, in the way that its documentation gives.
    """

    folder: Path
    state: Path
    is_best: bool
    is_new_model: bool

    @property
    def sink(self) -> str:
        """The LanceDB database whose table `chunks` is the sink."""
        return str(self.state / "sink")


def main(sync: Callable[[Job], Mapping[str, int]]) -> None:
    """Run `sync` as the command line says: exits 1 where it raises, 6 where it says that it left something out.

    The libraries are imported by now: the age of the process is what starting it took.

    Args:
        sync: returns what the library itself reports; "errors" is how many documents it left out.
    """
    start_seconds = _age()
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=["sync"])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--mode", choices=["best", "documented"], default="best")
    parser.add_argument("--new-model", action="store_true", help="tell the library that the model is another one")
    arguments = parser.parse_args()
    arguments.state.mkdir(parents=True, exist_ok=True)
    job = Job(arguments.folder, arguments.state, arguments.mode == "best", arguments.new_model)
    result: dict[str, object] = {"mode": arguments.mode, "start_seconds": round(start_seconds, 3)}
    begun = time.perf_counter()
    try:
        reported = sync(job)
        result |= {"reported": dict(reported), "exit": EXIT_LEFT_OUT if reported.get("errors") else 0}
    except Exception as error:
        traceback.print_exc()
        result |= {"error": f"{type(error).__name__}: {error}"[:300], "exit": EXIT_FAILED}
    result["seconds"] = round(time.perf_counter() - begun, 3)
    print(json.dumps(result), flush=True)
    raise SystemExit(result["exit"])


def _age() -> float:
    """Seconds since this process was started: the interpreter and its imports. Linux only."""
    stat = Path("/proc/self/stat").read_text()
    ticks = int(stat[stat.rindex(")") + 2 :].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
