"""Marks of LangChain's other suites: importing one of its suites imports all, and our marks are strict."""

from __future__ import annotations

import pytest


def pytest_configure(config: pytest.Config) -> None:
    for mark in ("benchmark", "vcr"):
        config.addinivalue_line("markers", f"{mark}: of a LangChain suite that does not run here")
