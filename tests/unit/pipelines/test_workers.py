"""Workers of this machine: what comes of their work, and what happens if one fails, ends, or loses its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipelines.flow import rows as rows_module
from pipelines.flow.rows import mapped
from pipelines.flow.workers import map_in_workers
from pipelines.settings.sections import Settings
from transformations.errors import ConfigurationError, LakeloopError

SCHEMA = pa.schema([("n", pa.int64()), ("pid", pa.int64())])
PARTS = [pa.table({"n": range(start, start + 10)}) for start in (0, 10, 20)]


def _squares(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    import os

    print("what a library prints")
    for batch in batches:
        made = [n * n for n in batch.column("n").to_pylist()]
        yield pa.RecordBatch.from_pydict({"n": made, "pid": [os.getpid()] * len(made)})


def test_each_part_has_a_process_and_the_results_keep_their_order():
    found = map_in_workers(_squares, PARTS, SCHEMA, most_bytes=1 << 20)
    assert found is not None
    assert found["n"].to_pylist() == [n * n for n in range(30)]
    pids = set(found["pid"].to_pylist())
    assert len(pids) == 3
    assert os.getpid() not in pids
    assert map_in_workers(_squares, PARTS[:1], SCHEMA, most_bytes=10) is None
    nothing = map_in_workers(_squares, [PARTS[0].slice(0, 0)], SCHEMA, most_bytes=1 << 20)
    assert nothing is not None
    assert nothing.num_rows == 0


def _failing(error: Callable[[], Exception] | None) -> Any:
    def fail(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import os
        import signal

        for batch in batches:
            if batch.column("n")[0].as_py() == 10:
                if error is None:
                    os.kill(os.getpid(), signal.SIGKILL)
                else:
                    raise error()
            yield batch

    return fail


class OfTwo(Exception):
    """An error that pickle cannot make again."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(first + second)


class OfTwoWithCode(OfTwo, LakeloopError):
    exit_code = 7


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (lambda: ConfigurationError("a wrong setting"), ConfigurationError, "a wrong setting"),
        (lambda: KeyError("x"), KeyError, "x"),
        (lambda: OfTwo("a", "b"), RuntimeError, "OfTwo: ab"),
        (lambda: OfTwoWithCode("a", "b"), LakeloopError, "OfTwoWithCode: ab"),
        (None, LakeloopError, "was killed, perhaps for lack of memory"),
    ],
)
def test_an_error_of_a_worker_is_raised_here(error: Callable[[], Exception] | None, kind: type[Exception], words: str):
    with pytest.raises(kind, match=words) as raised:
        map_in_workers(_failing(error), PARTS, pa.schema([("n", pa.int64())]), most_bytes=1 << 20)
    if error is not None:
        assert "in fail" in str(raised.value.__cause__)
        assert getattr(raised.value, "exit_code", None) == getattr(error(), "exit_code", None)


def test_what_lies_in_the_current_folder_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "pipelines").mkdir()
    for name in ("pipelines/__init__.py", "struct.py", "pyarrow.py"):
        (tmp_path / name).write_text("raise SystemExit('the wrong module')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry or str(Path(__file__).parents[3]) for entry in sys.path])
    found = map_in_workers(_squares, PARTS[:1], SCHEMA, most_bytes=1 << 20)
    assert found is not None
    assert found.num_rows == 10


def test_what_a_worker_has_started_ends_with_it(tmp_path: Path):
    def start(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import subprocess
        import time

        first = next(batches)
        if first.column("n")[0].as_py() == 10:
            while not (tmp_path / "pid").exists():
                time.sleep(0.05)
            raise KeyError("the other part fails")
        child = subprocess.Popen(["sleep", "600"], start_new_session=True)
        try:
            (tmp_path / "draft").write_text(str(child.pid))
            (tmp_path / "draft").replace(tmp_path / "pid")
            child.wait()
        finally:
            child.kill()
        yield first

    with pytest.raises(KeyError):
        map_in_workers(start, PARTS[:2], SCHEMA, most_bytes=1 << 20)
    assert _is_dead(int((tmp_path / "pid").read_text()))


_PARENT = """
import os, sys, time
import pyarrow as pa
from pipelines.flow.workers import map_in_workers

def main():
    folder = sys.argv[1]
    def wait(batches):
        open(os.path.join(folder, f"{os.getpid()}.pid"), "w").close()
        time.sleep(600)
        yield from batches
    rows = pa.table({"n": [1]})
    try:
        map_in_workers(wait, [rows, rows], rows.schema, most_bytes=1000)
    except KeyboardInterrupt:
        sys.exit(130)

main()
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_a_parent_that_is_killed_or_interrupted(tmp_path: Path, how: signal.Signals):
    program = tmp_path / "parent.py"
    program.write_text(_PARENT)
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    parent = subprocess.Popen([sys.executable, program, tmp_path], env={**os.environ, "PYTHONPATH": path})
    try:
        pids = _wait_for(lambda: found if len(found := list(tmp_path.glob("*.pid"))) == 2 else None)
        parent.send_signal(how)
        assert parent.wait(30) == (130 if how == signal.SIGINT else -how)
        for file in pids:
            _wait_for(lambda pid=int(file.stem): _is_dead(pid) or None)
    finally:
        parent.kill()


def _is_dead(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    state = Path(f"/proc/{pid}/stat")
    return state.exists() and state.read_text().rsplit(")", 1)[1].split()[0] == "Z"


def _wait_for(ready: Any) -> Any:
    for _ in range(600):
        if (found := ready()) is not None:
            return found
        time.sleep(0.1)
    raise AssertionError("it did not come to it in a minute")


@pytest.mark.parametrize("master", ["local[1]", "local[3]", "local", "spark://elsewhere:7077"])
def test_the_way_goes_by_the_weight_of_the_rows_and_by_where_spark_is(master: str, monkeypatch: pytest.MonkeyPatch):
    """In this process if light, by workers of this machine if not, by Spark if heavy or if Spark is elsewhere."""
    for name in ("PYSPARK_GATEWAY_PORT", "SPARK_REMOTE", "DATABRICKS_RUNTIME_VERSION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(rows_module, "_HERE_BYTES", 1000)
    asked: list[pa.Table] = []

    class Asked(Exception):
        pass

    def by_spark(context: Any, rows: Any) -> Any:
        asked.append(rows)
        raise Asked

    monkeypatch.setattr(rows_module, "as_frame", by_spark)
    context: Any = type("Run", (), {"settings": Settings.model_validate({"spark": {"master": master}})})

    def processes(size: int, count: int = 40) -> int:
        rows = pa.table({"n": range(count), "size": [size] * count})
        found: Any = mapped(context, rows, _squares, SCHEMA)
        assert found["n"].to_pylist() == [n * n for n in range(count)]
        return len(set(found["pid"].to_pylist()) - {os.getpid()})

    assert processes(1) == 0
    if master.startswith("spark"):
        with pytest.raises(Asked):
            processes(100)
    else:
        assert processes(100) == {"local[1]": 0, "local": 0, "local[3]": 3}[master]
        assert not asked
    with pytest.raises(Asked):
        processes(rows_module.FEW_BYTES)
    assert processes(rows_module.FEW_BYTES, 2) == (2 if master == "local[3]" else 0)
    assert processes(rows_module.FEW_BYTES, 1) == 0
    monkeypatch.setattr(rows_module, "FEW_BYTES", 200)  # what comes of it is too large to be held
    with pytest.raises(Asked):
        processes(1)
