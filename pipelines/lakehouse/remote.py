"""A Spark Connect session with given settings; if its server goes away, every call ends with one `SparkLostError`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from pyspark.sql import SparkSession
from pyspark.sql.connect.client.retries import DefaultPolicy, RetryPolicyState

from transformations.errors import SparkLostError

# With Spark's pauses, which grow, this is a minute; Spark's own 15 are ten minutes, for each of several calls.
RETRIES = 6
_GIVEN_UP = 120.0  # seconds in which no call waits again
# What a server says that does not know the session of its client, for example after a restart.
_FORGOTTEN = ("INVALID_HANDLE.SESSION", "INVALID_HANDLE.OPERATION_NOT_FOUND")


def connected(remote: str, conf: Mapping[str, str]) -> SparkSession:
    """The session of the server at `remote`, made if there is none, with `conf` set in one call.

    Raises:
        SparkLostError: the server does not answer.
    """
    builder = SparkSession.builder.remote(remote)
    session: Any = builder.getOrCreate()  # no call of the server yet
    session.client.set_retry_policies([Patience(remote)])
    for key, value in conf.items():
        builder = builder.config(key, value)
    return builder.getOrCreate()


class Patience(DefaultPolicy):
    """Spark's policy of retries. After a call gave up, no other one waits for that server, for a minute or two."""

    def __init__(self, remote: str) -> None:
        super().__init__(max_retries=RETRIES)
        self.remote = remote.partition("/;")[0]  # without parameters: one may be a token
        self.error: SparkLostError | None = None
        self.until = 0.0  # of the monotonic clock: as long as the error counts

    def can_retry(self, e: BaseException) -> bool:
        return super().can_retry(e) or _is_forgotten(e)

    def to_state(self) -> RetryPolicyState:
        return _Attempts(self)


class _Attempts(RetryPolicyState):
    """The retries of one call."""

    def __init__(self, policy: Patience) -> None:
        super().__init__(policy)
        self._patience = policy
        self._seen: BaseException | None = None

    def can_retry(self, exception: BaseException) -> bool:
        self._seen = exception
        return super().can_retry(exception)

    def next_attempt(self, exception: BaseException | None = None) -> int | None:
        """How many milliseconds to wait.

        Raises:
            SparkLostError: it was waited for long enough, in this call or in an earlier one.
        """
        patience, wait = self._patience, None
        if time.monotonic() > patience.until:
            patience.error = None  # the server may have come back
        if patience.error is None and not _is_forgotten(self._seen):
            wait = super().next_attempt(*([] if exception is None else [exception]))  # clients before 4.1 give none
        if wait is None:
            if patience.error is None:
                patience.error, patience.until = _lost(patience.remote, self._seen), time.monotonic() + _GIVEN_UP
            raise patience.error from None
        return wait


def _is_forgotten(error: BaseException | None) -> bool:
    return any(sign in str(error) for sign in _FORGOTTEN)


def _lost(remote: str, error: BaseException | None) -> SparkLostError:
    what = "was started anew, and lost this session" if _is_forgotten(error) else "does not answer"
    return SparkLostError(
        f"The Spark Connect server at {remote} {what}. What was committed before stays. Start the server, or name "
        "another (SPARK_REMOTE or spark.master), and run again: it goes on from there."
    )
