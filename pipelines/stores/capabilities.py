"""What a store can do, as its adapter declares it; there are three kinds of "no"."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Support = Literal["yes", "notimpl", "notyet", "never"]

# The question that each capability answers.
CAPABILITIES = {
    "atomic_commit": "readers see a whole sync or nothing of it",
    "compare_and_set": "the manifest moves only from the one that the writer had read, by one act of the store",
    "several_writers": "executors write at the same time",
    "other_processes": "a reader in another process sees the last commit",
    "filters": "=, in, and, or, not over the filter columns, before the k nearest are chosen",
    "approximate_search": "an approximate index is kept in step; the search is exact where there is none",
    "object_storage": "the index may lie in object storage",
    "forgets_at_once": "after forget no file of the store holds the text",
}


@dataclass(frozen=True)
class Capability:
    """One answer, with its reason or its limits."""

    support: Support
    note: str = ""


def yes(note: str = "") -> Capability:
    return Capability("yes", note)


def notimpl(note: str) -> Capability:
    """The store can do it, but lakeloop does not use it yet."""
    return Capability("notimpl", note)


def notyet(note: str) -> Capability:
    """The library cannot do it in the version that lakeloop uses."""
    return Capability("notyet", note)


def never(note: str) -> Capability:
    """The store's nature excludes it."""
    return Capability("never", note)


def declare(**answers: Capability) -> Mapping[str, Capability]:
    """The answers to all of CAPABILITIES, in order; a test of the suite checks each of them."""
    if set(answers) != set(CAPABILITIES):
        raise TypeError(f"declare exactly {sorted(CAPABILITIES)}, not {sorted(answers)}")
    return {name: answers[name] for name in CAPABILITIES}
