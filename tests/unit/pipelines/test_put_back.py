"""Tables that are put back from a copy, or by RESTORE: the same versions are other commits. No JVM is started."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from deltalake import DeltaTable

from pipelines.conductor.run import new_context, record
from pipelines.flow.stage import Context, Stage, Subject, Versions, everything, moved
from pipelines.lakehouse.table_log import commit_id, is_same_history
from pipelines.settings.sections import Settings

SOURCE, TARGET = "silver.documents", "silver.chunks"
QUARANTINE = "silver.chunks_quarantine"
STAGE = Stage(
    "made", "", lambda context: None, lambda context, due: {}, sources=(SOURCE,), targets=(TARGET, QUARANTINE)
)


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return new_context(Settings(root=tmp_path))


def add(context: Context, table: str, key: str) -> None:
    context.lake.append_arrow(table, [{context.lake.spec(table).key[0]: key}])


def done(context: Context, stage: Stage = STAGE) -> None:
    """The stage has run up to now."""
    for table in (SOURCE, *stage.targets):
        context.lake.ensure(table)
    record(stage, context, everything(stage, context), counts={}, started_at=context.now(), seconds=0.0)


def due(stage: Stage, context: Context) -> Versions | None:
    """What has moved of the stage's source, as a run in a process of its own sees it."""
    context.states.reload()
    found = moved(stage, context)
    return None if found is None else found.first


def test_what_came_since_is_due_and_nothing_where_nothing_came(context: Context):
    assert due(STAGE, context) is None
    add(context, SOURCE, "a")
    done(context)
    assert due(STAGE, context) is None
    add(context, SOURCE, "b")
    version = context.lake.ensure(SOURCE).version
    assert due(STAGE, context) == Versions(version - 1, version, context.lake.ensure(SOURCE).table_id)
    add(context, TARGET, "c")
    assert due(STAGE, context).since == version - 1, "other writers of the target only go on"


def test_a_source_put_back_from_a_copy_and_changed_is_compared_whatever_its_version(context: Context):
    add(context, SOURCE, "a")
    folder = context.lake.folder(SOURCE)
    shutil.copytree(folder, folder.with_name("backup"))
    add(context, SOURCE, "b")
    add(context, SOURCE, "c")
    done(context)
    shutil.rmtree(folder)
    folder.with_name("backup").rename(folder)
    for more in ("fewer commits", "as many", "more"):
        window = due(STAGE, context)
        assert window is not None, more
        assert window.since is None, more
        add(context, SOURCE, more)
    done(context)
    assert due(STAGE, context) is None


@pytest.mark.parametrize("table", [SOURCE, TARGET, "silver.chunks_quarantine"])
def test_a_table_taken_back_by_restore_is_compared(context: Context, table: str):
    add(context, SOURCE, "a")
    add(context, TARGET, "a")
    add(context, "silver.chunks_quarantine", "a")
    add(context, table, "b")
    done(context)
    assert due(STAGE, context) is None
    DeltaTable(str(context.lake.folder(table))).restore(1)
    assert due(STAGE, context).since is None
    add(context, table, "c")
    assert due(STAGE, context).since is None
    done(context)
    assert due(STAGE, context) is None


@pytest.mark.parametrize("table", [SOURCE, TARGET, "silver.chunks_quarantine"])
def test_a_table_of_which_lost_files_were_given_up_is_compared(context: Context, table: str):
    add(context, SOURCE, "a")
    add(context, TARGET, "a")
    add(context, "silver.chunks_quarantine", "a")
    done(context)
    assert due(STAGE, context) is None
    next(context.lake.folder(table).glob("*.parquet")).unlink()
    assert context.lake.mend(table) is not None
    window = due(STAGE, context)
    assert window is not None
    assert window.since is None
    done(context)
    assert due(STAGE, context) is None


@pytest.mark.parametrize("table", [TARGET, "silver.chunks_quarantine"])
def test_a_target_put_back_from_a_copy_is_compared(context: Context, table: str):
    add(context, SOURCE, "a")
    add(context, table, "a")
    folder = context.lake.folder(table)
    shutil.copytree(folder, folder.with_name("backup"))
    add(context, table, "b")
    done(context)
    shutil.rmtree(folder)
    folder.with_name("backup").rename(folder)
    assert due(STAGE, context).since is None
    add(context, table, "another b")
    assert due(STAGE, context).since is None


def test_a_definition_that_is_set_back_is_no_reason_to_trust_an_older_run(context: Context):
    add(context, SOURCE, "a")
    done(context)
    other = replace(STAGE, decided_by=lambda context: "other")
    assert due(other, context).since is None
    done(context, other)
    assert due(STAGE, context).since is None, "the table is what the other definition made"
    first, second = (context.for_subject(Subject("model", name, None)) for name in "ab")
    done(first)
    done(second)
    assert due(STAGE, first) is None
    assert due(STAGE, second) is None
    context.states.forget("made", ["a"])
    assert due(STAGE, first).since is None
    assert due(STAGE, second) is None


def test_a_commit_that_the_log_no_longer_has_is_no_reason_to_compare(context: Context):
    add(context, SOURCE, "a")
    assert commit_id(context.lake, SOURCE, 1) != commit_id(context.lake, SOURCE, 0)
    assert commit_id(context.lake, SOURCE, 99) is None
    assert is_same_history(context.lake, SOURCE, version=1, commit=commit_id(context.lake, SOURCE, 1), until=1)
    assert not is_same_history(context.lake, SOURCE, version=1, commit="another", until=1)
    assert not is_same_history(context.lake, SOURCE, version=2, commit=None, until=1)
    done(context)
    noted = commit_id(context.lake, SOURCE, 1)
    for key in "bc":
        add(context, SOURCE, key)
    folder = context.lake.folder(SOURCE)
    DeltaTable(str(folder)).create_checkpoint()
    for version in (0, 1):
        (folder / "_delta_log" / f"{version:020}.json").unlink()
    assert commit_id(context.lake, SOURCE, 1) is None
    assert is_same_history(context.lake, SOURCE, version=1, commit=noted, until=3)
    assert due(STAGE, context) == Versions(1, 3, context.lake.ensure(SOURCE).table_id)
