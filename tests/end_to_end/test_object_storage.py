"""The loop on a real server of S3's API: tables, landing folder and index in a bucket, and what goes wrong there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import unicodedata
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from pipelines.conductor.run import new_context, run_stages
from pipelines.conductor.stages import DOCUMENT_STAGES, stage_named
from pipelines.documents import landing
from pipelines.flow import lock as lock_module
from pipelines.flow.lock import only_writer
from pipelines.flow.outcome import Outcome
from pipelines.flow.stage import Stage
from pipelines.lakehouse.delta_folder import replace
from pipelines.lakehouse.open_folder import open_folder
from pipelines.quality.quarantine import passed_over
from pipelines.settings.sections import Settings
from pipelines.storage.object_path import ObjectPath
from pipelines.storage.storage_errors import StorageError
from pipelines.vector_index.state import served
from tests.stores.loopback import Running
from tests.support import killer
from tests.support.object_server import BUCKET, bucket_for, serving
from transformations.errors import ConfigurationError, DamagedTableError, RefusedError


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with pytest.MonkeyPatch.context() as patch, bucket_for(patch) as running:
        yield running


@pytest.fixture
def settings(server: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A workspace of its own in the bucket, in which no Spark may start."""
    monkeypatch.setattr("pipelines.conductor.run.get_spark", lambda _: pytest.fail("this starts Spark"))
    prefix = f"s3://{BUCKET}/{tmp_path.name} ü"
    return Settings(
        root=tmp_path,
        lakehouse=f"{prefix}/lake",
        landing=f"{prefix}/landing",
        index={"uri": f"{prefix}/index"},
        embedding={"model": "tests.support.embedders:Free"},
    )


def _deliver(settings: Settings, **texts: str) -> None:
    for name, text in texts.items():
        (settings.landing_path / f"{name}.md").write_bytes(text.encode())


def _run(settings: Settings, *, stages: Sequence[Stage] = DOCUMENT_STAGES) -> Outcome:
    return run_stages(new_context(settings, force=True), stages=stages)


def _counts(settings: Settings, *, stages: Sequence[Stage] = DOCUMENT_STAGES) -> dict[str, dict[str, int]]:
    done = _run(settings, stages=stages).stages
    return {stage.stage: {k: n for k, n in stage.counts.items() if n} for stage in done}


def _texts(settings: Settings) -> dict[str, str]:
    rows = new_context(settings).lake.read_arrow("silver.documents", columns=["path", "text"]).to_pylist()
    return {row["path"]: row["text"].rpartition("\n")[2] for row in rows}


@pytest.mark.long
def test_documents_go_from_a_bucket_into_tables_and_an_index_of_it_and_cost_what_changed(settings: Settings):
    _deliver(settings, **{"über uns/a b": "# A\n\nOne.", "c": "# C\n\nThree.", "d%20e #?": "# D\n\nFour."})
    (settings.landing_path / ".hidden.md").write_bytes(b"# No")
    (settings.landing_path / "picture.png").write_bytes(b"no")
    first = _counts(settings)
    assert first["ingest-documents"] == {"new": 3}
    assert first["sync-index"]["upserts"] == 3
    assert _texts(settings) == {"c.md": "Three.", "d%20e #?.md": "Four.", "über uns/a b.md": "One."}
    assert _counts(settings) == {}, "nothing has changed"
    _deliver(settings, c="# C\n\nOther.")
    (settings.landing_path / "d%20e #?.md").unlink()
    second = _counts(settings)
    assert second["ingest-documents"] == {"changed": 1, "gone": 1, "unchanged": 1}
    assert second["sync-index"] == {"upserts": 1, "deletes": 2, "rows": 2}
    assert _texts(settings) == {"c.md": "Other.", "über uns/a b.md": "One."}
    lake = new_context(settings).lake
    index = served(lake, settings.index.name)
    assert index is not None
    manifest = index.manifest(settings)
    assert manifest is not None
    assert manifest.rows == 2
    store = index.open(settings)
    assert sum(len(ids) for ids in store.ids_with_hashes()) == 2
    store.forget()
    store.drop()
    assert index.manifest(settings) is None
    assert "silver.documents" in lake.existing()
    assert not (settings.root / "lakehouse").exists(), "nothing of it lies on this machine"


@pytest.mark.long
def test_what_is_in_the_bucket_is_no_document_where_lakeloop_wrote_it(settings: Settings):
    settings = settings.model_copy(update={"lakehouse": f"{settings.landing}/lake"})
    settings = settings.model_copy(
        update={"ingest": settings.ingest.model_copy(update={"include": ("*.json", "*.md")})}
    )
    _deliver(settings, a="# A\n\nOne.")
    assert _counts(settings, stages=DOCUMENT_STAGES[:1])["ingest-documents"] == {"new": 1}
    assert _counts(settings, stages=DOCUMENT_STAGES[:1]) == {}


@pytest.mark.long
def test_an_object_that_is_replaced_while_it_is_read_is_read_whole_and_again(settings: Settings, monkeypatch):
    _deliver(settings, a="# A\n\nOne.")
    read = landing.FoundObject.read

    def replaced_before(found: landing.FoundObject) -> bytes:
        monkeypatch.setattr(landing.FoundObject, "read", read)
        _deliver(settings, a="# A\n\nTwo.")
        return read(found)

    monkeypatch.setattr(landing.FoundObject, "read", replaced_before)
    _run(settings, stages=DOCUMENT_STAGES[:2])
    assert _texts(settings) == {"a.md": "Two."}
    _deliver(settings, a="# A\n\nSix.")  # as long, and within the second that the server's clock has
    _run(settings, stages=DOCUMENT_STAGES[:2])
    assert _texts(settings) == {"a.md": "Six."}


@pytest.mark.long
def test_a_bucket_that_is_not_there_or_may_not_be_used_is_said_in_one_line(settings: Settings, monkeypatch):
    for name in ("lakehouse", "landing"):
        wrong = settings.model_copy(update={name: "s3://no-such-bucket/x"})
        with pytest.raises(ConfigurationError, match="there is no bucket s3://no-such-bucket"):
            _run(wrong)
    with pytest.raises(ConfigurationError, match="no document lies at s3://"):
        _run(settings)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    # The machine itself, which is asked for its role, is not to be found.
    options = {"aws_metadata_endpoint": "http://127.0.0.1:9", "max_retries": "0"}
    nobody = Settings(root=settings.root, lakehouse=settings.lakehouse, storage_options=options)
    (settings.root / "landing").mkdir()
    with pytest.raises(ConfigurationError, match="Credentials come from the environment"):
        run_stages(new_context(nobody), stages=DOCUMENT_STAGES)


@pytest.mark.long
def test_no_secret_is_in_a_table_an_error_or_the_log(server: Running, settings: Settings, monkeypatch):
    secret = "the-secret-of-this-test"
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("THE_SECRET", secret)
    (settings.root / "lakeloop.yml").write_text(
        json.dumps(
            {
                "lakehouse": settings.lakehouse,
                "landing": settings.landing,
                "storage_options": {"aws_secret_access_key": "${THE_SECRET}"},
            }
        )
    )
    _deliver(settings, a="# A\n\nOne.")
    done = killer.run(["ingest-documents"], cwd=settings.root)
    assert done.returncode == 0, done.stderr
    gone = killer.run(["ingest-documents", "--set", "landing=s3://no-such-bucket/x"], cwd=settings.root)
    assert gone.returncode == 5
    assert "there is no bucket s3://no-such-bucket" in gone.stderr
    said = [done.stdout, done.stderr, gone.stderr, (settings.root / "logs" / "lakeloop.log").read_text()]
    held = [(ObjectPath.of(settings.lakehouse) / entry.name).read_bytes() for entry in _entries(settings)]
    assert not any(secret in text for text in said)
    assert not any(secret.encode() in content for content in held)


def _entries(settings: Settings):
    return ObjectPath.of(settings.lakehouse).entries(is_deep=True)


def _taken(lock: ObjectPath, **said: object) -> None:
    """As if another process had taken it."""
    lock.write_bytes(json.dumps({**json.loads(lock.read_bytes()), "token": "another", **said}).encode())


@pytest.mark.long
def test_one_run_writes_at_a_time_whatever_machine_it_is_on(settings: Settings, tmp_path_factory):
    elsewhere = settings.model_copy(update={"root": tmp_path_factory.mktemp("elsewhere")})
    lock = ObjectPath.of(settings.lakehouse) / ".lakeloop.lock"
    refused = pytest.raises(RefusedError, match=r"another lakeloop run \(process \d+ on .*\) is writing to s3://")
    with only_writer(settings), refused:
        only_writer(elsewhere).__enter__()
    with only_writer(elsewhere):
        assert json.loads(lock.read_bytes())["process"].endswith(f" {os.getpid()}")
    assert json.loads(lock.read_bytes())["is_released"] is True


@pytest.mark.long
def test_a_process_of_the_same_name_in_another_container_is_another_one(settings: Settings, tmp_path_factory):
    elsewhere = settings.model_copy(update={"root": tmp_path_factory.mktemp("elsewhere")})
    lock = ObjectPath.of(settings.lakehouse) / ".lakeloop.lock"
    first = only_writer(settings)
    first.__enter__()
    _taken(lock, space="of another container")
    with pytest.raises(RefusedError, match="is writing to s3://"):
        only_writer(elsewhere).__enter__()
    with pytest.raises(RefusedError, match="another one has been writing to"):
        first.__exit__(None, None, None)
    held = json.loads(lock.read_bytes())
    assert (held["token"], held.get("is_released")) == ("another", None), "what is another's is not given back"


@pytest.mark.long
def test_a_lease_that_is_over_by_our_clock_is_left_to_a_holder_that_prolongs_it(settings: Settings, monkeypatch):
    lock = ObjectPath.of(settings.lakehouse) / ".lakeloop.lock"
    with only_writer(settings):
        pass
    over = (datetime.now(timezone.utc) - timedelta(seconds=1)).isoformat()
    other = {"process": "other-machine 7", "space": "its own", "until": over, "is_released": False}
    _taken(lock, **other)
    # While this one waits, the holder prolongs it: its clock is behind.
    monkeypatch.setattr(lock_module.time, "sleep", lambda _: _taken(lock, **other, prolonged=True))
    with pytest.raises(RefusedError, match="process 7 on other-machine"):
        only_writer(settings).__enter__()
    assert json.loads(lock.read_bytes())["process"] == "other-machine 7"


@pytest.mark.long
@pytest.mark.parametrize("left_by", ["a process that was killed", "a machine that is gone", "nobody can tell"])
def test_a_lock_that_its_holder_left_is_taken_over(left_by: str, settings: Settings, monkeypatch):
    monkeypatch.setattr(lock_module, "_PROLONGED_WITHIN", 0)
    lock = ObjectPath.of(settings.lakehouse) / ".lakeloop.lock"
    now = datetime.now(timezone.utc)
    with only_writer(settings):
        mine = json.loads(lock.read_bytes())
    over = (now - timedelta(seconds=1)).isoformat()
    node = mine["process"].rpartition(" ")[0]
    said = {
        "a process that was killed": json.dumps({**mine, "token": "another", "process": f"{node} 4194305"}),
        "a machine that is gone": json.dumps({"process": "other-machine 7", "until": over}),
        "nobody can tell": "",
    }
    lock.write_bytes(said[left_by].encode())
    with only_writer(settings):
        assert json.loads(lock.read_bytes())["process"] == mine["process"]


@pytest.mark.long
def test_two_names_that_differ_in_their_unicode_form_alone_are_one_document_and_one_refusal(settings: Settings):
    for form in ("NFC", "NFD"):
        (settings.landing_path / f"{unicodedata.normalize(form, 'ü')}.md").write_bytes(b"# U\n\nText.")
    (settings.landing_path / "sub").write_bytes(b"")  # a console's folder
    (settings.landing_path / "sub/a.md").write_bytes(b"# A\n\nText.")
    _run(settings, stages=DOCUMENT_STAGES[:2])
    lake = new_context(settings).lake
    assert len(lake.read_arrow("silver.documents")) == 2
    refused = lake.read_arrow("silver.documents_quarantine").to_pylist()
    assert [row["reason"].partition(":")[0] for row in refused] == ["duplicate_path"]
    assert passed_over(settings) == {}


@pytest.mark.long
def test_of_two_commits_of_one_version_one_is_refused(settings: Settings):
    lake = new_context(settings).lake
    lake.create("ops.index_state")
    folder, empty = lake.folder("ops.index_state"), lake.spec("ops.index_state").schema.empty_table()
    assert folder is not None
    first, second = open_folder(folder), open_folder(folder)
    assert first is not None
    assert second is not None
    assert replace(first, empty)
    assert not replace(second, empty), "S3's If-None-Match"
    assert [commit["version"] for commit in lake.history("ops.index_state")] == [1, 0]


@pytest.mark.long
def test_a_run_that_is_killed_leaves_whole_tables_and_the_next_goes_on(settings: Settings):
    said = {"lakehouse": settings.lakehouse, "landing": settings.landing, "index": {"uri": settings.index.uri}}
    (settings.root / "lakeloop.yml").write_text(json.dumps(said))
    _deliver(settings, **{f"{n}": f"# {n}\n\nText {n}." for n in range(30)})
    for table in ("bronze/documents", "silver/documents", "silver/chunks"):
        log = ObjectPath.of(settings.lakehouse) / table / "_delta_log"
        run = ["run", "--set", "embedding.model=tests.support.embedders:Free"]
        killer.kill_when(run, cwd=settings.root, moment=lambda log=log: bool(log.entries()))
    assert _run(settings)
    assert len(_texts(settings)) == 30
    assert _counts(settings) == {}


@pytest.mark.long
def test_a_server_that_goes_away_is_said_so_and_the_next_run_goes_on(tmp_path: Path, monkeypatch):
    with bucket_for(monkeypatch) as server:
        settings = Settings(
            root=tmp_path,
            lakehouse=f"s3://{BUCKET}/lake",
            landing=f"s3://{BUCKET}/landing",
            storage_options={"max_retries": "1", "retry_timeout": "1s"},
        )
        _deliver(settings, a="# A\n\nOne.")
        run_stages(new_context(settings), stages=[stage_named("ingest-documents")])
        context = new_context(settings)
        context.lake.head("bronze.documents")
        os.kill(server.pid, signal.SIGKILL)
        begun = time.monotonic()
        with pytest.raises(StorageError, match="object storage failed at s3://lake"):
            run_stages(context, stages=DOCUMENT_STAGES)
        with pytest.raises(StorageError, match="object storage failed at s3://lake"):
            context.lake.read_arrow("bronze.documents")
        assert time.monotonic() - begun < 60
        with serving(port=server.port):  # with nothing in it, as after a restart
            settings.landing_path.write_bytes(b"")
            _deliver(settings, a="# A\n\nOne.")
            run_stages(new_context(settings), stages=[stage_named("ingest-documents")])


@pytest.mark.long
def test_a_table_that_lost_a_file_is_named_and_mended(settings: Settings):
    _deliver(settings, a="# A\n\nOne.", b="# B\n\nTwo.")
    _run(settings, stages=DOCUMENT_STAGES[:3])
    lake = new_context(settings).lake
    folder = lake.folder("silver.chunks")
    assert isinstance(folder, ObjectPath)
    file = next(entry.name for entry in folder.entries(is_deep=True) if entry.name.endswith(".parquet"))
    (folder / file).unlink()
    with pytest.raises(DamagedTableError, match=f"{file} is missing"):
        _run(settings, stages=DOCUMENT_STAGES[:3])
    assert f"1 files were taken out of it: {file}" in (lake.mend("silver.chunks") or "")
    log = folder / "_delta_log"
    (log / log.entries()[0].name).write_bytes(b"")
    with pytest.raises(DamagedTableError):
        new_context(settings).lake.read_arrow("silver.chunks")
    assert "set aside as s3://" in (new_context(settings).lake.mend("silver.chunks") or "")
    assert new_context(settings).lake.head("silver.chunks") is None


_BY_SPARK = """
import json, pyarrow as pa
from pipelines.conductor.run import new_context
from pipelines.lakehouse.tables import Lakehouse
from pipelines.settings.load import load_settings
from tests.support.chunked import SCHEMA, chunk

lake = new_context(load_settings()).lake
table = "silver.chunks"
changes = SCHEMA.append(pa.field("_op", pa.string()))
said = {}

def ids():  # by delta-rs, of what Spark has written
    return sorted(row["document_id"] for row in lake.read_arrow(table, columns=["document_id"]).to_pylist())

lake.append(table, lake.frame(pa.Table.from_pylist([chunk(n, 0) for n in range(3)], schema=SCHEMA)))
said["appended"] = ids()
rows = [chunk(1, 0, title="Other") | {"_op": "update"}, chunk(7, 0) | {"_op": "insert"}]
rows.append(chunk(2, 0) | {"_op": "delete"})
Lakehouse.merge(lake, table, lake.frame(pa.Table.from_pylist(rows, schema=changes)))
said["merged"] = ids()
feed = lake._feed(table, after=1, until=lake.head(table).version)
said["changes"] = sorted(row["_change_type"] for row in feed.select("_change_type").collect())
lake.merge_arrow(table, pa.Table.from_pylist([chunk(8, 0) | {"_op": "insert"}], schema=changes))  # by delta-rs
said["read by Spark"] = sorted(row["document_id"] for row in lake.read(table).select("document_id").collect())
said["deleted"] = Lakehouse._delete_rows(lake, table, {"document_id": ["document-0"]})
lake.spark.sql(f"OPTIMIZE {lake.identifier(table)}").collect()
said["in order"] = ids()
said["history"] = [commit["operation"] for commit in lake.history(table)]
print("SAID", json.dumps(said))
"""


@pytest.mark.longest
def test_spark_and_delta_rs_read_what_the_other_has_written_in_a_bucket(server: Running, settings: Settings):
    (settings.root / "lakeloop.yml").write_text(json.dumps({"lakehouse": settings.lakehouse}))
    done = subprocess.run(
        [sys.executable, "-c", _BY_SPARK],
        cwd=settings.root,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.rpartition("SAID ")[2])
    assert said["appended"] == [f"document-{n}" for n in range(3)]
    assert said["merged"] == ["document-0", "document-1", "document-7"]
    assert said["changes"] == ["delete", "insert", "update_postimage", "update_preimage"]
    assert said["read by Spark"] == ["document-0", "document-1", "document-7", "document-8"]
    assert said["deleted"] == 1
    assert said["in order"] == ["document-1", "document-7", "document-8"]
    assert said["history"][-2:] == ["WRITE", "CREATE TABLE"]
