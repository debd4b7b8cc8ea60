"""The lock of a workspace: one process writes at a time, also from other machines if the tables are in object storage.

On this machine the kernel keeps it. In object storage it is an object beside the tables, which is written only if it is
not there, or is still the one that was read: a lease, which its holder prolongs and which ends by itself.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import platform
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta, timezone

from pipelines.settings.sections import Settings
from pipelines.storage.object_path import ObjectPath
from transformations.errors import ConfigurationError, RefusedError

log = logging.getLogger(__name__)
_NAME = ".lakeloop.lock"
# So long a machine that is gone keeps others out; it is prolonged after each third.
_LEASE_SECONDS = 120


@contextmanager
def only_writer(settings: Settings) -> Iterator[None]:
    """Hold the workspace's lock. The kernel releases it when the process ends, also after a crash.

    Raises:
        RefusedError: another process holds it.
        ConfigurationError: the workspace cannot be written.
    """
    tables = None if settings.catalog else settings.place(settings.lakehouse)
    with _only_one_here(settings):
        if not isinstance(tables, ObjectPath):
            yield
            return
        lease = _Lease(tables / _NAME)
        lease.acquire()
        try:
            yield
        finally:
            lease.release()


@contextmanager
def _only_one_here(settings: Settings) -> Iterator[None]:
    path = settings.root / _NAME
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


def this_process() -> str:
    """The machine and the process, so that others on this machine can see whether it still lives."""
    return f"{platform.node()} {os.getpid()}"


def is_alive(process: str) -> bool:
    """False only if it was a process of this machine (`this_process`) that has ended."""
    *_, node, pid = process.split(" ")
    if node != platform.node():
        return True
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


class _Lease:
    """A lease that an object keeps: who holds it, and until when."""

    def __init__(self, place: ObjectPath) -> None:
        self._place, self._tag = place, ""
        self._stop, self._is_lost = threading.Event(), False

    def acquire(self) -> None:
        """Raises RefusedError if another process holds it."""
        tag = self._place.replace_if(self._said(), tag=None) or self._taken_over()
        if tag is None:
            raise RefusedError(
                f"another lakeloop run has just begun to write to {self._place.parent}. Nothing was done. Wait for it, "
                "and run again."
            )
        self._tag = tag
        threading.Thread(target=self._prolong, name="lock", daemon=True).start()

    def _taken_over(self) -> str | None:
        """The tag of the lease, taken from a holder whose time is over or that has ended; None if it is neither."""
        try:
            content, seen = self._place.read_with_stat()
        except FileNotFoundError:  # released meanwhile
            return self._place.replace_if(self._said(), tag=None)
        with suppress(ValueError, KeyError, TypeError):
            held = json.loads(content)
            is_over = datetime.fromisoformat(held["until"]) < datetime.now(timezone.utc)
            # Its own it is where storage had written, but the answer was lost and the client wrote again.
            if not is_over and held["process"] != this_process() and is_alive(held["process"]):
                raise RefusedError(
                    f"another lakeloop run (process {held['process'].rpartition(' ')[2]} on "
                    f"{held['process'].rpartition(' ')[0]}) is writing to {self._place.parent} until "
                    f"{held['until'][11:19]} UTC or longer. Nothing was done. Wait for it, and run again."
                )
        return self._place.replace_if(self._said(), tag=seen.st_ino)

    def release(self) -> None:
        """Give it back.

        Raises:
            RefusedError: another process took it meanwhile, for this one had stood still.
        """
        self._stop.set()
        if self._is_lost:
            raise RefusedError(
                f"this run stood still for more than {_LEASE_SECONDS} s, and another one has been writing to "
                f"{self._place.parent} since. Every table is whole, but some work may be done twice. Run again."
            )
        with suppress(Exception):  # what is not given back ends by itself
            if self._place.stat().st_ino == self._tag:
                self._place.unlink()

    def _prolong(self) -> None:
        while not self._stop.wait(_LEASE_SECONDS / 3):
            try:
                tag = self._place.replace_if(self._said(), tag=self._tag) or self._own_tag()
            except Exception as error:  # the cause may pass
                log.warning("the lock at %s was not prolonged, trying again: %s", self._place, error)
                continue
            if tag is None and not self._stop.is_set():
                self._is_lost = True
                log.error("another run has taken the lock at %s", self._place)
                return
            self._tag = tag or self._tag

    def _own_tag(self) -> str | None:
        content, seen = self._place.read_with_stat()
        return seen.st_ino if json.loads(content)["process"] == this_process() else None

    @staticmethod
    def _said() -> bytes:
        until = datetime.now(timezone.utc) + timedelta(seconds=_LEASE_SECONDS)
        return json.dumps({"process": this_process(), "until": until.isoformat()}).encode()
