"""The lease on one index, kept in ops.index_state: the right to write, with at most one holder at a time.

Each holder gets a higher number (the fence) than the last one. The number goes into the index's manifest, and a
manifest never replaces one with a higher number. So a writer that lost its lease without noticing, for example on a
paused machine, can no longer commit.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from pipelines.flow.lock import is_alive
from pipelines.flow.stage import Context
from pipelines.stores import Manifest
from pipelines.vector_index.state import IndexState, change, holder, updated
from transformations.errors import RefusedError

log = logging.getLogger(__name__)


class Lease:
    """One lease, held until `release`; a thread renews it after each third of its length.

    Attributes:
        fence: its number.
        was_clean: whether the writing before came to its end.
    """

    def __init__(self, context: Context, name: str) -> None:
        self._context, self._name = context, name
        self._holder = holder(context.run_id)
        self._seconds = context.settings.index.lease_seconds
        self._stop = threading.Event()
        self._lost_to_another = False
        self._last_failure = ""
        self.fence = 0
        self.was_clean = self._may_have_written = False

    def acquire(self, *, at_least: int) -> None:
        """Take the lease, with a number above `at_least` (that of the index) and above all earlier ones.

        Raises:
            RefusedError: another writer holds it.
        """

        def take(rows: list[IndexState]) -> list[IndexState]:
            (row,) = [row for row in rows if row.index_name == self._name]
            # The lease counts from here, not from the commit: that may take long.
            self._renewed, now = time.monotonic(), self._context.now()
            if (
                row.lease_holder is not None
                and row.lease_holder != self._holder
                and row.lease_until is not None
                and row.lease_until > now
                and is_alive(row.lease_holder)
            ):
                raise RefusedError(
                    f"sync-index: another run ({row.lease_holder.split(' ')[0]}) is writing to the index {self._name} "
                    f"until {row.lease_until:%H:%M:%S} UTC or longer. Nothing was done. Wait for it, and run again."
                )
            self.fence, self.was_clean = max(row.fence, at_least) + 1, row.is_clean
            until = now + timedelta(seconds=self._seconds)
            return updated(
                rows, self._name, fence=self.fence, lease_holder=self._holder, lease_until=until, is_clean=False
            )

        change(self._context.lake, take)
        threading.Thread(target=self._renew, name="lease", daemon=True).start()

    def check(self) -> None:
        """Call this before each write. Raises RefusedError if the lease has run out: another writer may have it."""
        silent = time.monotonic() - self._renewed
        if self._lost_to_another:
            raise RefusedError(
                f"sync-index: another run took the lease on the index {self._name} and may write to it now. This one "
                "stops here; nothing was committed. Run again."
            )
        if silent > self._seconds:
            why = (
                f"its lease could not be renewed for {silent:.0f} s ({self._last_failure})"
                if self._last_failure
                else f"this process stood still for {silent:.0f} s"
            )
            raise RefusedError(
                f"sync-index: {why}, longer than index.lease_seconds ({self._seconds:g}), so another run may write "
                f"to {self._name} by now. This one stops here; nothing was committed. Run again."
            )
        self._may_have_written = True

    def release(self, manifest: Manifest | None) -> None:
        """Give the lease back; `manifest` is the index's new one, or None if the sync did not commit."""
        self._stop.set()
        # If nothing was written, for example because a limit refused it, the index is as clean as before.
        mirror = {"is_clean": self.was_clean and not self._may_have_written} if manifest is None else {
            "source_table": manifest.source_table,
            "source_id": manifest.source_id,
            "version": manifest.version,
            "fingerprint": manifest.fingerprint,
            "rows": manifest.rows,
            "is_clean": True,
        }  # fmt: skip

        def give_back(rows: list[IndexState]) -> list[IndexState]:
            own = [r for r in rows if r.index_name == self._name and r.fence == self.fence]
            if not own:
                return rows
            free = {"lease_holder": None, "lease_until": None, "updated_at": self._context.now()}
            return updated(rows, self._name, **free, **mirror)

        change(self._context.lake, give_back)

    def _renew(self) -> None:
        pause = self._seconds / 3
        while not self._stop.wait(pause):
            before = time.monotonic()
            until = self._context.now() + timedelta(seconds=self._seconds)

            def prolong(rows: list[IndexState], until=until) -> list[IndexState]:  # type: ignore[no-untyped-def]
                own = [r for r in rows if r.index_name == self._name and r.fence == self.fence]
                if not own:
                    raise _TakenError
                return updated(rows, self._name, lease_until=until)

            try:
                change(self._context.lake, prolong)
            except _TakenError:
                self._lost_to_another = True
                return
            except Exception as error:
                # The cause may pass, and the lease still has time left; `check` stops the writer when that is over.
                self._last_failure = f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"
                log.warning("the lease on %s was not renewed, trying again: %s", self._name, self._last_failure)
                pause = min(self._seconds / 20, 5.0)
                continue
            self._renewed, self._last_failure, pause = before, "", self._seconds / 3


class _TakenError(Exception):
    """Another writer has the lease: its number in the table is no longer ours."""


@contextmanager
def writing(context: Context, name: str, *, at_least: int) -> Iterator[Lease]:
    """Take the lease on the index `name` for a block, which releases it with its manifest.

    If the block fails, the lease is given back without a manifest.
    """
    lease = Lease(context, name)
    lease.acquire(at_least=at_least)
    try:
        yield lease
    except BaseException:
        lease.release(None)
        raise
