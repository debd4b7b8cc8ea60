"""Programs that listen on loopback for the tests, and end with the block that started them; and one that is silent."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Running:
    uri: str
    port: int
    pid: int


@contextmanager
def running(
    program: str, *arguments: str, is_ready: Callable[[str], bool], port: int | None = None
) -> Iterator[Running]:
    """A program of this environment (or of any, by its path), from when it is ready at its uri until the block ends."""
    port = port or free_port()
    command = [Path(sys.executable).parent / program, *arguments, "--host", "127.0.0.1", "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    uri = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 60
        while not is_ready(uri):
            assert server.poll() is None, f"{program} has ended"
            assert time.monotonic() < deadline, f"{program} is not ready"
            time.sleep(0.05)
        yield Running(uri, port, server.pid)
    finally:
        server.terminate()
        server.wait(timeout=30)


@contextmanager
def silent() -> Iterator[str]:
    """The uri of something that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
