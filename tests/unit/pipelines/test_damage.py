"""A file of a table cut, changed, emptied or removed: an error names the table, the loss, and what brings it back."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from pipelines.conductor.run import new_context, run_stage
from pipelines.conductor.stages import STAGES
from pipelines.features.feature_tables import source_schema
from pipelines.flow.lock import only_writer
from pipelines.flow.stage import Context, Stage, Versions, Work, everything, moved
from pipelines.lakehouse.damage import _MADE_OF, damaged
from pipelines.lakehouse.opening import open_lakehouse
from pipelines.lakehouse.schemas import TABLES
from pipelines.lakehouse.tables import Lakehouse
from pipelines.operations.rebuild import rebuild
from pipelines.progress import Progress
from pipelines.settings.sections import Settings
from transformations.errors import ConfigurationError, DamagedTableError

TABLE = "silver.chunks"
ROWS = 5
LOGS = {
    "ops.file_looks", "ops.index_places", "ops.index_state", "ops.index_runs", "ops.dead_letters", "ops.stage_runs",
    "ops.forget_receipts",
    "ops.training_sets", "monitoring.embedding_drift_metrics", "monitoring.rule_results",
}  # fmt: skip


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    # A value inside a page has no checksum that delta-rs would look at; what the file's end says of it is read first.
    content[-40 if path.name.startswith("part-") else len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _blank(path: Path) -> None:
    """All but the ends of the file: delta-rs fails without saying on which file."""
    content = bytearray(path.read_bytes())
    footer = int.from_bytes(content[-8:-4], "little") + 8
    content[4:-footer] = bytes(len(content) - footer - 4)
    path.write_bytes(content)


HARM: list[Callable[[Path], None]] = [_cut, _flip, _empty, Path.unlink]


def _no_spark() -> None:
    raise AssertionError("no JVM is needed to find that a file is missing")


def _lake(root: Path, *, has_checkpoint: bool = False) -> Lakehouse:
    lake = open_lakehouse(Settings(root=root), spark=_no_spark)  # type: ignore[arg-type]
    for commit in range(3):
        texts = [{"chunk_id": f"{commit} {n}", "text": "word " * 50} for n in range(ROWS)]
        lake.append_arrow(TABLE, texts)
    if has_checkpoint:
        DeltaTable(str(lake.folder(TABLE))).create_checkpoint()
        for chunk_id in ("after", "last"):
            lake.append_arrow(TABLE, [{"chunk_id": chunk_id}])
    return lake


CASES = [
    *itertools.product(
        [
            ("_delta_log/*00.json", False),
            ("_delta_log/*02.json", False),
            ("_delta_log/*04.json", True),
            ("_delta_log/*.checkpoint.parquet", True),
            ("*.parquet", False),
            ("*.parquet", True),
        ],
        HARM,
    ),
    pytest.param(("*.parquet", True), _blank, marks=pytest.mark.long),
]


@pytest.mark.parametrize(("where", "harm"), CASES, ids=lambda of: getattr(of, "__name__", of))
def test_whatever_happens_to_a_file_the_error_says_which_table_and_what_to_do(
    where: tuple[str, bool], harm: Callable[[Path], None], tmp_path: Path
):
    file, has_checkpoint = where
    lake = _lake(tmp_path, has_checkpoint=has_checkpoint)
    assert lake.damage([TABLE]) is None
    # The files of a table are not of one size: the largest one holds five rows.
    path = max(lake.folder(TABLE).glob(file), key=lambda path: path.stat().st_size)
    harm(path)
    with pytest.raises(DamagedTableError) as error:
        lake.read_arrow(TABLE)
    text = str(error.value)
    assert text.startswith("silver.chunks is damaged: ")
    assert path.name in text or "is missing" in text or "its log cannot be read" in text
    assert ("it held 5 rows" in text) == (path.suffix == ".parquet" and "_delta_log" not in str(path))
    assert text.endswith("have it made anew (from silver.documents): lakeloop rebuild silver.chunks")
    assert str(lake.folder(TABLE)) in text
    said = lake.mend(TABLE)
    assert said is not None
    assert path.name in said or "set aside" in said
    assert lake.damage([TABLE]) is None
    assert lake.read_arrow(TABLE).num_rows in (0, 2 * ROWS, 2 * ROWS + 2), "what can be read is kept"
    lake.append_arrow(TABLE, [{"chunk_id": "more"}])
    assert lake.mend(TABLE) is None


def test_a_table_whose_log_is_gone_is_not_taken_for_a_table_that_was_never_there(tmp_path: Path):
    lake = _lake(tmp_path)
    shutil.rmtree(lake.folder(TABLE) / "_delta_log")
    with pytest.raises(DamagedTableError, match=r"its log \(_delta_log\) is gone, its files are there"):
        lake.head(TABLE)


@pytest.mark.parametrize("of_source", [True, False])
def test_nothing_to_do_is_not_said_while_a_file_is_missing(of_source: bool, tmp_path: Path):
    lake = _lake(tmp_path)
    target = "gold.chunk_index"
    stage = Stage("made", "", _nothing, lambda context, due: {}, sources=(TABLE,), targets=(target,))
    lake.append_arrow(target, [{"chunk_id": "1"}])
    context = Context(lake.settings, lake, "run", Progress())
    run_stage(stage, context, everything(stage, context))
    assert moved(stage, context) is None
    table = TABLE if of_source else target
    next(lake.folder(table).glob("*.parquet")).unlink()
    with pytest.raises(DamagedTableError, match=f"{table} is damaged: .*parquet is missing"):
        moved(stage, context)


def _nothing(context: Context) -> Work | None:
    return None


def _harmed(tmp_path: Path, *tables: str) -> tuple[Context, dict[str, Path]]:
    context = new_context(Settings(root=tmp_path))
    files = {}
    for table in tables:
        context.lake.append_arrow(table, [{context.lake.spec(table).columns[0]: "1"}])
        files[table] = next(context.lake.folder(table).glob("*.parquet"))
        files[table].unlink()
    return context, files


def _failed(context: Context, text: str) -> Exception:
    def work(context: Context, due: Work) -> dict[str, int]:
        raise ValueError(text)

    targets = ("gold.chunk_index", "silver.chunks_quarantine")
    stage = Stage("made", "", _nothing, work, sources=("silver.chunks",), targets=targets)
    with pytest.raises(Exception) as raised:  # noqa: PT011
        run_stage(stage, context, Work((Versions(None, 1, "source"),)))
    return raised.value


def test_a_stage_is_not_told_to_have_failed_with_a_table_that_it_does_not_read(tmp_path: Path):
    context, files = _harmed(tmp_path, "bronze.documents", "gold.embeddings")
    assert isinstance(_failed(context, "a fault of the stage's own"), ValueError)
    named = _failed(context, f"[FAILED_READ_FILE.FILE_NOT_EXIST] {files['gold.embeddings'].as_uri()}")
    assert isinstance(named, DamagedTableError), "the cache is no table of the stage, but it was read"
    assert str(named).startswith("gold.embeddings is damaged")


@pytest.mark.parametrize("table", ["silver.chunks", "gold.chunk_index", "silver.chunks_quarantine"])
def test_a_stage_that_fails_over_a_damaged_table_of_its_own_says_so(tmp_path: Path, table: str):
    context, _ = _harmed(tmp_path / "my space", table)
    assert str(_failed(context, "Spark says little")).startswith(f"{table} is damaged")


def test_the_source_of_a_feature_table_that_is_damaged_is_named(tmp_path: Path):
    context = new_context(Settings(root=tmp_path))
    assert source_schema(context.lake, "silver.trips") is None
    write_deltalake(str(context.lake.folder("silver.trips")), pa.table({"driver": ["a"]}))
    assert source_schema(context.lake, "silver.trips").names == ["driver"]
    _cut(next(context.lake.folder("silver.trips").glob("_delta_log/*.json")))
    with pytest.raises(DamagedTableError, match=r"silver\.trips is damaged"):
        source_schema(new_context(context.settings).lake, "silver.trips")


def test_every_table_has_a_remedy(tmp_path: Path):
    made = ("silver.records_a_history", "bronze.records_a", "gold.features_a")
    for table in (*TABLES, *made):
        folder = tmp_path / table
        folder.mkdir()
        (folder / "part.parquet").touch()
        found = damaged(table, folder)
        assert found is not None
        assert str(found).endswith(f"lakeloop rebuild {table}")
        is_log = table.startswith(("inference.", "feedback.")) or table in LOGS
        assert ("keep the rest" in str(found)) == is_log, table


def test_the_remedies_name_what_each_stage_makes_its_tables_of():
    made = {table: stage.sources for stage in STAGES for table in stage.targets}
    plain = {table: sources for table, sources in made.items() if "*" not in table}
    computed = {table: sources for table, sources in plain.items() if table != "inference.inference_log"}
    assert set(computed) - set(_MADE_OF) == set()
    assert set(_MADE_OF) - set(computed) == {"gold.embeddings", "ops.stage_state"}, (
        "the cache, and how far each stage came"
    )
    for table, sources in computed.items():
        assert not sources or sources[0] in _MADE_OF[table], table


def test_what_is_left_of_a_damaged_record_of_what_happened_is_kept_by_its_remedy(tmp_path: Path):
    table = "ops.file_looks"
    (tmp_path / "landing").mkdir()
    context = new_context(Settings(root=tmp_path))
    for path in ("a.md", "b.md"):
        context.lake.append_arrow(table, [{"path": path}])
    with pytest.raises(ConfigurationError, match="no file of it is damaged"):
        rebuild(context, table)
    _cut(sorted(context.lake.folder(table).glob("*.parquet"))[0])
    with pytest.raises(DamagedTableError, match=f"lakeloop rebuild {table}"):
        context.lake.read_arrow(table)
    rebuild(context, table)
    assert context.lake.read_arrow(table).num_rows == 1


def test_a_rebuild_holds_the_lock_until_it_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "landing").mkdir()
    context = new_context(Settings(root=tmp_path))
    context.lake.append_arrow("ops.file_looks", [{"path": "a.md"}])
    _cut(next(context.lake.folder("ops.file_looks").glob("*.parquet")))
    held: list[int] = []

    @contextmanager
    def counted(settings: Settings) -> Iterator[None]:
        with only_writer(settings):
            held.append(1)
            yield

    monkeypatch.setattr("pipelines.operations.rebuild.only_writer", counted)
    rebuild(context, "ops.file_looks")
    assert held == [1], "nobody else may write between what is mended and what is computed"
