"""Warnings are errors in the tests that need no Spark, but for what an earlier test of the process left behind."""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent
# The last one counts most. What Python collects during a test (an open file, a generator of Spark's) is an earlier
# test's, of whichever ran before in this process.
WARNINGS = ("error", "default::ResourceWarning", "default::pytest.PytestUnraisableExceptionWarning")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:  # a mark in front: one of the test's own counts more
            for warning in reversed(WARNINGS):
                item.add_marker(pytest.mark.filterwarnings(warning), append=False)
