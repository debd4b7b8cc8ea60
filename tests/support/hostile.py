"""A parser with faults: what a document says is done to the process that parses it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from transformations.documents import ParsedDocument, parse_document


def parse(content: bytes, *, path: str) -> ParsedDocument:
    """`parse_document`, but for contents that begin with `!`."""
    match content.decode("utf-8", "replace").split():
        case ["!sleep"]:
            time.sleep(3600)
        case ["!child", noted]:  # a program of the parser's that outlives no one
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
            with open(noted, "w") as stream:
                stream.write(str(child.pid))
            time.sleep(3600)
        case ["!signal", number]:
            os.kill(os.getpid(), int(number))
            time.sleep(3600)
        case ["!exit"]:
            os._exit(3)
        case ["!allocate"]:
            try:
                bytearray(8 * 1024**3)
            except MemoryError:
                return ParsedDocument.refused(path, "out_of_memory: in the parser")
        case ["!print"]:
            print("x" * 100_000)
            os.write(1, b"y" * 100_000)
        case ["!environment"]:
            return ParsedDocument(None, " ".join(sorted(os.environ)), "text", None, None)
    return parse_document(content, path=path)


SEGFAULT = f"!signal {signal.SIGSEGV.value}".encode()
