"""The tree of errors that lakeloop raises on purpose, each with the exit code of the command that meets it.

    LakeloopError              1  something failed
    ├── ExpectationFailedError 4  a rule of level "fail" does not hold
    ├── DamagedTableError      1  files of a table are missing or broken
    ├── SparkLostError         1  Spark has gone away; the next run, with another, goes on
    ├── ConfigurationError     5  a setting, a file or a program that the command needs is wrong or missing
    │   └── MissingDependencyError   an optional library is not installed
    ├── RefusedError           7  the command would do harm (a mass delete, a second writer) and was not forced
    └── SeveralFailedError        several stages of a run failed: their code if all have the same, else 1

A few subclasses are defined beside the code that raises them (`StoreUnavailableError`, `ModelCallError`).
The text of an error says what failed, on what, what was there, and what to do next.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

EXIT_DONE = 0
EXIT_NOTHING_TO_DO = 3
EXIT_SET_ASIDE = 6
# 128 and the number of SIGINT, as shells have it.
EXIT_INTERRUPTED = 130


class LakeloopError(Exception):
    """Base of the tree; `exit_code` is what the command line ends with."""

    exit_code = 1


class ExpectationFailedError(LakeloopError):
    exit_code = 4


class DamagedTableError(LakeloopError):
    """Files of a table are missing or broken."""


class SparkLostError(LakeloopError):
    """Spark has gone away: nothing else of the run that needs it can be done."""


class ConfigurationError(LakeloopError):
    exit_code = 5

    @classmethod
    def unknown_name(cls, kind: str, name: str, known: Iterable[str]) -> ConfigurationError:
        """An error for the unknown `name`: it names those of `known` that are near, or all of them if none is near."""
        options = sorted(known)
        near = get_close_matches(name, options, n=3, cutoff=0.5)
        hint = (
            f"Did you mean {' or '.join(repr(n) for n in near)}?" if near else f"Known: {', '.join(options) or 'none'}."
        )
        return cls(f"unknown {kind} {name!r}. {hint}")


class MissingDependencyError(ConfigurationError):
    @classmethod
    def for_extra(cls, library: str, extra: str) -> MissingDependencyError:
        return cls(f"this needs the library {library!r}, which is not installed. Run: pip install 'lakeloop[{extra}]'")


class RefusedError(LakeloopError):
    exit_code = 7


class SeveralFailedError(LakeloopError):
    """Several stages of one run failed, each for a reason of its own."""


def first_line(error: BaseException) -> str:
    """The class of an error that is not of this tree, and the first line of its message (at most 300 characters)."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
