"""`ParserProcess`: parses documents in a separate process with limits of time and memory, which can be killed.

Some files make a parser run for ever, take all memory, or crash the process that it runs in. Here such a file costs one
document, which is refused with the reason, and the start of another process.
"""

from __future__ import annotations

import json
import os
import re
import select
import shlex
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType

from pipelines.documents.parse_worker import NOT_READY, REPLY, REQUEST
from pipelines.flow.workers import command, import_path
from pipelines.settings.sections import ParseSettings
from transformations.documents import ParsedDocument
from transformations.errors import ConfigurationError, LakeloopError, MissingDependencyError

PARSER = "transformations.documents:parse_document"
_START_SECONDS = 300
_MB = 1024 * 1024
# Escapes of JSON make a text up to six times as long; the rest is for the title, the metadata and the field names.
_MAX_GROWTH, _REST_OF_REPLY = 6, _MB
_END_SECONDS = 5
# The environment variables that the process gets. It gets no others, so no secrets.
_ENVIRONMENT = ("PATH", "HOME", "TMPDIR", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "SYSTEMROOT")


@dataclass(frozen=True)
class Limits:
    """The limits for parsing one document.

    Attributes:
        timeout_seconds: wall-clock time after the parser is loaded.
        memory_mb: memory of the process, including the parser's libraries.
        max_text_mb: size of the resulting text in UTF-8.
    """

    timeout_seconds: float
    memory_mb: int
    max_text_mb: int = 16

    @classmethod
    def of(cls, settings: ParseSettings) -> Limits:
        return cls(settings.timeout_seconds, settings.memory_mb, settings.max_text_mb)

    def allow_more_than(self, reason: str) -> bool:
        """Whether `reason`, for which a document was refused, names a limit that is higher now."""
        now = {"timeout_seconds": self.timeout_seconds, "memory_mb": self.memory_mb, "max_text_mb": self.max_text_mb}
        if not reason.startswith(_REASONS_OF_LIMITS):
            return False
        return any(now[name] > float(value) for name, value in _LIMIT.findall(reason))


# The reason of a refusal for a limit ends with the limits that the document had: "(parse.timeout_seconds 60)".
_REASONS_OF_LIMITS = ("timed_out", "out_of_memory", "crashed", "too_large")
_LIMIT = re.compile(r"parse\.(timeout_seconds|memory_mb|max_text_mb) ([0-9.]+(?:e[+-]?[0-9]+)?)")


class _Silent(Exception):
    """The process sent nothing within the time limit."""


class _Ended(Exception):
    """The process has ended."""


class _TooLarge(Exception):
    """The reply is larger than the limit allows."""


class ParserProcess:
    """A process that parses documents, one at a time. It starts with the first, and again after one that ended it.

    Use it in a `with` statement.

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
        """Parse one document within the limits.

        If it exceeds them, `error` of the result begins with `timed_out`, `out_of_memory`, `crashed` or `too_large`.

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
            self.close()  # its memory is fragmented, so a next document would have less
            return self._refused(path, "out_of_memory: the parser wanted more than it may have", "memory_mb")
        return document

    def _refused(self, path: str, reason: str, *limits: str) -> ParsedDocument:
        """A refusal that names the limits which the document had: if they are raised, the document is tried again."""
        limits_text = ", ".join(f"parse.{name} {getattr(self._limits, name):g}" for name in limits)
        return ParsedDocument.refused(path, f"{reason} ({limits_text})")

    def close(self) -> None:
        """Kill the process and all processes that it started. A second call does nothing."""
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
        """Send the document to the process, or to a new one if that has ended meanwhile. Returns the process."""
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
        raise LakeloopError(
            f"refine-documents: the process that parses ends at once. Try: {shlex.join(self._command())}"
        )

    def _start(self) -> subprocess.Popen[bytes]:
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        # The process must be able to import what this one can: Spark extends the path of a worker while it runs.
        environment["PYTHONPATH"] = import_path()
        return subprocess.Popen(
            self._command(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            start_new_session=True,  # so that `close` also kills what it started
        )

    def _command(self) -> list[str]:
        limits = [str(self._limits.memory_mb), str(self._limits.timeout_seconds)]
        arguments = "int(sys.argv[1]), float(sys.argv[2]), sys.argv[3]"
        return [*command("pipelines.documents.parse_worker", arguments), *limits, self._parser]

    def _wait_until_ready(self, process: subprocess.Popen[bytes], path: str) -> None:
        deadline = time.monotonic() + _START_SECONDS
        try:
            if self._receive(process, 1, deadline) != NOT_READY:
                return
            (size,) = REPLY.unpack(self._receive(process, REPLY.size, deadline))
            failure = json.loads(self._receive(process, size, deadline))
        except (_Silent, _Ended) as error:
            how = f"was not ready after {_START_SECONDS} s" if isinstance(error, _Silent) else "ended"
            self.close()
            raise LakeloopError(
                f"refine-documents: the process that parses {how} before it was given {path!r}. "
                f"Its own message is in the log; or try: {shlex.join(self._command())}"
            ) from None
        if failure["kind"] == "MissingDependencyError":
            raise MissingDependencyError(failure["message"])
        raise ConfigurationError(
            f"refine-documents: the parser for {path!r} cannot be loaded within parse.memory_mb "
            f"{self._limits.memory_mb} ({failure['kind']}: {failure['message']}). Raise it in lakeloop.yml."
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
        """How the process ended, in words: the name of a signal, or its exit status. Its output must have ended."""
        process = self._process
        if process is None:
            return "exit status 0"
        with suppress(subprocess.TimeoutExpired):
            process.wait(_END_SECONDS)
        self.close()
        code = process.returncode
        return signal.Signals(-code).name if code < 0 else f"exit status {code}"
