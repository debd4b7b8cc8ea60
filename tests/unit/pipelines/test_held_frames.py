"""What a session does not hold is computed again, and only an error that says so is passed over."""

from __future__ import annotations

from typing import Any

import pytest

from pipelines.lakehouse import held_frames
from pipelines.lakehouse.held_frames import HeldFrames


class Frame:
    """Counts what is asked of it, and refuses to be persisted with an error if it has one."""

    sparkSession = None

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.calls: list[str] = []

    def persist(self) -> Frame:
        self.calls.append("persist")
        if self.error is not None:
            raise self.error
        return self

    def unpersist(self) -> None:
        self.calls.append("unpersist")


class Refusal(Exception):
    def getSqlState(self) -> str:
        return "0A000"


def test_a_frame_is_released_once():
    frames: Any = HeldFrames()
    first, second = (frames.hold(frame) for frame in (Frame(), Frame()))
    assert len(frames) == 2
    frames.release(first)
    frames.release(first)
    frames.release_all()
    frames.release_all()
    assert (first.calls, second.calls) == (["persist", "unpersist"],) * 2


@pytest.mark.parametrize(
    "error", [Refusal("[X] not here"), ValueError("[NOT_SUPPORTED_WITH_SERVERLESS] PERSIST TABLE is not supported")]
)
def test_a_session_without_a_cache_is_asked_once(error: Exception, monkeypatch: pytest.MonkeyPatch):
    frames: Any = HeldFrames()
    refused, next_one = Frame(error), Frame(error)
    monkeypatch.setattr(held_frames, "_in_memory", lambda frame: frame)
    monkeypatch.setattr(held_frames, "frame_of", lambda spark, rows: rows)
    assert frames.hold(refused) is refused
    assert frames.hold(next_one) is next_one
    frames.release(refused)
    frames.release_all()
    assert (refused.calls, next_one.calls) == (["persist"], [])


def test_another_error_is_not_passed_over():
    frames: Any = HeldFrames()
    with pytest.raises(ValueError, match="broken plan"):
        frames.hold(Frame(ValueError("broken plan")))
