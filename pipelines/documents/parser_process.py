"""The bytes of a file in, a parsed document out, by a process that has so much time and memory and may be killed.

Parsers meet hostile files: some never end, some want all memory, some end the process that they run in. Here that
costs one document, which comes back with the reason, and the start of another process.
"""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType

from pipelines.documents.parse_worker import NOT_READY, REPLY, REQUEST
from pipelines.settings.sections import ParseSettings
from transformations.documents import ParsedDocument
from transformations.errors import ConfigurationError, LakeloopError, MissingDependencyError

PARSER = "transformations.documents:parse_document"
_START_SECONDS = 300
_MB = 1024 * 1024
# What JSON escapes of a text takes up to six times its bytes; beside it stand title, metadata and names of fields.
_MAX_GROWTH, _REST_OF_REPLY = 6, _MB
_END_SECONDS = 5
# What the process needs of its environment; secrets are not among it.
_ENVIRONMENT = ("PATH", "HOME", "TMPDIR", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "SYSTEMROOT")


@dataclass(frozen=True)
class Limits:
    """What the parsing of one document may take.

    Attributes:
        timeout_seconds: wall-clock time, from when its parser is loaded.
        memory_mb: memory of the process, the parsers' libraries included.
        max_text_mb: the text that it gives, in UTF-8.
    """

    timeout_seconds: float
    memory_mb: int
    max_text_mb: int = 16

    @classmethod
    def of(cls, settings: ParseSettings) -> Limits:
        return cls(settings.timeout_seconds, settings.memory_mb, settings.max_text_mb)

    def allow_more_than(self, reason: str) -> bool:
        """Whether a document that was refused for `reason` met a limit that is higher now, so that it may do better."""
        now = {"timeout_seconds": self.timeout_seconds, "memory_mb": self.memory_mb, "max_text_mb": self.max_text_mb}
        if not reason.startswith(_REASONS_OF_LIMITS):
            return False
        return any(now[name] > float(value) for name, value in _LIMIT.findall(reason))


# A refusal for a limit ends with the limits that it was given: "(parse.timeout_seconds 60)".
_REASONS_OF_LIMITS = ("timed_out", "out_of_memory", "crashed", "too_large")
_LIMIT = re.compile(r"parse\.(timeout_seconds|memory_mb|max_text_mb) ([0-9.]+(?:e[+-]?[0-9]+)?)")


class _Silent(Exception):
    """Nothing came within the time limit."""


class _Ended(Exception):
    """The process is no more."""


class _TooLarge(Exception):
    """The reply is of more bytes than are taken."""


class ParserProcess:
    """A process that parses, started with the first document and again after each that ended it.

    Use it in a `with`; it takes one document at a time.

    Args:
        limits: for each document.
        parser: "package.module:function", called as `parse_document` is.
    """

    def __init__(self, limits: Limits, *, parser: str = PARSER) -> None:
        self._limits = limits
        self._parser = parser
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> ParserProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def parse(self, content: bytes, *, path: str) -> ParsedDocument:
        """`parse_document` within the limits.

        Beyond them the error begins `timed_out`, `out_of_memory`, `crashed` or `too_large`.

        Raises:
            MissingDependencyError: the parser's library is not installed.
            ConfigurationError: the memory limit is too small for the parser's library alone.
            LakeloopError: the process does not start.
        """
        process = self._sent(content, path)
        try:
            self._wait_until_ready(process, path)
            deadline = time.monotonic() + self._limits.timeout_seconds
            (size,) = REPLY.unpack(self._receive(process, REPLY.size, deadline))
            if size > _MAX_GROWTH * self._limits.max_text_mb * _MB + _REST_OF_REPLY:
                raise _TooLarge(size)
            reply = json.loads(self._receive(process, size, deadline + self._limits.timeout_seconds))
        except _Silent:
            self.close()
            return self._refused(path, "timed_out: no result in time", "timeout_seconds")
        except _Ended:
            how = f"crashed: the process that parsed it ended by {self._how_it_ended()}"
            return self._refused(path, how, "timeout_seconds", "memory_mb")
        except _TooLarge as error:
            self.close()
            return self._refused(path, f"too_large: {error} bytes are what came of it", "max_text_mb")
        document = ParsedDocument(**reply)
        size = len(document.text.encode())
        if size > self._limits.max_text_mb * _MB:
            return self._refused(path, f"too_large: it has {size} bytes of text", "max_text_mb")
        if (document.error or "").startswith("out_of_memory"):
            self.close()  # what is left of its memory is in pieces
            return self._refused(path, "out_of_memory: the parser wanted more than it may have", "memory_mb")
        return document

    def _refused(self, path: str, reason: str, *limits: str) -> ParsedDocument:
        """A refusal with the limits that the document was given: where they are raised, it is tried again."""
        said = ", ".join(f"parse.{name} {getattr(self._limits, name):g}" for name in limits)
        return ParsedDocument.refused(path, f"{reason} ({said})")

    def close(self) -> None:
        """Kill the process, and what it started. Called again, it does nothing."""
        process, self._process = self._process, None
        if process is None:
            return
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream:
                with suppress(OSError):
                    stream.close()

    def _sent(self, content: bytes, path: str) -> subprocess.Popen[bytes]:
        """The process that has been given the document: a new one where the old one had ended meanwhile."""
        name = path.encode("utf-8", "backslashreplace")
        for _ in range(2):
            process = self._process = self._process or self._start()
            assert process.stdin is not None
            try:
                process.stdin.write(REQUEST.pack(len(name), len(content)) + name)
                process.stdin.write(content)
                process.stdin.flush()
                return process
            except BrokenPipeError:
                self._how_it_ended()
        raise LakeloopError(f"refine-documents: the process that parses ends at once. Try: {' '.join(self._command())}")

    def _start(self) -> subprocess.Popen[bytes]:
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        # What this process can import, that one must: Spark extends the path of a worker while it runs.
        environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        return subprocess.Popen(
            self._command(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            start_new_session=True,  # so that it is killed with what it started
        )

    def _command(self) -> list[str]:
        limits = [str(self._limits.memory_mb), str(self._limits.timeout_seconds)]
        return [sys.executable, "-m", "pipelines.documents.parse_worker", *limits, self._parser]

    def _wait_until_ready(self, process: subprocess.Popen[bytes], path: str) -> None:
        deadline = time.monotonic() + _START_SECONDS
        try:
            if self._receive(process, 1, deadline) != NOT_READY:
                return
            (size,) = REPLY.unpack(self._receive(process, REPLY.size, deadline))
            said = json.loads(self._receive(process, size, deadline))
        except (_Silent, _Ended) as error:
            how = f"was not ready after {_START_SECONDS} s" if isinstance(error, _Silent) else "ended"
            self.close()
            raise LakeloopError(
                f"refine-documents: the process that parses {how} before it was given {path!r}. "
                f"Its own message is in the log; or try: {' '.join(self._command())}"
            ) from None
        if said["kind"] == "MissingDependencyError":
            raise MissingDependencyError(said["message"])
        raise ConfigurationError(
            f"refine-documents: the parser for {path!r} cannot be loaded within parse.memory_mb "
            f"{self._limits.memory_mb} ({said['kind']}: {said['message']}). Raise it in lakeloop.yml."
        )

    def _receive(self, process: subprocess.Popen[bytes], size: int, deadline: float) -> bytes:
        assert process.stdout is not None
        stream = process.stdout.fileno()
        poll = select.poll()
        poll.register(stream, select.POLLIN)
        received = bytearray()
        while len(received) < size:
            if not poll.poll(max(deadline - time.monotonic(), 0) * 1000):
                raise _Silent
            block = os.read(stream, min(size - len(received), 1 << 20))
            if not block:
                raise _Ended
            received += block
        return bytes(received)

    def _how_it_ended(self) -> str:
        """In words, once the process has closed its side."""
        process = self._process
        if process is None:
            return "exit status 0"
        with suppress(subprocess.TimeoutExpired):
            process.wait(_END_SECONDS)
        self.close()
        code = process.returncode
        return signal.Signals(-code).name if code < 0 else f"exit status {code}"
