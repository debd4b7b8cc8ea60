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
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from pipelines.settings.sections import Settings
from pipelines.storage.object_path import ObjectPath
from transformations.errors import ConfigurationError, LakeloopError, RefusedError

log = logging.getLogger(__name__)
_NAME = ".lakeloop.lock"
# So long a machine that is gone keeps others out; it is prolonged after each third.
_LEASE_SECONDS = 120
# Who waits so long, and sees no change, knows that nobody prolongs it.
_PROLONGED_WITHIN = _LEASE_SECONDS / 3 + 10


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
    """A lease that an object keeps: who holds it, and until when.

    Only its token says whose it is: two containers may have the same name, and the same number for their process.
    """

    def __init__(self, place: ObjectPath) -> None:
        self._place, self._tag, self._token = place, "", uuid.uuid4().hex
        self._stop, self._is_lost = threading.Event(), False
        self._prolonging = threading.Thread(target=self._prolong, name="lock", daemon=True)

    def acquire(self) -> None:
        """Raises RefusedError if another process holds it."""
        tag = self._place.replace_if(self._said(), tag=None) or self._taken_over()
        if tag is None:
            raise RefusedError(
                f"another lakeloop run has just begun to write to {self._place.parent}. Nothing was done. Wait for it, "
                "and run again."
            )
        self._tag = tag
        self._prolonging.start()

    def _taken_over(self) -> str | None:
        """The tag of the lease, taken from a holder that has left; None if another run was faster.

        A holder on this machine is seen to have ended. One elsewhere has left if it does not prolong its lease in time:
        its clock is not asked for that, for it may be another.
        """
        held, tag = self._held()
        if tag is not None and held.get("token") != self._token and not _has_left(held):
            if _is_held(held):
                raise self._refused(held)
            log.info("the lock at %s is old: waiting whether its holder prolongs it", self._place)
            time.sleep(_PROLONGED_WITHIN)
            held, now = self._held()
            if now != tag:
                raise self._refused(held)
        return self._place.replace_if(self._said(), tag=tag)

    def _held(self) -> tuple[dict[str, Any], str | None]:
        """What the object says, and its tag; None: there is none."""
        try:
            content, seen = self._place.read_with_stat()
        except FileNotFoundError:
            return {}, None
        with suppress(ValueError):
            if isinstance(said := json.loads(content), dict):
                return said, seen.st_ino
        return {}, seen.st_ino

    def _refused(self, held: Mapping[str, Any]) -> RefusedError:
        node, _, pid = str(held.get("process", "of another machine")).rpartition(" ")
        return RefusedError(
            f"another lakeloop run (process {pid} on {node}) is writing to {self._place.parent} until "
            f"{str(held.get('until', ''))[11:19]} UTC or longer. Nothing was done. Wait for it, and run again."
        )

    def release(self) -> None:
        """Give it back.

        Raises:
            RefusedError: another process took it meanwhile, for this one had stood still.
        """
        self._stop.set()
        self._prolonging.join(_LEASE_SECONDS / 3)
        with suppress(LakeloopError):  # what is not given back ends by itself
            given = self._said(is_released=True)
            tag = self._place.replace_if(given, tag=self._tag)
            if tag is None and (own := self._own_tag()) is not None:
                tag = self._place.replace_if(given, tag=own)
            self._is_lost |= tag is None
        if self._is_lost:
            raise RefusedError(
                f"this run stood still for more than {_LEASE_SECONDS} s, and another one has been writing to "
                f"{self._place.parent} since. Of what both wrote by Spark, one may have lost some: lakeloop verify. "
                "Then run again."
            )

    def _prolong(self) -> None:
        while not self._stop.wait(_LEASE_SECONDS / 3):
            try:
                tag = self._place.replace_if(self._said(), tag=self._tag) or self._own_tag()
            except Exception as error:  # the cause may pass
                log.warning("the lock at %s was not prolonged, trying again: %s", self._place, error)
                continue
            if tag is None:
                self._is_lost = True
                log.error("another run has taken the lock at %s", self._place)
                return
            self._tag = tag

    def _own_tag(self) -> str | None:
        """The tag of what this lease wrote, if it is still that: an answer that was lost did not say it."""
        held, tag = self._held()
        return tag if held.get("token") == self._token else None

    def _said(self, *, is_released: bool = False) -> bytes:
        until = datetime.now(timezone.utc) + timedelta(seconds=_LEASE_SECONDS)
        said = {"process": this_process(), "space": _process_space(), "token": self._token, "until": until.isoformat()}
        return json.dumps(said | ({"is_released": True} if is_released else {})).encode()


def _has_left(held: Mapping[str, Any]) -> bool:
    """Whether the holder gave it back, or is a process of this machine that has ended."""
    if held.get("is_released") is True:
        return True
    with suppress(ValueError, KeyError, AttributeError):
        return held["space"] == _process_space() and not is_alive(held["process"])
    return False


def _is_held(held: Mapping[str, Any]) -> bool:
    """Whether the lease is not over yet, by this machine's clock."""
    with suppress(ValueError, KeyError, TypeError):
        return datetime.fromisoformat(held["until"]) > datetime.now(timezone.utc)
    return False


def _process_space() -> str:
    """Where the number of a process means that process: this start of this machine, or of this container in it."""
    boot, namespace = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    with suppress(OSError):
        return f"{boot.read_text().strip()} {os.readlink(namespace)}"
    return platform.node()
