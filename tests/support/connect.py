"""A folder in; a Spark Connect server with Delta, out."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyspark

from pipelines.lakehouse.session import LOG4J
from pipelines.machine.assets import delta_jars
from pipelines.machine.java import find_java

ROOT = Path(__file__).resolve().parents[2]
_BIN = Path(pyspark.__file__).parent / "bin"
# As in a local session: a short run gains nothing from Java's second compiler.
_JAVA = "-XX:+UseSerialGC -XX:TieredStopAtLevel=1"
_CONF = {
    "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
    "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
    "spark.sql.sources.default": "delta",
    "spark.sql.shuffle.partitions": "2",
    "spark.databricks.delta.snapshotPartitions": "1",
    "spark.sql.sources.parallelPartitionDiscovery.parallelism": "2",
    # What makes a local session fast: for a few rows, compiling a query costs more than running it.
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
    "spark.ui.enabled": "false",
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.sql.session.timeZone": "UTC",
}


@dataclass(frozen=True)
class ConnectServer:
    """A running server: its address, the folder of its managed tables, and its process."""

    remote: str
    warehouse: Path
    environment: dict[str, str]
    process: int

    def kill(self) -> None:
        """SIGKILL for the server and its Python workers."""
        os.killpg(self.process, signal.SIGKILL)

    def python(self, program: str) -> str:
        """Run a program that has `spark`, a session of this server. Returns what it prints."""
        session = f"SparkSession.builder.remote('{self.remote}').getOrCreate()"
        return self._run([sys.executable, "-c", f"from pyspark.sql import SparkSession\nspark = {session}\n{program}"])

    def _run(self, command: list[str]) -> str:
        done = subprocess.run(command, cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout + done.stderr


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def connect_server(folder: Path, **variables: str) -> Iterator[ConnectServer]:
    """A server that ends with the block; `variables` are added to its environment, and its Python workers'."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    warehouse = folder / "warehouse"
    environment = {
        **{name: value for name, value in os.environ.items() if name != "SPARK_REMOTE"},
        "JAVA_HOME": str(find_java()),
        "SPARK_HOME": str(_BIN.parent),
        "SPARK_LOCAL_IP": "127.0.0.1",
        "PYSPARK_PYTHON": sys.executable,
        "PYTHONPATH": str(ROOT),
        **variables,
    }
    (folder / "log4j2.properties").write_text(LOG4J, encoding="utf-8")
    log4j = (folder / "log4j2.properties").as_uri()
    conf = {
        **_CONF,
        "spark.driver.extraJavaOptions": f'-Dlog4j2.configurationFile="{log4j}" {_JAVA}',
        "spark.driver.extraClassPath": os.pathsep.join(map(str, delta_jars())),
        "spark.sql.warehouse.dir": str(warehouse),
        "spark.connect.grpc.binding.port": str(port),
    }
    options = [word for key, value in conf.items() for word in ("--conf", f"{key}={value}")]
    command = [str(_BIN / "spark-submit"), "--master", "local[2]", "--driver-memory", "1g", *options]
    command += ["--class", "org.apache.spark.sql.connect.service.SparkConnectServer", "spark-internal"]
    log = folder / "server.log"
    with log.open("w") as sink:
        process = subprocess.Popen(
            command, stdout=sink, stderr=subprocess.STDOUT, env=environment, cwd=folder, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 120
        while not _listens(port):
            assert process.poll() is None, log.read_text(errors="replace")[-3000:]
            assert time.monotonic() < deadline, log.read_text(errors="replace")[-3000:]
            time.sleep(0.2)
        yield ConnectServer(f"sc://127.0.0.1:{port}", warehouse, environment, process.pid)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()
