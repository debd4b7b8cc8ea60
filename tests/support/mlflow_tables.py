"""MLflow makes the tables of a new database by some fifty migrations, which take seconds: here once a process."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from types import ModuleType
from typing import Any

from pipelines.models import tracking


def copied_from_the_first() -> None:
    """From now on, each further sqlite database of this process gets a copy of the first one's empty tables."""
    choose: Callable[..., None] = tracking._choose_experiment

    def patched(mlflow: ModuleType, *args: Any) -> None:
        from mlflow.store.db import utils

        if not isinstance(utils._initialize_tables, _Copies):
            utils._initialize_tables = _Copies(utils._initialize_tables)
        choose(mlflow, *args)

    tracking._choose_experiment = patched


class _Copies:
    def __init__(self, migrate: Callable[[Any], None]) -> None:
        self._migrate = migrate
        self._first: sqlite3.Connection | None = None

    def __call__(self, engine: Any) -> None:
        if engine.url.get_backend_name() != "sqlite":
            self._migrate(engine)
            return
        if self._first is None:
            self._migrate(engine)
            self._first = sqlite3.connect(":memory:", check_same_thread=False)
            with engine.connect() as made:
                made.connection.dbapi_connection.backup(self._first)
            return
        with engine.connect() as new:
            self._first.backup(new.connection.dbapi_connection)
