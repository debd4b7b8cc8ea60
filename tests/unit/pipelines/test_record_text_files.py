"""CSV and JSON files and messages as tasks read them: the place of each record, and files that cannot be read."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipelines.records.text_files import csv_batches, csv_header, json_file_batches, json_message_batches

Read = Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]


def _rows(read: Read, *paths: str) -> list[dict[str, Any]]:
    listed = pa.RecordBatch.from_pydict({"number": list(range(len(paths))), "path": list(paths)})
    return [row for batch in read(iter([listed])) for row in batch.to_pylist()]


def _csv(folder: Path, *paths: str, width: int = 2, **options: str) -> list[dict[str, Any]]:
    return _rows(csv_batches(str(folder), width=width, options=options), *paths)


def test_each_record_has_the_place_of_its_file_and_its_own(tmp_path):
    lines = "".join(f"{n},{n % 7 or ''}\n" for n in range(5000))
    (tmp_path / "a:1 [x].CSV").write_text("a,b\n" + lines)
    (tmp_path / "b.csv.GZ").write_bytes(gzip.compress(b"a,b\nx,y,z\n\nx,y\n"))
    rows = _csv(tmp_path, "a:1 [x].CSV", "b.csv.GZ")
    assert [row["_offset"] for row in rows] == [*range(5000), 0, 1]
    assert {(row["_source_version"], row["_source_file"]) for row in rows} == {(0, "a:1 [x].CSV"), (1, "b.csv.GZ")}
    assert (rows[7]["c0"], rows[7]["c1"], rows[8]["c1"]) == ("7", None, "1")
    assert rows[5000]["_unreadable"] == "3 values where the header names 2: x,y,z"
    assert rows[5000]["c0"] is None
    assert rows[5001]["_unreadable"] is None


def test_a_file_that_cannot_be_read_to_its_end_is_one_row_that_says_so(tmp_path):
    whole = gzip.compress(("a,b\n" + "x,y\n" * 100_000).encode())
    (tmp_path / "cut.csv.gz").write_bytes(whole[:-9])
    (tmp_path / "flipped.csv.gz").write_bytes(whole[:200] + bytes([whole[200] ^ 255]) + whole[201:])
    (tmp_path / "no.csv.gz").write_bytes(b"a,b\nx,y\n")
    rows = _csv(tmp_path, "cut.csv.gz", "flipped.csv.gz", "no.csv.gz")
    assert [row["_source_file"] for row in rows] == ["cut.csv.gz", "flipped.csv.gz", "no.csv.gz"]
    assert all(row["_unreadable"].startswith(row["_source_file"]) for row in rows)
    with pytest.raises(FileNotFoundError):
        _csv(tmp_path, "gone.csv")
    assert len(_json(tmp_path, "cut.csv.gz")) == 1


def test_other_encodings_and_a_header_that_cannot_be_read(tmp_path):
    (tmp_path / "1252.csv").write_bytes("größe,b\n5 €,y\n".encode("cp1252"))
    (tmp_path / "16.csv").write_bytes("größe,b\n5 €,y\n".encode("utf-16"))
    for name, encoding in (("1252.csv", "windows-1252"), ("16.csv", "utf-16")):
        assert csv_header(tmp_path / name, options={"encoding": encoding}) == ["größe", "b"]
        (row,) = _csv(tmp_path, name, encoding=encoding)
        assert row["c0"] == "5 €"
    with pytest.raises(ValueError, match=r"its header is no record: line 1: bytes that are no text.*gr\\xf6"):
        csv_header(tmp_path / "1252.csv", options={})
    (tmp_path / "cut.csv").write_bytes("a,b\nä,y\n".encode("utf-16")[:-1])
    (row,) = _csv(tmp_path, "cut.csv", encoding="utf-16")
    assert "cut.csv" in row["_unreadable"]
    (tmp_path / "empty.csv").write_bytes(b"\xef\xbb\xbf\n\n")
    assert csv_header(tmp_path / "empty.csv", options={}) is None
    (tmp_path / "odd.csv").write_text("\n a ,,2\n")
    assert csv_header(tmp_path / "odd.csv", options={}) == ["a", "unnamed_2", "2"]


def _json(folder: Path, *paths: str, **options: str) -> list[dict[str, Any]]:
    read = json_file_batches(str(folder), options=options, names={"k": "k"}, wants_kinds=True, most_mb=1)
    return _rows(read, *paths)


def test_json_lines_and_whole_files(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"K": 1, "new": 2.5}\r\n\r\n{"k": \xff}\n[{"k": 3}, {"k": 4}]')
    rows = _json(tmp_path, "a.jsonl")
    assert [dict(row["_texts"])["k"] if row["_texts"] else None for row in rows] == ["1", None, "3", "4"]
    assert [row["_offset"] for row in rows] == [0, 1, 2, 3]
    assert rows[0]["_kinds"] == [("new", "double")]
    assert rows[1]["_unreadable"] == 'line 3: bytes that are no text in the file\'s encoding: {"k": \\xff}'
    (tmp_path / "b.json").write_text('[\n{"k":\n 1},\n{"k": 2}\n]\n')
    assert [row["_texts"] for row in _json(tmp_path, "b.json", multiLine="true")] == [[("k", "1")], [("k", "2")]]
    (refused, *_more) = _json(tmp_path, "b.json")
    assert "line 1: no JSON" in refused["_unreadable"]


def test_a_file_in_one_piece_that_is_too_large_is_one_row_that_says_so_and_what_to_do(tmp_path):
    many = b'[{"k": "' + b"x" * (1 << 20) + b'"}]'
    (tmp_path / "a.json").write_bytes(many)
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(many))
    (tmp_path / "b.json").write_bytes(b'[{"k": 1}]')
    large, packed, small = _json(tmp_path, "a.json", "a.json.gz", "b.json", multiLine="true")
    assert "more than 1 MB of text. Deliver one object a line, or raise ingest.max_file_mb" in large["_unreadable"]
    assert (packed["_unreadable"], small["_texts"]) == (large["_unreadable"], [("k", "1")])
    (line,) = _json(tmp_path, "a.json")
    assert line["_unreadable"] is None, "the bound of a line is another one"


def test_a_message_is_one_object():
    values = [b'{"k": 1}', b'[{"k": 1}, {"k": 2}]', b"\xff", b"", b"(no value)"]
    place = {name: [None] * len(values) for name in ("_op", "_source_file")}
    batch = pa.RecordBatch.from_arrays(
        [
            pa.array(place["_op"], pa.string()),
            pa.array(place["_op"], pa.timestamp("us", "UTC")),
            pa.array(place["_op"], pa.string()),
            pa.array(place["_op"], pa.int64()),
            pa.array(range(len(values)), pa.int64()),
            pa.array(values, pa.binary()),
        ],
        names=["_op", "_changed_at", "_source_file", "_source_version", "_offset", "value"],
    )
    read = json_message_batches(names={"k": "k"}, wants_kinds=False)
    rows = [row for out in read(iter([batch])) for row in out.to_pylist()]
    assert [(row["_offset"], row["_texts"]) for row in rows] == [(0, [("k", "1")]), (1, None), (2, None), (4, None)]
    assert "a message that is not one object" in rows[1]["_unreadable"]
