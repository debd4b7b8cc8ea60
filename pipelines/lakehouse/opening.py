"""Opens the lakehouse that the settings ask for: folders, or a catalog."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pipelines.lakehouse.catalog import CatalogLakehouse
from pipelines.lakehouse.folders import FolderLakehouse
from pipelines.lakehouse.tables import Lakehouse
from pipelines.settings.sections import Settings

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def open_lakehouse(settings: Settings, *, spark: Callable[[], SparkSession]) -> Lakehouse:
    """The tables of a workspace; `spark` is called when Spark is first needed, never before."""
    return (FolderLakehouse if settings.catalog is None else CatalogLakehouse)(settings, spark=spark)
