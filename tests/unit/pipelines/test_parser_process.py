"""What a document can do to the process that parses it, and that the next one does not notice."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.documents.parser_process import Limits, ParserProcess
from tests.support import files
from tests.support.hostile import SEGFAULT
from transformations.documents import parse_document
from transformations.errors import ConfigurationError, LakeloopError, MissingDependencyError

HOSTILE = "tests.support.hostile:parse"


@pytest.fixture(scope="module")
def hostile() -> Iterator[ParserProcess]:
    with ParserProcess(Limits(1, 512), parser=HOSTILE) as process:
        yield process


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"!sleep", "timed_out: no result in time (parse.timeout_seconds 1)"),
        (
            SEGFAULT,
            "crashed: the process that parsed it ended by SIGSEGV (parse.timeout_seconds 1, parse.memory_mb 512)",
        ),
        (
            b"!exit",
            "crashed: the process that parsed it ended by exit status 3 (parse.timeout_seconds 1, parse.memory_mb 512)",
        ),
        (b"!allocate", "out_of_memory: the parser wanted more than it may have (parse.memory_mb 512)"),
    ],
)
def test_a_document_that_ends_the_process_comes_back_with_the_reason_and_the_next_is_parsed(
    hostile: ParserProcess, content: bytes, reason: str
):
    assert hostile.parse(content, path="a.md").error == reason
    assert hostile.parse("# Café\n\ntext".encode(), path="a.md") == parse_document(
        "# Café\n\ntext".encode(), path="a.md"
    )


def test_what_a_parser_prints_is_no_reply(hostile: ParserProcess):
    assert hostile.parse(b"!print", path="a.md").text == "!print"


def test_a_program_that_a_parser_started_goes_with_it(hostile: ParserProcess, tmp_path: Path):
    noted = tmp_path / "pid"
    assert (hostile.parse(f"!child {noted}".encode(), path="a.md").error or "").startswith("timed_out")
    child = int(noted.read_text())
    for _ in range(100):
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            return
        if "Z" in Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[:1]:
            return  # killed; whoever is its parent now has not yet asked
        time.sleep(0.05)
    raise AssertionError(f"process {child} outlived the parser that started it")


def test_a_parser_sees_no_secret_of_the_environment(hostile: ParserProcess, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LAKELOOP_TOKEN", "secret")
    hostile.close()
    assert "LAKELOOP_TOKEN" not in hostile.parse(b"!environment", path="a.md").text.split()


def test_one_process_serves_many_documents_and_none_is_started_without_one():
    with ParserProcess(Limits(60, 512)) as process:
        assert process._process is None
        process.parse(b"a", path="a.md")
        first = process._process
        for number in range(200):
            assert process.parse(f"# {number}".encode(), path="a.md").title == str(number)
        assert process._process is first
        large = b"word " * 1_000_000
        assert len(process.parse(large, path="a.txt").text) == len(large) - 1
    assert process._process is None


def test_a_process_that_was_killed_between_two_documents_is_replaced():
    with ParserProcess(Limits(60, 512)) as process:
        process.parse(b"a", path="a.md")
        assert process._process is not None
        process._process.kill()
        process._process.wait()
        assert process.parse(b"b", path="a.md").text == "b"


def test_a_document_that_inflates_beyond_the_memory_limit_is_out_of_memory_and_the_next_is_parsed():
    paragraph = b"<w:p><w:r><w:t>Some text that fills the memory with nodes.</w:t></w:r></w:p>"
    within_the_archive_limits = files.docx((paragraph * 400_000).decode())
    with ParserProcess(Limits(120, 300)) as process:
        reason = process.parse(within_the_archive_limits, path="a.docx").error or ""
        assert reason.startswith(
            ("out_of_memory: the parser wanted more than it may have (parse.memory_mb 300)", "too_large")
        )
        assert process.parse(files.docx(), path="a.docx").text == "Some text."


def test_a_page_nested_without_end_gives_text_or_a_reason():
    page = b"<html><body>" + b"<div><b>" * 600_000 + b"text" + b"</b></div>" * 600_000
    with ParserProcess(Limits(60, 1024)) as process:
        document = process.parse(page, path="a.html")
        assert document.text or (document.error or "").startswith(
            ("empty", "unparseable", "crashed", "timed_out", "out_of_memory")
        )
        assert process.parse(b"<p>Some text.</p>", path="a.html").text == "Some text."


def test_a_parser_that_cannot_be_loaded_is_no_property_of_the_document(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    with ParserProcess(Limits(60, 64)) as process, pytest.raises((ConfigurationError, LakeloopError), match="parse"):
        process.parse(files.docx(), path="a.docx")
    (tmp_path / "mammoth.py").write_text("raise ModuleNotFoundError('gone', name='mammoth')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with (
        ParserProcess(Limits(60, 512)) as process,
        pytest.raises(MissingDependencyError, match=r"'mammoth'.*pip install 'lakeloop\[documents\]'"),
    ):
        process.parse(files.docx(), path="a.docx")
    with (
        ParserProcess(Limits(60, 512), parser="no.such:parser") as process,
        pytest.raises(LakeloopError, match=r"the process that parses ended before it was given 'a.md'.*try: "),
    ):
        process.parse(b"a", path="a.md")


def test_what_a_document_gives_is_bounded_too_and_a_higher_limit_lets_it_be_tried_again():
    """A workbook of a few kB whose one long text stands in many cells."""
    workbook = files.repeated("w " * 500_000, cells=10)
    assert len(workbook) < 20_000
    with ParserProcess(Limits(60, 1024, 4)) as process:
        reason = process.parse(workbook, path="a.xlsx").error or ""
        assert reason.startswith("too_large: it has ")
        assert reason.endswith(" bytes of text (parse.max_text_mb 4)")
    with ParserProcess(Limits(60, 1024, 16)) as process:
        assert process.parse(workbook, path="a.xlsx").error is None
    assert [Limits(60, 1024, mb).allow_more_than(reason) for mb in (3, 4, 5)] == [False, False, True]


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("timed_out: no result in time (parse.timeout_seconds 60)", True),
        ("timed_out: no result in time (parse.timeout_seconds 90.5)", False),
        ("out_of_memory: the parser wanted more than it may have (parse.memory_mb 512)", True),
        ("out_of_memory: the parser wanted more than it may have (parse.memory_mb 1e+06)", False),
        ("crashed: … ended by SIGKILL (parse.timeout_seconds 90, parse.memory_mb 512)", True),
        ("too_large: 60000000 bytes, ingest.max_file_mb is 50", False),
        ("unparseable: it says parse.memory_mb 1", False),
    ],
)
def test_a_limit_that_is_higher_than_the_one_of_a_refusal_allows_more(reason: str, expected: bool):
    assert Limits(90, 1024, 16).allow_more_than(reason) is expected
