"""A folder in; a Kafka broker on loopback that lives in it, one KRaft node from jars of the registry, out."""

from __future__ import annotations

import hashlib
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipelines.machine.cache import cache_dir
from pipelines.machine.java import find_java
from pipelines.machine.maven import Coordinate, fetch_jars

VERSION = "3.9.1"
_KAFKA = (
    "kafka_2.13 kafka-clients kafka-group-coordinator kafka-group-coordinator-api kafka-metadata kafka-raft "
    "kafka-server kafka-server-common kafka-storage kafka-storage-api kafka-tools-api kafka-transaction-coordinator"
)
_OTHERS = """
net.sourceforge.argparse4j:argparse4j:0.7.0
com.github.ben-manes.caffeine:caffeine:2.9.3
commons-cli:commons-cli:1.4
commons-io:commons-io:2.14.0
commons-validator:commons-validator:1.7
com.fasterxml.jackson.core:jackson-annotations:2.16.2
com.fasterxml.jackson.core:jackson-core:2.16.2
com.fasterxml.jackson.core:jackson-databind:2.16.2
com.fasterxml.jackson.dataformat:jackson-dataformat-csv:2.16.2
com.fasterxml.jackson.datatype:jackson-datatype-jdk8:2.16.2
com.fasterxml.jackson.module:jackson-module-scala_2.13:2.16.2
net.sf.jopt-simple:jopt-simple:5.0.4
org.bitbucket.b_c:jose4j:0.9.4
org.lz4:lz4-java:1.8.0
com.yammer.metrics:metrics-core:2.2.0
org.pcollections:pcollections:4.0.1
com.thoughtworks.paranamer:paranamer:2.8
org.scala-lang.modules:scala-collection-compat_2.13:2.10.0
org.scala-lang.modules:scala-java8-compat_2.13:1.0.2
org.scala-lang:scala-library:2.13.15
com.typesafe.scala-logging:scala-logging_2.13:3.9.5
org.scala-lang:scala-reflect:2.13.15
org.slf4j:slf4j-api:1.7.36
org.xerial.snappy:snappy-java:1.1.10.5
org.apache.zookeeper:zookeeper:3.8.4
com.github.luben:zstd-jni:1.5.6-4
"""
COORDINATES = [
    *(Coordinate("org.apache.kafka", artifact, VERSION) for artifact in _KAFKA.split()),
    *(Coordinate(*line.split(":")) for line in _OTHERS.split()),
]
# Of the lines "sha256 file" of all jars, in the order of their names.
SHA256 = "1f07db206102ad7936f0318ed62335e20345ce886595e10a177760f9ca6b80a5"


def broker_jars() -> Path:
    """The folder of the broker's jars in the cache; fetched once, and checked as a whole at each call."""
    folder = cache_dir() / f"kafka-broker-{VERSION}"
    if not folder.is_dir():
        fetching = folder.with_name(f".{folder.name}")
        subprocess.run(["rm", "-rf", str(fetching)], check=True)
        fetching.mkdir(parents=True)
        fetch_jars(COORDINATES, into=fetching)
        fetching.replace(folder)
    found = [f"{hashlib.sha256(jar.read_bytes()).hexdigest()} {jar.name}" for jar in sorted(folder.glob("*.jar"))]
    assert hashlib.sha256("\n".join(found).encode()).hexdigest() == SHA256, "\n".join(found)
    return folder


class Broker:
    """A broker that runs: `address` is host:port."""

    def __init__(self, address: str, jars: Path) -> None:
        self.address = address
        self._java = [str(find_java() / "bin" / "java"), "-Xmx256m", "-cp", f"{jars}/*"]

    def send(self, topic: str, messages: list[tuple[str, str | None]]) -> None:
        """Messages as (key, value), in their order; a value of None is a tombstone."""
        lines = "".join(f"{key}|{'NULL' if value is None else value}\n" for key, value in messages)
        command = [*self._java, "kafka.tools.ConsoleProducer", "--bootstrap-server", self.address, "--topic", topic]
        command += ["--property", "parse.key=true", "--property", "key.separator=|", "--property", "null.marker=NULL"]
        subprocess.run(command, input=lines, text=True, check=True, capture_output=True, timeout=120)


@contextmanager
def kafka_broker(folder: Path) -> Iterator[Broker]:
    """A broker that keeps its topics below `folder`, and ends with the block."""
    jars = broker_jars()
    port, controller = _free_ports()
    folder.mkdir(parents=True, exist_ok=True)
    properties = folder / "server.properties"
    properties.write_text(
        f"""process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
log.dirs={folder / "topics"}
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
num.partitions=1
""",
        encoding="utf-8",
    )
    broker = Broker(f"127.0.0.1:{port}", jars)
    tool = [*broker._java, "kafka.tools.StorageTool", "format", "-t", "MkU3OEVBNTcwNTJENDM2Qk", "-c", str(properties)]
    subprocess.run(tool, check=True, capture_output=True, timeout=120)
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen([*broker._java, "kafka.Kafka", str(properties)], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 120
        while not _answers(port):
            assert process.poll() is None, (folder / "server.log").read_text()[-2000:]
            assert time.monotonic() < deadline, "the broker does not answer"
            time.sleep(0.2)
        yield broker
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]


def _answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
