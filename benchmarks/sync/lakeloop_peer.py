"""A folder of documents in; lakeloop's own command in a workspace of its own, as one of the systems, out."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from benchmarks.sync.check import Columns
from benchmarks.sync.systems import Outcome, Running, System

_CHUNK_INDEX = "gold.chunk_index"


class Lakeloop(System):
    """`lakeloop run --json` in the workspace `state`; readers follow the tag `served` of the index."""

    name = "lakeloop"
    columns = Columns(id="chunk_id")
    tag = "served"

    def prepare(self, folder: Path, state: Path) -> None:
        super().prepare(folder, state)
        # JSON is YAML.
        settings = {"landing": str(folder), "embedding": {"model": "benchmarks.sync.embedder:StubEmbedder"}}
        (state / "lakeloop.yml").write_text(json.dumps(settings), encoding="utf-8")

    @property
    def table(self) -> Path:
        return self.state / "index" / "chunks.lance"

    def command(self, *, is_new_model: bool) -> list[str]:
        return _lakeloop("run", "--json")

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

        from pipelines.lakehouse import Lakehouse
        from pipelines.session import get_spark
        from pipelines.settings import load_settings

        settings = load_settings(self.state / "lakeloop.yml")
        lake = Lakehouse(settings, spark=lambda: get_spark(settings))
        folder, rows = lake.folder(_CHUNK_INDEX), lake.read_arrow(_CHUNK_INDEX)
        properties = {key: value for key, value in DeltaTable(folder).metadata().configuration.items() if value}
        if is_new:
            shutil.rmtree(folder)
            write_deltalake(folder, rows, configuration=properties)
        else:
            write_deltalake(folder, rows, mode="overwrite")


def _lakeloop(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "pipelines.cli", *arguments]
