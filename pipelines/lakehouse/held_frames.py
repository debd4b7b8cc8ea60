"""`HeldFrames`: frames that are computed once and read several times, in a session that allows it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

log = logging.getLogger(__name__)
# SQLSTATE of "feature not supported": serverless compute before environment version 5 has no cache.
_NOT_SUPPORTED = "0A000"


class HeldFrames:
    """Frames that a stage persists, until it releases them.

    A session without a cache refuses the first one. It is not asked again: each frame is computed once a reader, which
    gives the same rows, since a stage reads its tables at versions.
    """

    def __init__(self) -> None:
        self._held: list[DataFrame] = []
        self._is_allowed = True

    def __len__(self) -> int:
        return len(self._held)

    def hold(self, frame: DataFrame) -> DataFrame:
        """The same rows, computed once if the session has a cache."""
        if self._is_allowed:
            try:
                frame = frame.persist()
            except Exception as error:
                if not _is_refusal(error):
                    raise
                self._is_allowed = False
                log.info("this session has no cache (%s); what is read twice is computed twice", _first_line(error))
            else:
                self._held.append(frame)
        return frame

    def release(self, frame: DataFrame) -> None:
        """Free what `hold` has kept of this frame."""
        if any(held is frame for held in self._held):
            self._held = [held for held in self._held if held is not frame]
            frame.unpersist()

    def release_all(self) -> None:
        while self._held:
            self._held.pop().unpersist()


def _is_refusal(error: Exception) -> bool:
    state = getattr(error, "getSqlState", lambda: None)()
    return state == _NOT_SUPPORTED or "NOT_SUPPORTED_WITH_SERVERLESS" in str(error)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
