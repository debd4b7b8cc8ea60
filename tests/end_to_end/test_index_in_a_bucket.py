"""Lance's index in a bucket of a real server that goes away, denies, or has lost the bucket: told in one line, and
never taken for a fault of the rows."""

from __future__ import annotations

import json
import os
import re
import signal
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from pipelines.conductor.run import new_context, run_stages
from pipelines.conductor.stages import DOCUMENT_STAGES
from pipelines.operations.status import describe
from pipelines.operations.verify import verify
from pipelines.settings.sections import Settings
from pipelines.storage.object_path import ObjectPath
from pipelines.stores import Store, StoreUnavailableError, open_store
from pipelines.stores.lance import LanceStore
from tests.stores.loopback import Running
from tests.stores.rows import DIMENSION, manifest, row, table, vector
from tests.support import killer
from tests.support.object_server import BUCKET, CREDENTIALS, bucket_for, serving
from transformations.errors import ConfigurationError, DamagedTableError

ROWS = [row(n) for n in range(20)]
CALLS: dict[str, Callable[[Store], object]] = {
    "manifest": lambda store: store.manifest(),
    "search": lambda store: store.search(vector(3), k=3),
    "rows": lambda store: list(store.rows()),
    "ids": lambda store: list(store.ids_with_hashes()),
    "merge": lambda store: store.upsert(table(ROWS)),
    "append": lambda store: store.upsert(table([row(99)]), are_new=True),
    "delete": lambda store: store.delete([ROWS[0]["chunk_id"]]),
    "commit": lambda store: store.commit(manifest(ROWS, version=2), expected=manifest(ROWS)),
    "forget": lambda store: store.forget(),
    "drop": lambda store: store.drop(),
}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    with bucket_for(monkeypatch) as running:
        yield running


@pytest.fixture
def settings(server: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A workspace whose index alone is in the bucket, in which no Spark may start, and which waits for nobody."""
    monkeypatch.setattr("pipelines.conductor.run.get_spark", lambda _: pytest.fail("this starts Spark"))
    said = {
        "index": {"uri": f"s3://{BUCKET}/index", "patience_seconds": 0},
        "embedding": {"model": "tests.support.embedders:Free"},
        "storage_options": {"max_retries": "1", "retry_timeout": "1s"},
    }
    (tmp_path / "lakeloop.yml").write_text(json.dumps(said))
    return Settings(root=tmp_path, **said)


def _tell(server: Running, path: str, said: str = "") -> None:
    """Of moto's own interface."""
    request = urllib.request.Request(
        f"{server.uri}/moto-api/{path}", data=said.encode(), method="POST", headers={"Content-Type": "text/plain"}
    )
    urllib.request.urlopen(request, timeout=5).close()


def _deny(server: Running, *, after: float) -> None:
    """From the request with that number on, the key of the tests is not known any more."""
    _tell(server, "reset-auth", str(after))


def _filled(settings: Settings, *, name: str = "chunks") -> None:
    store = open_store(settings, dimension=DIMENSION, name=name)
    store.upsert(table(ROWS))
    store.commit(manifest(ROWS), expected=None)


def _kill(server: Running) -> None:
    os.kill(server.pid, signal.SIGKILL)


@pytest.mark.long
@pytest.mark.parametrize(
    ("fault", "kind", "said"),
    [
        (_kill, StoreUnavailableError, "object storage failed at s3://lake/index/chunks.lance: .* Run again when"),
        (partial(_deny, after=0), ConfigurationError, r"chunks.lance may not be used \(InvalidAccessKeyId\)"),
        (partial(_tell, path="reset"), ConfigurationError, "there is no bucket s3://lake. Make it"),
    ],
    ids=["down", "denied", "gone"],
)
def test_each_call_says_in_one_line_what_the_bucket_does(
    fault: Callable[[Running], None], kind: type, said: str, server: Running, settings: Settings
):
    _filled(settings)
    stores = {name: open_store(settings, dimension=DIMENSION) for name in CALLS}
    for store in stores.values():
        store.manifest()
    fault(server)
    with ThreadPoolExecutor() as pool:  # each call tries again for some seconds
        failed = {name: pool.submit(call, stores[name]).exception for name, call in CALLS.items()}
        failed["opening"] = pool.submit(open_store(settings, dimension=DIMENSION).manifest).exception
        for name, error in failed.items():
            with pytest.raises(kind, match=said) as told:
                raise error() or AssertionError(f"{name} passed")
            assert type(told.value) is kind
            assert "\n" not in str(told.value)


@pytest.mark.long
def test_a_call_that_is_denied_at_any_of_its_requests_says_so(server: Running, settings: Settings):
    for name in CALLS.keys() - {"commit", "forget"}:  # of some sixty requests each
        _filled(settings, name=name)
        refused = 1
        while (error := _refusal(CALLS[name], server, settings, name=name, after=refused)) is not None:
            assert f"{name}.lance may not be used" in str(error)
            refused += 1
        assert 2 < refused < 20, "requests were counted"
        # Nor was a later one denied and passed over.
        assert [_refusal(CALLS[name], server, settings, name=name, after=refused + more) for more in (1, 2)] == [
            None
        ] * 2


def _refusal(
    call: Callable[[Store], object], server: Running, settings: Settings, *, name: str, after: int
) -> ConfigurationError | None:
    store = open_store(settings, dimension=DIMENSION, name=name)
    _deny(server, after=after)
    try:
        call(store)
    except ConfigurationError as error:
        return error
    finally:
        _deny(server, after=float("inf"))
    return None


@pytest.mark.long
@pytest.mark.parametrize(
    ("of", "is_cut", "calls"),
    [
        (".lance", False, ("search", "rows", "ids", "merge", "delete")),
        (".lance", True, ("search", "rows", "ids")),
        # Of a served version that is gone, writers know nothing: they go on from the one before.
        (".manifest", False, ("manifest", "search", "rows")),
        (".manifest", True, ("manifest", "search", "rows", "ids")),
    ],
)
def test_an_object_that_is_lost_or_cut_is_damage_and_no_fault_of_the_rows(
    of: str, is_cut: bool, calls: tuple[str, ...], settings: Settings
):
    _filled(settings)
    place = ObjectPath.of(settings.index_uri)
    found = sorted(entry.name for entry in place.entries(is_deep=True) if entry.name.endswith(of))
    assert found
    # Lance counts versions down in the names of manifests: the first is that of the newest, which is served.
    for file in [place / name for name in (found[:1] if of == ".manifest" else found)]:
        if is_cut:
            content = file.read_bytes()
            file.write_bytes(content[: len(content) // 2])
        else:
            file.unlink()
    for name in calls:
        with pytest.raises(DamagedTableError, match=r"the index at s3://lake/index/chunks\.lance is damaged"):
            CALLS[name](open_store(settings, dimension=DIMENSION))


@pytest.mark.long
@pytest.mark.parametrize(
    ("fault", "kind"), [(_kill, StoreUnavailableError), (partial(_deny, after=3), ConfigurationError)]
)
def test_a_sync_in_an_outage_blames_no_row_and_the_next_one_brings_the_index_up_to_date(
    fault: Callable[[Running], None], kind: type, server: Running, settings: Settings, monkeypatch
):
    upsert = LanceStore.upsert

    def meets_the_fault(*given: object, **options: object) -> object:
        fault(server)
        return upsert(*given, **options)

    (settings.root / "landing").mkdir()
    for number in range(12):
        (settings.root / "landing" / f"{number}.md").write_text(f"# {number}\n\nText {number}.")
    monkeypatch.setattr(LanceStore, "upsert", meets_the_fault)
    with pytest.raises(kind):
        run_stages(new_context(settings), stages=DOCUMENT_STAGES)
    monkeypatch.setattr(LanceStore, "upsert", upsert)
    with serving(port=server.port) if kind is StoreUnavailableError else _allowed(server):
        assert run_stages(new_context(settings), stages=DOCUMENT_STAGES).stages
        lake = new_context(settings).lake
        assert lake.read_arrow("ops.dead_letters").num_rows == 0
        found = verify(new_context(settings))
        assert found.is_equal, found.differences
        assert found.index_rows == lake.read_arrow("gold.chunk_index").num_rows == 12


@contextmanager
def _allowed(server: Running) -> Iterator[None]:
    _deny(server, after=float("inf"))
    yield


@pytest.mark.long
def test_commands_that_look_at_the_index_say_it_in_one_line(server: Running, settings: Settings):
    (settings.root / "landing").mkdir()
    (settings.root / "landing" / "a.md").write_text("# A\n\nOne.")
    run_stages(new_context(settings), stages=DOCUMENT_STAGES)
    _kill(server)
    failed = r"object storage failed at s3://lake/index/chunks_\w+\.lance: .* error sending request"
    with pytest.raises(StoreUnavailableError, match=failed):
        verify(new_context(settings))
    _, status = describe(settings)
    assert len(re.findall(failed, status)) == 1
    assert "no index yet" not in status
    for command in (["search", "One"], ["ask", "One?"]):
        done = killer.run(command, cwd=settings.root)
        assert done.returncode == StoreUnavailableError.exit_code
        assert re.search(failed, " ".join(done.stderr.split()))
        assert "Traceback" not in done.stderr
        assert not any(os.environ[name] in done.stderr for name in CREDENTIALS if "KEY" in name)


@pytest.mark.longest
def test_commands_bring_files_of_a_bucket_into_its_index_and_find_both_equal(settings: Settings):
    landing, report = ObjectPath.of(f"s3://{BUCKET}/landing"), f"s3://{BUCKET}/report.html"
    for name in ("a", "b"):
        (landing / f"{name}.md").write_bytes(f"# {name}\n\nText.".encode())
    said = {"lakehouse": f"s3://{BUCKET}/lake", "landing": str(landing), "report": report}
    said |= {"index": {"uri": settings.index.uri}, "embedding": {"model": settings.embedding.model}}
    (settings.root / "lakeloop.yml").write_text(json.dumps(said))
    done = killer.run(["run"], cwd=settings.root)
    assert done.returncode == 0, done.stderr
    done = killer.run(["verify", "--json"], cwd=settings.root)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["documents"] == 2
    assert b"<html" in ObjectPath.of(report).read_bytes()
    assert json.loads(killer.run(["run", "--json"], cwd=settings.root).stdout)["stages"] == []
