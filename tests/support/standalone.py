"""A folder in; a standalone cluster of Spark, a master and workers as processes on loopback, out."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pyspark

from pipelines.machine.java import find_java

SPARK = Path(pyspark.__file__).parent


@dataclass(frozen=True)
class Executor:
    """A process of a worker that does tasks of one application."""

    application: str
    id: str
    process: int
    worker: int


@dataclass(frozen=True)
class Standalone:
    """A running cluster: the master's address, and the processes of its workers."""

    master: str
    workers: tuple[int, ...]

    def executors(self) -> Iterator[Executor]:
        """The executors that run now."""
        for worker in self.workers:
            with suppress(psutil.Error):
                for child in psutil.Process(worker).children():
                    with suppress(psutil.Error):
                        words = child.cmdline()
                        if "--executor-id" in words:
                            application, number = (words[words.index(w) + 1] for w in ("--app-id", "--executor-id"))
                            yield Executor(application, number, child.pid, worker)

    def kill(self, worker: int) -> None:
        """SIGKILL for a worker, its executors and their Python processes, as if their host went away."""
        assert worker in self.workers
        os.killpg(worker, signal.SIGKILL)


def submit(*options: str) -> list[str]:
    """The command spark-submit of the installed Spark."""
    return [str(SPARK / "bin" / "spark-submit"), *options]


def host(python: Path | str = sys.executable, **variables: str) -> dict[str, str]:
    """The environment of a host of the cluster, whose processes keep to loopback and run `python`."""
    return {
        **{name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "SPARK_REMOTE")},
        "JAVA_HOME": str(find_java()),
        "SPARK_HOME": str(SPARK),
        "SPARK_LOCAL_IP": "127.0.0.1",
        "PYSPARK_PYTHON": str(python),
        **variables,
    }


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def standalone(folder: Path, environment: Mapping[str, str], *, workers: int = 2) -> Iterator[Standalone]:
    """A cluster whose workers have one core each; all of its processes end with the block."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(name: str, *words: str) -> None:
        command = [str(SPARK / "bin" / "spark-class"), f"org.apache.spark.deploy.{words[0]}", *words[1:]]
        command += ["--host", "127.0.0.1", "--webui-port", "0"]
        with (folder / f"{name}.log").open("wb") as log:
            processes.append(
                subprocess.Popen(
                    command,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=dict(environment),
                    cwd=folder,
                    start_new_session=True,
                )
            )

    port = free_port()
    master = f"spark://127.0.0.1:{port}"
    try:
        start("master", "master.Master", "--port", str(port))
        for number in range(workers):
            work = str(folder / f"work-{number}")
            start(f"worker-{number}", "worker.Worker", "--cores", "1", "--memory", "1g", "--work-dir", work, master)
        log, deadline = folder / "master.log", time.monotonic() + 60
        while len(re.findall("Registering worker", log.read_text())) < workers:
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        yield Standalone(master, tuple(process.pid for process in processes[1:]))
    finally:
        for process in reversed(processes):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            process.wait()
