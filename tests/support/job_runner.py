"""A deployed job in; what came of each of its tasks out.

Tasks run as Databricks runs them: each in a process, an empty folder and an empty HOME of its own, by the
distribution's console entry point with the parameters as words, in a Spark Connect session, and again as often as the
task says. What of a workspace cannot be had here is replaced, and nothing else: volumes are folders, the uploaded files
are the bundle's own, the catalog is Spark's, and MLflow's server is a file.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from tests.unit.bundle.bundle_check import resolved

CATALOG = "spark_catalog"
# What a task of a job has of its surroundings.
_KEPT = ("PATH", "LANG", "JAVA_HOME", "TMPDIR")
# Counts the calls of the session, each of which is a round trip; it runs in the task's process.
_COUNTED = """
import atexit, json
from pyspark.sql.connect.client import SparkConnectClient

calls = {"executes": 0, "analyses": 0, "configurations": 0, "refused frames": 0}

def count(kind, name):
    plain = getattr(SparkConnectClient, name)
    def counted(self, *arguments, **named):
        calls[kind] += 1
        return plain(self, *arguments, **named)
    setattr(SparkConnectClient, name, counted)

count("executes", "_execute")
count("executes", "_execute_and_fetch_as_iterator")
count("analyses", "_analyze")
count("configurations", "config")
atexit.register(lambda: open(CALLS, "w").write(json.dumps(calls)))
"""


@dataclass
class TaskRun:
    """One task: its attempts, the last of which counts, and the calls of its session in all of them."""

    key: str
    attempts: list[subprocess.CompletedProcess[str]] = field(default_factory=list)
    seconds: float = 0.0
    calls: Counter[str] = field(default_factory=Counter)

    @property
    def exit_code(self) -> int:
        return self.attempts[-1].returncode


def table(runs: Mapping[str, TaskRun]) -> str:
    """One line a task: attempts, seconds, and calls of the session by their kind."""
    lines = [f"{'task':<20} {'attempts':>8} {'seconds':>8} {'executes':>9} {'analyses':>9} {'configurations':>15}"]
    for run in runs.values():
        kinds = (run.calls["executes"], run.calls["analyses"], run.calls["configurations"])
        lines.append(
            f"{run.key:<20} {len(run.attempts):>8} {run.seconds:>8.1f} {kinds[0]:>9} {kinds[1]:>9} {kinds[2]:>15}"
        )
    return "\n".join(lines)


@dataclass
class JobRunner:
    """Runs the job of a bundle's target again and again over the same tables and volumes.

    Args:
        bundle: the bundle's folder.
        target: one of its targets.
        folder: holds volumes, tasks' folders and homes.
        session: environment variables that give a task its Spark session.
        environment: further variables, for all tasks.
        python: what runs a task, with a Spark client.
        prelude: Python to be run in the task's process before the entry point, a fault; it may count in `calls`.
    """

    bundle: Path
    target: str
    folder: Path
    session: Mapping[str, str]
    environment: Mapping[str, str] = field(default_factory=dict)
    python: Path = Path(sys.executable)
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
        tasks = {task["task_key"]: task for task in self._tasks(job)}
        needs = {key: [each["task_key"] for each in task.get("depends_on", [])] for key, task in tasks.items()}
        runs: dict[str, TaskRun] = {}
        for key in TopologicalSorter(needs).static_order():
            runs[key] = self._task(tasks[key])
            if runs[key].exit_code != 0:
                break
        return runs

    def command(self, *words: str, job: str) -> Any:
        """The JSON that a command gives with the settings of the job's tasks."""
        (task, *_) = self._tasks(job)
        _, *settings = task["python_wheel_task"]["parameters"]
        done = self._call([*words, "--json", *settings], calls=Counter())
        assert done.stdout, done.stderr[-3000:]
        return json.loads(done.stdout)

    def _task(self, task: Mapping[str, Any]) -> TaskRun:
        run, wheel = TaskRun(task["task_key"]), task["python_wheel_task"]
        assert (wheel["package_name"], wheel["entry_point"]) == ("lakeloop", "lakeloop")
        start = time.monotonic()
        for _ in range(1 + task.get("max_retries", 0)):
            run.attempts.append(self._call(wheel["parameters"], calls=run.calls))
            if run.exit_code == 0:
                break
        run.seconds = time.monotonic() - start
        return run

    def _tasks(self, job: str) -> list[dict[str, Any]]:
        """The job's tasks, with the words of this machine."""
        given = {one["name"]: one["default"] for one in self.resources["jobs"][job].get("parameters", [])}
        tasks = [{**task} for task in self.resources["jobs"][job]["tasks"]]
        for task in tasks:
            wheel = task["python_wheel_task"]
            task["python_wheel_task"] = {**wheel, "parameters": [*self._here(wheel["parameters"], given)]}
        return tasks

    def _here(self, parameters: Sequence[str], given: Mapping[str, str]) -> Iterator[str]:
        for word in parameters:
            word = re.sub(r"\{\{job\.parameters\.([\w.-]+)\}\}", lambda found: given[found[1]], word)
            word = re.sub(r"/Workspace/.*/files(?=/)", lambda _: str(self.bundle), word)
            word = word.replace("/Volumes/", f"{self.folder / 'Volumes'}/")
            yield word.replace(
                "mlflow.tracking_uri=databricks", f"mlflow.tracking_uri=sqlite:///{self.folder}/mlflow.db"
            )

    def _call(self, words: Sequence[str], *, calls: Counter[str]) -> subprocess.CompletedProcess[str]:
        number = len(list((self.folder / "tasks").glob("*"))) if (self.folder / "tasks").exists() else 0
        home, empty = (self.folder / "tasks" / str(number) / name for name in ("home", "empty"))
        for each in (home, empty):
            each.mkdir(parents=True)
        program = f"CALLS = {str(home.parent / 'calls.json')!r}\n{_COUNTED}\n{self.prelude}\n"
        program += "import sys\nfrom importlib.metadata import distribution\n"
        program += "(entry,) = distribution('lakeloop').entry_points.select(group='console_scripts', name='lakeloop')\n"
        program += f"sys.argv[1:] = {list(words)!r}\nsys.exit(entry.load()())"
        # As a file, as a console script is one: pyspark-client takes a main module without a file for doctests.
        script = home.parent / "task.py"
        script.write_text(program)
        kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
        done = subprocess.run(
            [self.python, script],
            cwd=empty,
            env={**kept, "HOME": str(home), **self.session, **self.environment},
            capture_output=True,
            text=True,
            timeout=900,
        )
        calls.update(json.loads((home.parent / "calls.json").read_text()))
        return done
