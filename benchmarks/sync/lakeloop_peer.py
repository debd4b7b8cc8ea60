"""A folder of documents in; lakeloop's own command in a workspace of its own, as one of the systems, out."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.sync.check import Columns
from benchmarks.sync.embedder import MODEL, StubEmbedder
from benchmarks.sync.systems import Outcome, Running, System

if TYPE_CHECKING:
    from pipelines.lakehouse.tables import Lakehouse

_CHUNK_INDEX = "gold.chunk_index"
_MODEL = "benchmarks.sync.embedder:StubEmbedder"


class Lakeloop(System):
    """`lakeloop run --json` in the workspace `state`; readers follow the tag `served` of the index."""

    name = "lakeloop"
    columns = Columns(id="chunk_id")
    tag = "served"

    def prepare(self, folder: Path, state: Path) -> None:
        super().prepare(folder, state)
        # JSON is YAML.
        settings = {"landing": str(folder), "embedding": {"model": _MODEL}}
        (state / "lakeloop.yml").write_text(json.dumps(settings), encoding="utf-8")

    @property
    def table(self) -> Path:
        """The index that the alias names; before there is one, that which the first sync will make."""
        from pipelines.models.embedders import EmbeddingModel
        from pipelines.vector_index.state import physical_name, served

        state = served(self._lake(), "chunks")
        first = EmbeddingModel(_MODEL, StubEmbedder.revision, StubEmbedder.dimension)
        name = state.index_name if state else physical_name("chunks", first)
        return self.state / "index" / f"{name}.lance"

    def command(self, *, is_new_model: bool) -> list[str]:
        return _lakeloop("run", "--until", "sync-index", "--json")

    def sync(
        self,
        environment: Mapping[str, str],
        *,
        is_new_model: bool = False,
        kill_when: Callable[[], bool] | None = None,
    ) -> Outcome:
        """A run; where the model is another one, then the swap to the index that the run filled beside the old one."""
        outcome = super().sync(environment, is_new_model=is_new_model, kill_when=kill_when)
        if MODEL in environment and outcome.exit == 0:
            return Running(_lakeloop("swap", "--json"), folder=self.state, environment=environment).wait()
        return outcome

    def repair(self, environment: Mapping[str, str]) -> Outcome:
        """The audit that names what differs, and the repair that writes exactly that."""
        return Running(_lakeloop("repair", "--json"), folder=self.state, environment=environment).wait()

    def lose_history(self) -> None:
        """Create the table anew with equal rows: another identity, no history."""
        self._write_chunk_index(is_new=True)

    def overwrite_source(self) -> None:
        self._write_chunk_index(is_new=False)

    def _write_chunk_index(self, *, is_new: bool) -> None:
        from deltalake import DeltaTable, write_deltalake

        lake = self._lake()
        folder, rows = lake.folder(_CHUNK_INDEX), lake.read_arrow(_CHUNK_INDEX)
        properties = {key: value for key, value in DeltaTable(folder).metadata().configuration.items() if value}
        if is_new:
            shutil.rmtree(folder)
            write_deltalake(folder, rows, configuration=properties)
        else:
            write_deltalake(folder, rows, mode="overwrite")

    def _lake(self) -> Lakehouse:
        from pipelines.lakehouse.opening import open_lakehouse
        from pipelines.lakehouse.session import get_spark
        from pipelines.settings.load import load_settings

        settings = load_settings(self.state / "lakeloop.yml")
        return open_lakehouse(settings, spark=lambda: get_spark(settings))


def _lakeloop(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "pipelines.cli.main", *arguments]
