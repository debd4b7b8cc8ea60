"""SIGINT and SIGTERM, for commands that run until they are told to stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def stopped_by_signals(stop: threading.Event) -> Iterator[threading.Event]:
    """The first SIGINT or SIGTERM sets `stop`, a second acts as before. Outside the main thread nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def set_stop(*_: object) -> None:
        stop.set()
        restore()

    for number in before:
        signal.signal(number, set_stop)
    try:
        yield stop
    finally:
        restore()
