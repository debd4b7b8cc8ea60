"""A folder of documents and a folder for state in; one system's sync as a process of its own, and its outcome, out.

A system is a class: `prepare` makes what it needs, `start` begins a sync, `sync` also waits for its end. Nothing of a
system runs in the driver's process, so that every step begins cold and any can be killed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.sync.check import Columns
from benchmarks.sync.peer import TABLE

ROOT = Path(__file__).resolve().parents[2]
_POLL_SECONDS = 0.001
_LONGEST_SYNC_SECONDS = 4 * 3600


@dataclass(frozen=True)
class Outcome:
    """How one sync ended.

    Attributes:
        exit: the process's exit code; None where it was killed.
        start_seconds: from the process's start to the end of its imports.
        seconds: of the work after that; None where the process did not live to say.
        wall_seconds: from outside, both together.
        reported: what the system itself says that it did.
        error: the end of what it wrote to stderr, where it failed.
    """

    exit: int | None
    start_seconds: float | None
    seconds: float | None
    wall_seconds: float
    reported: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""


class Running:
    """A sync under way, in a process group of its own."""

    def __init__(self, command: list[str], *, folder: Path, environment: Mapping[str, str]) -> None:
        # Files, not pipes: what outlives a kill for a moment would hold a pipe open.
        self._stdout = tempfile.TemporaryFile("w+")  # noqa: SIM115 - open as long as the process lives
        self._stderr = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._begun = time.perf_counter()
        self._process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
            stdin=subprocess.DEVNULL,
            stdout=self._stdout,
            stderr=self._stderr,
            start_new_session=True,
        )

    def wait(self, kill_when: Callable[[], bool] | None = None) -> Outcome:
        """The outcome, after the process has ended, or was killed with its whole group as the moment came."""
        is_killed = False
        try:
            if kill_when is None:
                self._process.wait(_LONGEST_SYNC_SECONDS)
            else:
                while self._process.poll() is None and not is_killed:
                    is_killed = kill_when()
                    time.sleep(0 if is_killed else _POLL_SECONDS)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        wall = time.perf_counter() - self._begun
        result = {} if is_killed else _last_json(self._text(self._stdout))
        seconds = result.get("seconds")
        start = result.get("start_seconds", None if seconds is None else wall - seconds)
        code = None if is_killed else self._process.returncode
        error = self._text(self._stderr)[-2000:] if code else ""
        return Outcome(code, start, seconds, wall, result, error)

    def _text(self, file: Any) -> str:
        file.seek(0)
        return str(file.read())


class System(ABC):
    """One way to keep an index equal to a folder.

    Attributes:
        name: its column in the tables.
        columns: of its sink.
        tag: the version that its readers see; None where that is the latest.
        tells_new_model: it has a way of its own to be told that the model is another one.
    """

    name: str
    columns = Columns()
    tag: str | None = None
    tells_new_model = False

    def prepare(self, folder: Path, state: Path) -> None:
        """Make what the first sync needs in the empty folder `state`. The same paths are given for every step."""
        self.folder, self.state = folder, state

    def sync(
        self,
        environment: Mapping[str, str],
        *,
        is_new_model: bool = False,
        kill_when: Callable[[], bool] | None = None,
    ) -> Outcome:
        """One sync, to its end or to the moment when it is killed."""
        return self.start(environment, is_new_model=is_new_model).wait(kill_when)

    def start(self, environment: Mapping[str, str], *, is_new_model: bool = False) -> Running:
        return Running(self.command(is_new_model=is_new_model), folder=self.state, environment=environment)

    def repair(self, environment: Mapping[str, str]) -> Outcome:
        """What a user would do who wants the index checked: a sync, for a system that has nothing else."""
        return self.sync(environment)

    @property
    @abstractmethod
    def table(self) -> Path:
        """The Lance dataset that readers search."""

    @abstractmethod
    def command(self, *, is_new_model: bool) -> list[str]:
        """The sync's command line."""

    @abstractmethod
    def lose_history(self) -> None:
        """Lose what the sync knows of the past; the sources and the sink stay."""

    @abstractmethod
    def overwrite_source(self) -> None:
        """Overwrite the table that the index follows with equal rows, for a system that has one."""


class Peer(System):
    """A peer's program in a virtual environment of its own."""

    def __init__(self, library: str, *, mode: str, python: Path, history: str, tells_new_model: bool = False) -> None:
        self.name = library if mode == "best" else f"{library}-{mode}"
        self.tells_new_model = tells_new_model
        self._library, self._mode, self._python, self._history = library, mode, python, history

    @property
    def table(self) -> Path:
        return self.state / "sink" / f"{TABLE}.lance"

    def command(self, *, is_new_model: bool) -> list[str]:
        program = [str(self._python), "-m", f"benchmarks.sync.{self._library}_peer", "sync", "--mode", self._mode]
        where = ["--folder", str(self.folder), "--state", str(self.state)]
        return [*program, *where, *(["--new-model"] if is_new_model else [])]

    def lose_history(self) -> None:
        subprocess.run(["rm", "-rf", str(self.state / self._history)], check=True)

    def overwrite_source(self) -> None:
        """It follows the files themselves."""


def known_systems(peers: Path) -> dict[str, System]:
    """Every system by name. `peers` holds one virtual environment for each library, named like it."""
    from benchmarks.sync.lakeloop_peer import Lakeloop

    history = {"langchain": "records.sqlite", "llamaindex": "pipeline_storage", "cocoindex": "cocoindex.db"}
    systems: list[System] = [Lakeloop()]
    for mode in ("best", "documented"):
        for library, lost in history.items():
            python = peers / library / "bin" / "python"
            systems.append(
                Peer(library, mode=mode, python=python, history=lost, tells_new_model=library == "langchain")
            )
    return {system.name: system for system in systems}


def _last_json(text: str) -> dict[str, Any]:
    for line in reversed(text.splitlines()):
        with suppress(ValueError):
            found = json.loads(line)
            if isinstance(found, dict):
                return found
    return {}
