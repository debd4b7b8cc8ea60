"""A deployed job in; what came of each of its tasks out.

Tasks run as Databricks runs them: each in a process, an empty folder and an empty HOME of its own, by the
distribution's console entry point with the parameters as words, in a Spark Connect session, and again as often as the
task says. What of a workspace cannot be had here is replaced, and nothing else: volumes are folders, the catalog is
Spark's own, and MLflow's server is a file.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from tests.unit.bundle.bundle_check import resolved

CATALOG = "spark_catalog"
# What a task of a job has of its surroundings.
_KEPT = ("PATH", "LANG", "JAVA_HOME", "TMPDIR")


@dataclass
class TaskRun:
    """One task: its attempts, the last of which counts."""

    key: str
    attempts: list[subprocess.CompletedProcess[str]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def exit_code(self) -> int:
        return self.attempts[-1].returncode


@dataclass
class JobRunner:
    """Runs the job of a bundle's target again and again over the same tables and volumes.

    Args:
        bundle: the bundle's folder.
        target: one of its targets.
        folder: holds volumes, tasks' folders and homes.
        session: environment variables that give a task its Spark session.
        environment: further variables, for all tasks.
        prelude: Python to be run in the task's process before the entry point: a fault.
    """

    bundle: Path
    target: str
    folder: Path
    session: Mapping[str, str]
    environment: Mapping[str, str] = field(default_factory=dict)
    prelude: str = ""

    def __post_init__(self) -> None:
        self.resources = resolved(self.bundle, target=self.target, variables={"catalog": CATALOG})
        for volume in self.resources["volumes"].values():
            self.volume(volume["name"]).mkdir(parents=True, exist_ok=True)

    @property
    def schemas(self) -> list[str]:
        return [schema["name"] for schema in self.resources["schemas"].values()]

    def volume(self, name: str) -> Path:
        found = next(volume for volume in self.resources["volumes"].values() if volume["name"] == name)
        return self.folder / "Volumes" / found["catalog_name"] / found["schema_name"] / name

    def run(self, job: str) -> dict[str, TaskRun]:
        """Run the tasks in the order of their dependencies, up to the first that fails for good."""
        tasks = {task["task_key"]: task for task in self.resources["jobs"][job]["tasks"]}
        needs = {key: [each["task_key"] for each in task.get("depends_on", [])] for key, task in tasks.items()}
        runs: dict[str, TaskRun] = {}
        for key in TopologicalSorter(needs).static_order():
            runs[key] = self._task(tasks[key])
            if runs[key].exit_code != 0:
                break
        return runs

    def command(self, *words: str, job: str) -> Any:
        """The JSON that a command gives with the settings of the job's tasks."""
        (task, *_) = self.resources["jobs"][job]["tasks"]
        _, *settings = task["python_wheel_task"]["parameters"]
        done = self._call([*words, "--json", *self._here(settings)])
        assert done.stdout, done.stderr[-3000:]
        return json.loads(done.stdout)

    def _task(self, task: Mapping[str, Any]) -> TaskRun:
        run, wheel = TaskRun(task["task_key"]), task["python_wheel_task"]
        assert (wheel["package_name"], wheel["entry_point"]) == ("lakeloop", "lakeloop")
        start = time.monotonic()
        for _ in range(1 + task.get("max_retries", 0)):
            run.attempts.append(self._call(list(self._here(wheel["parameters"]))))
            if run.exit_code == 0:
                break
        run.seconds = time.monotonic() - start
        return run

    def _here(self, parameters: Sequence[str]) -> Iterator[str]:
        for word in parameters:
            word = word.replace("/Volumes/", f"{self.folder / 'Volumes'}/")
            yield word.replace(
                "mlflow.tracking_uri=databricks", f"mlflow.tracking_uri=sqlite:///{self.folder}/mlflow.db"
            )

    def _call(self, words: Sequence[str]) -> subprocess.CompletedProcess[str]:
        number = len(list((self.folder / "tasks").glob("*"))) if (self.folder / "tasks").exists() else 0
        home, empty = (self.folder / "tasks" / str(number) / name for name in ("home", "empty"))
        for each in (home, empty):
            each.mkdir(parents=True)
        program = f"{self.prelude}\nimport sys\nfrom importlib.metadata import distribution\n"
        program += "(entry,) = distribution('lakeloop').entry_points.select(group='console_scripts', name='lakeloop')\n"
        program += f"sys.argv[1:] = {list(words)!r}\nsys.exit(entry.load()())"
        kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
        return subprocess.run(
            [sys.executable, "-c", program],
            cwd=empty,
            env={**kept, "HOME": str(home), **self.session, **self.environment},
            capture_output=True,
            text=True,
            timeout=900,
        )
