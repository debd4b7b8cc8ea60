"""A command and a moment in; the command started in a process of its own and killed at that moment, from outside."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

LAKELOOP = [sys.executable, "-m", "pipelines.cli.main"]


def kill_when(arguments: list[str], *, cwd: Path, moment: Callable[[], bool], seconds: float = 180) -> bool:
    """Run lakeloop with `arguments`, kill -9 its whole process group once `moment` is true.

    Returns:
        Whether it was killed; False where it ended before the moment came.
    """
    process = subprocess.Popen(
        [*LAKELOOP, *arguments],
        cwd=cwd,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + seconds
    try:
        while process.poll() is None:
            if moment() or time.monotonic() > deadline:
                return True
            time.sleep(0.002)
        return False
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def run(
    arguments: list[str], *, cwd: Path, timeout: float = 300, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run lakeloop to its end."""
    return subprocess.run(
        [*LAKELOOP, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, **environment},
        check=False,
    )
