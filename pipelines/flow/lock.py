"""The lock of a workspace: one process writes at a time."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from pipelines.settings.sections import Settings
from transformations.errors import ConfigurationError, RefusedError


@contextmanager
def only_writer(settings: Settings) -> Iterator[None]:
    """Hold the workspace's lock. The kernel releases it when the process ends, also after a crash.

    Raises:
        RefusedError: another process holds it.
        ConfigurationError: the workspace cannot be written.
    """
    path = settings.root / ".lakeloop.lock"
    try:
        lock = path.open("a+")
    except OSError as error:
        raise ConfigurationError(
            f"the workspace {settings.root} cannot be written ({error.strerror}). Work in a folder of your own: "
            "lakeloop init, there."
        ) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise RefusedError(
                f"another lakeloop run ({lock.read().strip() or 'just started'}) is writing to {settings.root}. "
                "Nothing was done. Wait for it, and run again."
            ) from None
        lock.truncate(0)
        lock.write(f"process {os.getpid()}, since {time.strftime('%Y-%m-%d %H:%M:%S UTC', time.gmtime())}")
        lock.flush()
        yield
