"""A Spark data source for the rows of an index: `spark.read.format("lakeloop_index")`.

    from pipelines.vector_index.spark_source import register_source
    register_source(spark, load_settings())
    spark.read.format("lakeloop_index").load().groupBy("format").count().show()

The rows are those that readers see, with the columns of gold.chunk_index except the technical ones. The option `index`
names an index behind the alias; without it, the served one is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipelines.lakehouse.opening import open_lakehouse
from pipelines.lakehouse.schemas import INDEX_SCHEMA
from pipelines.settings.sections import Settings
from pipelines.vector_index.owner import identity, is_foreign_to
from pipelines.vector_index.state import IndexState, foreign, states
from transformations.errors import ConfigurationError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

FORMAT = "lakeloop_index"
_SCHEMA = INDEX_SCHEMA


def register_source(spark: SparkSession, settings: Settings) -> None:
    """Make the indexes of these settings readable in this session.

    The source itself holds the settings, so that no secret is in an option, which query plans show. The alias is looked
    up now: register again after a swap.
    """
    from pyspark.sql.datasource import DataSource, DataSourceReader, InputPartition
    from pyspark.sql.pandas.types import from_arrow_schema

    alias = settings.index.name
    lake = open_lakehouse(settings, spark=lambda: spark)
    known, own = states(lake, alias), identity(lake)

    class Reader(DataSourceReader):
        def __init__(self, state: IndexState) -> None:
            self._state = state

        def partitions(self) -> list[Any]:
            # A store gives its rows as one stream; Spark distributes the later steps.
            return [InputPartition(0)]

        def read(self, partition: Any) -> Iterator[Any]:
            for rows in index_rows(self._state, settings, own=own):
                yield from rows.to_batches()

    class Source(DataSource):
        @classmethod
        def name(cls) -> str:
            return FORMAT

        def schema(self) -> Any:
            return from_arrow_schema(_SCHEMA)

        def reader(self, schema: Any) -> DataSourceReader:
            name = self.options.get("index")
            state = next((s for s in known if (s.index_name == name if name else s.role == "served")), None)
            if state is None:
                raise ConfigurationError.unknown_name("index", name or alias, [s.index_name for s in known])
            return Reader(state)

    spark.dataSource.register(Source)


def read_index(spark: SparkSession, settings: Settings, *, index: str) -> DataFrame:
    """The rows of one index, as readers see them."""
    register_source(spark, settings)
    return spark.read.format(FORMAT).option("index", index).load()


def index_rows(state: IndexState, settings: Settings, *, own: tuple[str, str]) -> Iterator[pa.Table]:
    """The same rows in parts, without Spark.

    Args:
        own: the `identity` of the workspace.

    Raises:
        RefusedError: the index belongs to another workspace.
    """
    store = state.open(settings)
    try:
        manifest = store.manifest()
        if manifest is not None and is_foreign_to(own, manifest):
            raise foreign(manifest, state=state, root=settings.root)
        for batch in store.rows():
            yield pa.Table.from_batches([batch]).select(_SCHEMA.names).cast(_SCHEMA)
    finally:
        store.close()
