"""Worker processes of this machine, for work that takes one process too long and is too little to start Spark for.

Each worker is a process of pipelines/flow/worker.py, and is given a function for `mapInArrow` and some of the rows, as
a Python worker of Spark is. They start in a second, without a JVM, and end when their standard input does.
"""

from __future__ import annotations

import io
import os
import pickle
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress

import pyarrow as pa

from transformations.errors import LakeloopError

Batches = Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]
# A message: its length and its bytes. A reply begins with what it is.
SIZE = struct.Struct("!Q")
BATCH, DONE, FAILED = b"b", b"d", b"f"
_END_SECONDS = 2


def command(module: str, arguments: str = "") -> list[str]:
    """The command that calls `main` of a module; Python code in `arguments` may use `sys`.

    Not `python -m`, which would first import what lies in the current folder, under whatever name.
    """
    own_path = "import sys; sys.path[:] = [path for path in sys.path if path]"
    return [sys.executable, "-c", f"{own_path}; from {module} import main; main({arguments})"]


def import_path() -> str:
    """PYTHONPATH for a process that must be able to import what this one can."""
    return os.pathsep.join(entry or os.getcwd() for entry in sys.path)


def weight_of(batch: pa.RecordBatch) -> int:
    """The bytes of a batch of results; small rows count as 1 KB each, since more is made of them."""
    size, rows = int(batch.nbytes), int(batch.num_rows)
    return max(size, 1024 * rows)


def map_in_workers(
    function: Batches, parts: Sequence[pa.Table], schema: pa.Schema, *, most_bytes: int
) -> pa.Table | None:
    """The results of `function` on each of `parts`, in their order, with the columns of `schema`.

    Each part has a worker of its own, and they work at the same time.

    Returns:
        None if the results are more than `most_bytes`: then all workers were stopped.

    Raises:
        Exception: that of the function, of the first part that failed. Its cause holds the traceback in the worker.
        LakeloopError: a worker ended by itself, for example for lack of memory.
    """
    workers: list[subprocess.Popen[bytes]] = []
    budget = [most_bytes]
    try:
        workers += (_start() for _ in parts)
        with ThreadPoolExecutor(len(parts)) as threads:
            message = _pickled(function)
            running = {
                threads.submit(_collect, worker, message, part, budget): place
                for place, (worker, part) in enumerate(zip(workers, parts, strict=True))
            }
            found: dict[int, list[pa.RecordBatch]] = {}
            try:
                for done in as_completed(running):
                    found[running[done]] = done.result()
                    if budget[0] < 0:
                        return None
            finally:
                _stop(workers)  # before the threads are waited for: those that still read are let go
    finally:
        _stop(workers)
    made = [batch for place in sorted(found) for batch in found[place]]
    return pa.concat_tables(
        [schema.empty_table(), *(pa.table(batch).select(schema.names).cast(schema) for batch in made)]
    )


def _start() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command("pipelines.flow.worker"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": import_path()},
        start_new_session=True,  # Ctrl-C is for the parent, which then stops its workers
    )


def _stop(workers: Sequence[subprocess.Popen[bytes]]) -> None:
    """End the workers, so that they end what they started; kill those that do not. Does nothing to those that ended."""
    alive = [worker for worker in workers if worker.poll() is None]
    for worker in alive:
        worker.terminate()
    deadline = time.monotonic() + _END_SECONDS
    for worker in alive:
        try:
            worker.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()


def _collect(
    worker: subprocess.Popen[bytes], function: bytes, part: pa.Table, budget: list[int]
) -> list[pa.RecordBatch]:
    """Have one worker do one part. `budget` is what all workers together may still return; at less than 0 it ends."""
    assert worker.stdin is not None
    assert worker.stdout is not None
    try:
        with suppress(BrokenPipeError):  # its reply, or its end, says why
            for message in (function, serialized(part)):
                worker.stdin.write(SIZE.pack(len(message)))
                worker.stdin.write(message)
            worker.stdin.close()
        found: list[pa.RecordBatch] = []
        while budget[0] >= 0:
            kind, content = _reply(worker)
            if kind == DONE:
                break
            if kind == FAILED:
                raise _error(content)
            batches = pa.ipc.open_stream(content).read_all().to_batches()
            budget[0] -= sum(map(weight_of, batches))
            found += batches
        return found
    finally:
        worker.stdout.close()


def _reply(worker: subprocess.Popen[bytes]) -> tuple[bytes, bytes]:
    stream = worker.stdout
    assert stream is not None
    kind, header = stream.read(1), stream.read(SIZE.size)
    content = stream.read(SIZE.unpack(header)[0]) if len(header) == SIZE.size else b""
    if len(header) < SIZE.size or len(content) < SIZE.unpack(header)[0]:
        raise LakeloopError(
            f"a worker process {_end_of(worker)} before its work was done. Nothing of this step was written. Run "
            "again; what it said itself is above."
        )
    return kind, content


def _end_of(worker: subprocess.Popen[bytes]) -> str:
    try:
        code = worker.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        return "closed its output"
    if code == -signal.SIGKILL:
        return "was killed, perhaps for lack of memory (fewer workers need less: spark.master: local[1]),"
    return f"ended with exit status {code}" if code >= 0 else f"ended by {signal.Signals(-code).name}"


def serialized(rows: pa.Table | pa.RecordBatch) -> bytes:
    """Rows as an Arrow stream."""
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write(rows)
    return sink.getvalue()


def _pickled(function: Batches) -> bytes:
    from pyspark import cloudpickle  # as Spark ships it to its workers

    pickled: bytes = cloudpickle.dumps(function)  # type: ignore[no-untyped-call]
    return pickled


def _error(content: bytes) -> Exception:
    pickled, trace, exit_code = pickle.loads(content)  # noqa: S301 - lakeloop's own process wrote it
    try:
        error = pickle.loads(pickled)  # noqa: S301
    except Exception:  # an error that cannot be made again from its arguments
        text = trace.strip().splitlines()[-1]
        if exit_code is None:
            error = RuntimeError(text)
        else:
            error = LakeloopError(text)
            error.exit_code = exit_code
    found: Exception = error
    found.__cause__ = RuntimeError(f"in a worker process:\n{trace}")
    return found
