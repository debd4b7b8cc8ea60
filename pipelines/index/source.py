"""An index in; its rows as a Spark DataFrame out: `spark.read.format("lakeloop_index")`.

    from pipelines.index.source import register_source
    register_source(spark, load_settings())
    spark.read.format("lakeloop_index").load().groupBy("format").count().show()

Options: `index` (the name of one behind the alias; the served one where absent) and `state` ("served", what readers
see, or "written": only chunk_id and row_hash, as last written). The columns are those of gold.chunk_index.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipelines.index_state import IndexState, states
from pipelines.lakehouse import Lakehouse
from pipelines.schemas import TABLES
from pipelines.settings import Settings
from transformations.errors import ConfigurationError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

FORMAT = "lakeloop_index"
_SCHEMA = TABLES["gold.chunk_index"].schema
_WRITTEN = pa.schema([_SCHEMA.field("chunk_id"), _SCHEMA.field("row_hash")])


def register_source(spark: SparkSession, settings: Settings) -> None:
    """Make the indexes of these settings readable in this session.

    The settings travel inside the source, so that no secret stands in an option, which query plans show. The alias is
    looked up now: register again after a swap.
    """
    from pyspark.sql.datasource import DataSource, DataSourceReader, InputPartition
    from pyspark.sql.pandas.types import from_arrow_schema

    alias = settings.index.name
    known = states(Lakehouse(settings, spark=lambda: spark), alias)

    class Reader(DataSourceReader):
        def __init__(self, state: IndexState, is_written: bool) -> None:
            self._state, self._is_written = state, is_written

        def partitions(self) -> list[Any]:
            # A store hands out its rows as one stream; what follows is spread by Spark.
            return [InputPartition(0)]

        def read(self, partition: Any) -> Iterator[Any]:
            store = self._state.open(settings)
            try:
                schema = _WRITTEN if self._is_written else _SCHEMA
                for batch in store.ids_with_hashes() if self._is_written else store.rows():
                    yield from pa.Table.from_batches([batch]).select(schema.names).cast(schema).to_batches()
            finally:
                store.close()

    class Source(DataSource):
        @classmethod
        def name(cls) -> str:
            return FORMAT

        def schema(self) -> Any:
            return from_arrow_schema(_WRITTEN if self._is_written else _SCHEMA)

        def reader(self, schema: Any) -> DataSourceReader:
            name = self.options.get("index")
            state = next((s for s in known if (s.index_name == name if name else s.role == "served")), None)
            if state is None:
                raise ConfigurationError.unknown_name("index", name or alias, [s.index_name for s in known])
            return Reader(state, self._is_written)

        @property
        def _is_written(self) -> bool:
            return self.options.get("state", "served") == "written"

    spark.dataSource.register(Source)


def read_index(spark: SparkSession, settings: Settings, *, index: str, state: str = "served") -> DataFrame:
    """The rows of one index: what readers see, or the ids and hashes last written."""
    register_source(spark, settings)
    return spark.read.format(FORMAT).option("index", index).option("state", state).load()
