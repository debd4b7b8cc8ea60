"""The process that parses documents, and that may be killed: it reads them from standard input and replies on output.

`ParserProcess` starts it with the arguments of `main`. A request is two lengths, a path, and the bytes of a file. The
reply is one byte when the parser is loaded (the clock then starts), and after it a length and JSON. It is never pickle,
so that a document which takes over this process can send nothing but text.
"""

from __future__ import annotations

import json
import os
import signal
import struct
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import BinaryIO

from transformations.documents import ParsedDocument, load_parser
from transformations.errors import MissingDependencyError

REQUEST = struct.Struct("!IQ")
REPLY = struct.Struct("!Q")
READY, NOT_READY = b"r", b"n"
# The parent kills this process at the limit. If the parent is gone, a timer of the kernel does it this much later.
_GRACE_SECONDS = 5


def main(memory_mb: int, timeout_seconds: float, parser: str) -> None:
    """Answer requests until standard input ends."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # so that nothing that a library prints is taken for a reply
    _limit_memory(memory_mb * 1024 * 1024)
    module, _, function = parser.partition(":")
    parse: Callable[..., ParsedDocument] = getattr(import_module(module), function)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    while header := requests.read(REQUEST.size):
        path_size, size = REQUEST.unpack(header)
        path, content = requests.read(path_size).decode(), requests.read(size)
        try:
            load_parser(path)
        except (MissingDependencyError, ImportError, MemoryError) as error:
            _send(replies, NOT_READY, {"kind": type(error).__name__, "message": str(error)})
            continue
        replies.write(READY)
        replies.flush()
        signal.setitimer(signal.ITIMER_REAL, timeout_seconds + _GRACE_SECONDS)
        document = parse(content, path=path)
        signal.setitimer(signal.ITIMER_REAL, 0)
        _send(replies, b"", {**vars(document), "metadata": dict(document.metadata)})


def _send(replies: BinaryIO, mark: bytes, reply: object) -> None:
    encoded = json.dumps(reply, ensure_ascii=False).encode()
    replies.write(mark + REPLY.pack(len(encoded)) + encoded)
    replies.flush()


def _limit_memory(size: int) -> None:
    """Limit the private writable memory of this process and of each that it starts. macOS does not keep the limit."""
    import resource

    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_DATA, (size, size))
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
