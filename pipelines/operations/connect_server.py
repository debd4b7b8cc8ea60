"""A Spark Connect server of this workspace's own, with Delta and the tables that it is told of, for as long as a block.

The server is a process that starts Spark as `lakeloop run` does, and ends when its standard input ends: with the block,
and also when the process that wanted it is killed. It listens on loopback, on a port that the system chooses, and takes
no call without the token that only its client knows. Its catalog is in memory, so it is told of tables anew each time.
"""

from __future__ import annotations

import fcntl
import os
import pickle
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from pipelines.flow.workers import command, import_path
from pipelines.lakehouse.session import start_session
from pipelines.settings.sections import Settings
from transformations.errors import LakeloopError, MissingDependencyError

_END_SECONDS = 30
_TOKEN = "SPARK_CONNECT_AUTHENTICATE_TOKEN"  # noqa: S105 - the name of the variable
_SERVING = {
    "spark.plugins": "org.apache.spark.sql.connect.SparkConnectPlugin",
    "spark.connect.grpc.binding.address": "127.0.0.1",
    "spark.connect.grpc.binding.port": "0",
    # A declared dataset names no format: with one, its second run would be refused.
    "spark.sql.sources.default": "delta",
}


@dataclass(frozen=True)
class _Wanted:
    """What the server is told on its standard input.

    Attributes:
        master: the master of its Spark.
        conf: what Spark is told beside the settings.
        statements: SQL that makes its catalog.
        lock: a file that one server at a time holds; the next waits until the last of its Java has ended.
    """

    settings: Settings
    master: str
    conf: Mapping[str, str]
    statements: Sequence[str]
    lock: Path


@contextmanager
def connect_server(
    settings: Settings, *, master: str, conf: Mapping[str, str], statements: Sequence[str], lock: Path
) -> Iterator[None]:
    """In the block, this process's sessions of Spark are those of a new server.

    Args:
        master: of the server's Spark.
        conf: what it is told beside the settings.
        statements: SQL that makes its catalog, before the first call.
        lock: a file of the workspace; a server that a killed process left behind is waited for by it.

    Raises:
        ConfigurationError: Java, Delta's jars or a library of Spark Connect are missing.
        LakeloopError: the server ended before it could be called.
    """
    if missing := [name for name in ("grpc_status", "zstandard") if find_spec(name) is None]:
        raise MissingDependencyError.for_extra(missing[0], "spark")
    token = secrets.token_hex(32)
    environment = {name: value for name, value in os.environ.items() if name != "SPARK_REMOTE"}
    process = subprocess.Popen(
        command("pipelines.operations.connect_server"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**environment, "PYTHONPATH": import_path(), _TOKEN: token},
        start_new_session=True,  # Ctrl-C is for this process, which then ends the server
    )
    try:
        port = _started(process, _Wanted(settings, master, conf, statements, lock))
        # The client sends a token to "localhost" alone without TLS; a proxy is not asked for this machine.
        calls = {"SPARK_REMOTE": f"sc://localhost:{port}", _TOKEN: token, "no_grpc_proxy": "localhost"}
        with _variables({**calls, "SPARK_CONNECT_MODE_ENABLED": "1"}):
            yield
    finally:
        _end(process)


def _started(process: subprocess.Popen[bytes], wanted: _Wanted) -> int:
    """Tell the process what is wanted. Returns its port.

    Raises:
        Exception: what the process failed with.
    """
    assert process.stdin is not None
    assert process.stdout is not None
    with suppress(BrokenPipeError):  # its reply, or its end, says why
        pickle.dump(wanted, process.stdin)
        process.stdin.flush()
    try:
        reply = pickle.load(process.stdout)  # noqa: S301 - from the process that was started here
    except EOFError:
        raise LakeloopError(
            f"the Spark Connect server ended before it could be called (exit code {process.wait(_END_SECONDS)}). "
            f"{wanted.settings.log_path} has what it said."
        ) from None
    if isinstance(reply, Exception):
        raise reply
    return int(reply)


def _end(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    with suppress(BrokenPipeError):
        process.stdin.close()
    try:
        process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert process.stdout is not None
    process.stdout.close()


@contextmanager
def _variables(values: Mapping[str, str]) -> Iterator[None]:
    """Set these variables of the environment in the block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def main() -> None:
    """Serve what standard input says until it ends, and reply with the port, or with what went wrong."""
    wanted: _Wanted = pickle.load(sys.stdin.buffer)  # noqa: S301 - from the process that started this one
    with wanted.lock.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            reply: object = _serve(wanted)
        except LakeloopError as error:
            reply = error
        except Exception as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            reply = LakeloopError(f"the Spark Connect server does not start: {lines[0][:300]}")
        with suppress(BrokenPipeError):
            pickle.dump(reply, sys.stdout.buffer)
            sys.stdout.flush()
        sys.stdin.buffer.read()
        _end_java()


def _serve(wanted: _Wanted) -> int:
    from pipelines.lakehouse.session import configuration

    log4j = wanted.settings.log_path.with_name("log4j2.properties")
    jars = configuration(wanted.settings, wanted.master, log4j=log4j)["spark.jars"]
    # The server's sessions have a class path of their own, without the jars of `spark.jars`.
    on_class_path = {"spark.jars": "", "spark.driver.extraClassPath": jars.replace(",", os.pathsep)}
    spark = start_session(wanted.settings, wanted.master, added={**_SERVING, **on_class_path, **wanted.conf})
    from pyspark import SparkContext  # its Connect client alone has none, which start_session says

    for statement in wanted.statements:
        spark.sql(statement)
    jvm = SparkContext._jvm
    assert jvm is not None
    service = getattr(getattr(jvm.org.apache.spark.sql.connect.service, "SparkConnectService$"), "MODULE$")
    return int(service.server().getPort())


def _end_java() -> None:
    """End Java, which ends when its standard input does, and wait for that: until then, it writes."""
    from pyspark.util import is_remote_only

    if is_remote_only():
        return
    from pyspark import SparkContext

    gateway = SparkContext._gateway
    java: subprocess.Popen[bytes] | None = getattr(gateway, "proc", None)
    if java is None:
        return
    assert java.stdin is not None
    java.stdin.close()
    try:
        java.wait(_END_SECONDS / 2)
    except subprocess.TimeoutExpired:
        java.kill()
        java.wait()
