"""`make cluster`: the loop on a standalone cluster, by spark-submit from the wheel, against the loop of a laptop.

    python -m tests.cluster [--json] [--folder FOLDER]

A master and two workers run as processes on loopback, and the wheel is installed in an environment of its own. Two
deliveries of documents and of records go through every stage there; during the second, a worker that is doing a task of
embed-chunks is killed with SIGKILL, and its executor with it. A third run finds nothing to do. Then `lakeloop verify`
asks the cluster, and the tables and the index are compared row by row with those of local runs of the same deliveries.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from pipelines.conductor.run import new_context
from pipelines.machine.assets import delta_jars, embedding_model_dir
from pipelines.settings.load import load_settings
from pipelines.settings.sections import Settings
from tests.cluster.deliveries import ORDERS, documents, orders
from tests.support import recorded, wheel
from tests.support.history import write
from tests.support.standalone import Executor, Standalone, free_port, host, standalone, submit
from tests.support.state import assert_same, state
from transformations.errors import EXIT_DONE, EXIT_NOTHING_TO_DO, EXIT_SET_ASIDE, LakeloopError

KILLED_IN = "embed-chunks"
# The loop as spark-submit takes it: it wants a file that ends in .py.
LOOP = "from pipelines.cli.main import main\nmain()\n"
# The same, but no rows count as few, so that some dozen documents go the way of thousands: to the executors.
ON_EXECUTORS = """\
from pipelines.cli.main import main
from pipelines.lakehouse.folders import FolderLakehouse
for name in ("few_changes", "few_keys", "few_rows"):
    setattr(FolderLakehouse, name, lambda *_, **__: None)
main()
"""
_JAVA = "-XX:+UseSerialGC -XX:TieredStopAtLevel=1"
# lakeloop leaves a cluster's own settings alone. Those suit hosts and data of another size: all these processes share
# one machine, and a few rows would be cut into 200 tasks. So they are given with the command, which is stronger.
CONF = {
    "spark.executor.memory": "800m",
    "spark.executor.extraJavaOptions": _JAVA,
    "spark.driver.extraJavaOptions": _JAVA,
    "spark.sql.shuffle.partitions": "4",
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
    "spark.databricks.delta.snapshotPartitions": "1",
    "spark.eventLog.enabled": "true",
    "spark.eventLog.rolling.enabled": "false",
    "spark.eventLog.compress": "false",
    "spark.ui.showConsoleProgress": "false",
}


@dataclass
class Submitted:
    """One run of lakeloop by spark-submit: what it said, its executors, and the tasks that each of them ended."""

    done: subprocess.CompletedProcess[str]
    seconds: float
    executors: dict[str, Executor]
    tasks: list[dict[str, Any]]
    killed: dict[str, Any] = field(default_factory=dict)

    @property
    def outcome(self) -> dict[str, Any]:
        """The JSON that lakeloop printed last: spark-submit writes the lines of its stderr to stdout as well."""
        printed = [line for line in self.done.stdout.splitlines() if line.startswith("{")]
        found: dict[str, Any] = json.loads(printed[-1]) if printed else {}
        return found


@dataclass(frozen=True)
class Site:
    """The cluster, the programs of its hosts' environment, and a folder that all of them see."""

    folder: Path
    cluster: Standalone
    programs: Path

    def submit(self, program: str, *words: str, workspace: Path, kill_in: str = "") -> Submitted:
        """Run lakeloop; `kill_in`: the stage in which the worker of a busy executor is killed, once."""
        driver, events, port = self.folder / "loop.py", self.folder / "events", free_port()
        driver.write_text(program)
        events.mkdir(exist_ok=True)
        before = set(events.iterdir())
        conf = {**CONF, "spark.eventLog.dir": events.as_uri(), "spark.ui.port": str(port)}
        options = [word for key, value in conf.items() for word in ("--conf", f"{key}={value}")]
        jars = ",".join(map(str, delta_jars()))
        command = submit("--master", self.cluster.master, "--jars", jars, *options, str(driver), *words)
        start = time.monotonic()
        found: dict[str, Executor] = {}
        killed: dict[str, Any] = {}
        with (self.folder / "out").open("w+") as out, (self.folder / "errors").open("w+") as errors:
            process = subprocess.Popen(
                command, cwd=workspace, env=host(self.programs / "python"), stdout=out, stderr=errors, text=True
            )
            try:
                while process.poll() is None:
                    found |= {executor.id: executor for executor in self.cluster.executors()}
                    if kill_in and not killed and stage_of(workspace) == kill_in:
                        killed = self._killed(busy(port), found)
                    time.sleep(0.1)
            finally:
                process.terminate()
                process.wait()
            out.seek(0)
            errors.seek(0)
            done = subprocess.CompletedProcess(command, process.returncode, out.read(), errors.read())
        tasks = [task for log in set(events.iterdir()) - before for task in tasks_of(log)]
        return Submitted(done, time.monotonic() - start, found, tasks, killed)

    def _killed(self, busy: Sequence[str], executors: dict[str, Executor]) -> dict[str, Any]:
        for executor in (executors[number] for number in busy if number in executors):
            self.cluster.kill(executor.worker)
            return {"stage": KILLED_IN, "worker": executor.worker, "executor": executor.id, "at": time.time()}
        return {}


def stage_of(workspace: Path) -> str:
    """The stage that a workspace's log names last."""
    log = workspace / "logs" / "lakeloop.log"
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    named = (line.split(": ")[1] for line in reversed(lines) if ": versions (" in line)
    return next(named, "")


def busy(port: int) -> list[str]:
    """The executors that are doing a task now, as the application's page on loopback tells."""
    address = f"http://127.0.0.1:{port}/api/v1/applications"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        (application, *_) = json.load(opener.open(address, timeout=5))
        executors = json.load(opener.open(f"{address}/{application['id']}/executors", timeout=5))
    except (OSError, ValueError):  # the page is not there yet
        return []
    return [each["id"] for each in executors if each["id"] != "driver" and each["activeTasks"]]


def tasks_of(log: Path) -> Iterator[dict[str, Any]]:
    """The ends of tasks in an event log of Spark: executor, instant in seconds, and why it ended."""
    for line in log.read_text(encoding="utf-8").splitlines():
        event = json.loads(line)
        if event["Event"] == "SparkListenerTaskEnd":
            info, reason = event["Task Info"], event["Task End Reason"]["Reason"]
            yield {"executor": info["Executor ID"], "at": info["Finish Time"] / 1000, "reason": reason}


def workspace_in(folder: Path) -> Path:
    for name in ("landing", "orders"):
        (folder / name).mkdir(parents=True)
    (folder / "lakeloop.yml").write_text(yaml.safe_dump({"records": {"orders": ORDERS}}), encoding="utf-8")
    return folder


def deliver(workspace: Path, number: int) -> None:
    write(workspace / "landing", documents(number))
    (workspace / "orders" / f"{number}.csv").write_text(orders(number), encoding="utf-8")


def differences(settings: Settings, expected: Settings) -> list[str]:
    """What of the tables and the index of two workspaces differs, run ids and instants of the runs apart."""
    found = []
    try:
        assert_same(state(settings), state(expected))
    except AssertionError as error:
        found.append(str(error)[:500])
    for name, of in (("silver.records_orders", recorded.now), ("its history", recorded.history), ("refused", refused)):
        ours, theirs = of(settings), of(expected)
        if ours != theirs:
            found.append(f"{name}: {len(ours)} rows, {len(theirs)} expected, or others")
    return found


def refused(settings: Settings) -> list[str]:
    return sorted(f"{row['record']} {row['failed_rules']}" for row in recorded.refused(settings))


def stages(workspace: Path, run: Submitted) -> list[dict[str, Any]]:
    """What each stage of a run took, and the tasks that each executor ended meanwhile."""
    lake = new_context(load_settings(workspace / "lakeloop.yml")).lake
    found = []
    for row in lake.read_arrow("ops.stage_runs").sort_by("started_at").to_pylist():
        if row["run_id"] == run.outcome["run_id"]:
            start = row["started_at"].timestamp()
            own = [task for task in run.tasks if start <= task["at"] <= start + row["seconds"]]
            good = Counter(task["executor"] for task in own if task["reason"] == "Success")
            lost = sum(task["reason"] != "Success" for task in own)
            found.append(
                {"stage": row["stage"], "seconds": round(row["seconds"], 1), "tasks": dict(good), "lost": lost}
            )
    return found


def campaign(folder: Path) -> dict[str, Any]:
    """Both deliveries on the cluster and here, and what was seen."""
    say("building the wheel")
    (folder / "source").mkdir()
    programs = wheel.install(wheel.build(folder / "source"), folder)
    here, there = workspace_in(folder / "laptop"), workspace_in(folder / "cluster")
    result: dict[str, Any] = {"deliveries": []}
    with standalone(folder, host(programs / "python")) as cluster:
        site = Site(folder, cluster, programs)
        for number in (1, 2):
            deliver(there, number)
            say(f"delivery {number} on the cluster")
            run = site.submit(ON_EXECUTORS, "run", "--json", workspace=there, kill_in=KILLED_IN if number == 2 else "")
            expect_done(run.done)
            result["deliveries"].append(
                {
                    "delivery": number,
                    "seconds": round(run.seconds, 1),
                    "executors": {executor.id: executor.process for executor in run.executors.values()},
                    "killed": run.killed,
                    "lost": Counter(task["reason"] for task in run.tasks if task["reason"] != "Success"),
                    "stages": stages(there, run),
                }
            )
        say("an idle run, and verify, on the cluster")
        idle = site.submit(LOOP, "run", "--detailed-exitcode", workspace=there)
        verified = site.submit(LOOP, "verify", "--json", workspace=there)
        result |= {"idle": idle.done.returncode, "verified": verified.outcome.get("verified")}
    for number in (1, 2):
        deliver(here, number)
        say(f"delivery {number} here")
        local = subprocess.run(
            [programs / "lakeloop", "run", "--json"], cwd=here, env=host(), capture_output=True, text=True
        )
        expect_done(local)
    result["differences"] = differences(*(load_settings(place / "lakeloop.yml") for place in (there, here)))
    return result


def expect_done(done: subprocess.CompletedProcess[str]) -> None:
    if done.returncode not in (EXIT_DONE, EXIT_SET_ASIDE):  # one order is no number
        sys.exit(f"{' '.join(map(str, done.args))} ended with {done.returncode}:\n{done.stdout}{done.stderr[-5000:]}")


def faults(result: dict[str, Any]) -> list[str]:
    """Why a result is none to be content with."""
    found = list(result["differences"])
    if result["verified"] is not True:
        found.append(f"lakeloop verify: {result['verified']}")
    if result["idle"] != EXIT_NOTHING_TO_DO:
        found.append(f"the idle run ended with {result['idle']}")
    if not result["deliveries"][1]["killed"]:
        found.append("no worker was killed: no executor was seen at work in the stage")
    return found


def table(result: dict[str, Any]) -> str:
    """One line a stage."""
    lines = [f"{'delivery':<9}{'stage':<20}{'seconds':>8}{'lost tasks':>12}   tasks by the executor's process"]
    for delivery in result["deliveries"]:
        names = {number: str(process) for number, process in delivery["executors"].items()}
        if killed := delivery["killed"]:
            names[killed["executor"]] += " (killed)"
        for stage in delivery["stages"]:
            tasks = ", ".join(f"{names.get(of, of)}: {count}" for of, count in sorted(stage["tasks"].items()))
            lines.append(
                f"{delivery['delivery']:<9}{stage['stage']:<20}{stage['seconds']:>8}{stage['lost']:>12}   {tasks}"
            )
        lines.append(f"{delivery['delivery']:<9}{'with all starts':<20}{delivery['seconds']:>8}")
    found = faults(result)
    lines += ["", *(f"WRONG: {fault}" for fault in found)]
    return "\n".join(lines if found else [*lines, "equal to the local runs; an idle run has nothing to do"])


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    parser.add_argument("--folder", type=Path, help="an empty folder to work in, which stays; else one that goes")
    arguments = parser.parse_args()
    try:
        embedding_model_dir(), delta_jars()
    except LakeloopError as error:
        sys.exit(str(error))
    with tempfile.TemporaryDirectory(prefix="lakeloop-cluster-") as temporary:
        folder = (arguments.folder or Path(temporary)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        result = campaign(folder)
    print(json.dumps(result, indent=2) if arguments.json else table(result))
    sys.exit(1 if faults(result) else 0)


if __name__ == "__main__":
    main()
