"""Fixtures that every test may use: one Spark session a process, and a workspace of its own a test."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings as hypothesis_settings

from pipelines.conductor.run import new_context
from pipelines.flow.stage import Context
from pipelines.lakehouse.opening import open_lakehouse
from pipelines.lakehouse.session import get_spark
from pipelines.lakehouse.tables import Lakehouse
from pipelines.machine.cache import cache_dir
from pipelines.settings.sections import Settings
from tests.support import mlflow_tables

mlflow_tables.copied_from_the_first()

# Python workers of Spark import the tests' own embedders, and count what they embed in one file.
os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]).rstrip(
    ":"
)
os.environ["LAKELOOP_TEST_COUNTER"] = str(Path(tempfile.mkdtemp(prefix="lakeloop-")) / "embedded")

# The same examples at every run, so that a change is judged by what it changes; LAKELOOP_RANDOM=1 looks for new ones.
# No deadline: a busy machine is no fault.
hypothesis_settings.register_profile("lakeloop", deadline=None, derandomize="LAKELOOP_RANDOM" not in os.environ)
hypothesis_settings.load_profile("lakeloop")

SHARED = Path(os.environ.get("LAKELOOP_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))


def pytest_report_header() -> list[str]:
    import deltalake
    import pyspark

    return [f"lakeloop: pyspark {pyspark.__version__}, deltalake {deltalake.__version__}, assets in {cache_dir()}"]


@pytest.fixture(scope="session")
def spark(tmp_path_factory):
    """The session of `lakeloop run`, made the same way, with room for the workspaces of many tests."""
    root = tmp_path_factory.mktemp("spark")
    log4j = Settings(root=root).log_path.with_name("log4j2.properties").as_uri()
    # Java's second compiler, which a short run leaves out, gives back what it costs where many tests share a Java.
    options = f'-Dlog4j2.configurationFile="{log4j}" -XX:+UseSerialGC'
    session = get_spark(Settings(root=root, spark={"conf": {"spark.driver.extraJavaOptions": options}}))
    yield session
    session.stop()


@pytest.fixture(autouse=True, scope="module")
def _forget_tables():
    """Delta keeps the last snapshot of each table for an hour: those of hundreds of workspaces would fill the heap."""
    yield
    pyspark = sys.modules.get("pyspark")
    if pyspark is not None and pyspark.SparkContext._active_spark_context is not None:
        pyspark.SparkContext._jvm.org.apache.spark.sql.delta.DeltaLog.clearCache()


@pytest.fixture(autouse=True)
def _own_logs():
    """A command that a test runs in this process logs to that test's terminal and folder, which the next has not.

    Tests ask for `caplog.messages`, never `.text`: pytest also hands caplog's handler to PySpark's own loggers, which
    make JSON of whatever it prints.
    """
    loggers = [logging.getLogger(name) for name in (None, "pipelines", "expectations", "transformations")]
    before = [(logger, logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    yield
    for logger, handlers, level, propagate in before:
        for handler in logger.handlers:
            if handler not in handlers and isinstance(handler, logging.FileHandler):
                handler.close()
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


@pytest.fixture
def workspace(tmp_path: Path) -> Settings:
    """Settings of an empty workspace with an empty landing folder."""
    (tmp_path / "landing").mkdir()
    return Settings(root=tmp_path)


@pytest.fixture
def lake(workspace: Settings, spark) -> Lakehouse:
    return open_lakehouse(workspace, spark=lambda: spark)


@pytest.fixture
def context(workspace: Settings, spark) -> Context:
    return new_context(workspace)


@pytest.fixture
def shared_data() -> Path:
    """The folder of real data sets that are not part of the project."""
    if not SHARED.is_dir():
        pytest.skip(f"the real data sets are not here (looked in {SHARED}; set LAKELOOP_SHARED_DATA)")
    return SHARED
