"""The process of a worker: reads a function and rows from standard input, and writes what comes of them to output.

`map_in_workers` starts it and alone writes to its input, so that what is unpickled here is lakeloop's own.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from typing import BinaryIO

import pyarrow as pa

from pipelines.flow.workers import BATCH, DONE, FAILED, SIZE, serialized


def main() -> None:
    """Do the work of one message, and end."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what it started is ended, too
    messages, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # so that nothing that a library prints is taken for a reply
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    function, rows = (messages.read(SIZE.unpack(messages.read(SIZE.size))[0]) for _ in range(2))
    try:
        from pyspark import cloudpickle

        for batch in cloudpickle.loads(function)(_batches(rows)):
            _send(replies, BATCH, serialized(batch))
    except Exception as error:
        exit_code = getattr(error, "exit_code", None)
        _send(replies, FAILED, pickle.dumps((_pickled(error), traceback.format_exc(), exit_code)))
    else:
        _send(replies, DONE, b"")


def _end_with(parent: int) -> None:
    """End this process when its parent has: a parent that is killed cannot stop it."""
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(1)
    os._exit(1)


def _batches(rows: bytes) -> Iterator[pa.RecordBatch]:
    with pa.ipc.open_stream(rows) as reader:
        yield from reader


def _pickled(error: Exception) -> bytes:
    try:
        return pickle.dumps(error)
    except Exception:
        return b""


def _send(replies: BinaryIO, kind: bytes, content: bytes) -> None:
    replies.write(kind + SIZE.pack(len(content)))
    replies.write(content)
    replies.flush()
