"""Formats of bytes, AsciiDoc and CSV: what becomes of the whole ones, and what is said of the broken ones."""

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import files
from transformations.documents import FORMATS, parse_document
from transformations.documents.archive import MAX_INFLATED_BYTES
from transformations.documents.page_lines import WORD_BREAK, paragraphs, without_running_heads

MORE = [".ipynb", ".epub", ".odt", ".rtf", ".json", ".xml"]
SUFFIXES = [".pdf", ".docx", ".docm", ".pptx", ".xlsx", ".xlsm", ".adoc", ".eml", ".csv", ".tsv", ".html", ".rst"]


def _error(content: bytes, suffix: str) -> str:
    document = parse_document(content, path=f"a{suffix}")
    assert document.text == ""
    return document.error or ""


def test_a_pdf_gives_paragraphs_title_and_metadata() -> None:
    lines = ["The first paragraph has a line that is full and", "goes on here.", "- an item", "Another one, last."]
    document = parse_document(files.pdf(lines, ["Page two."], title="Of things"), path="a.pdf")
    assert document.error is None
    assert document.text == (
        "The first paragraph has a line that is full and goes on here.\n\n"
        "\\- an item\n\nAnother one, last.\n\nPage two."
    )
    assert (document.title, document.encoding) == ("Of things", None)
    assert document.metadata == {"author": "Ann", "created_at": "2024-08-22T12:54:27", "pages": "2"}


def test_a_pdf_without_text_an_encrypted_one_half_a_one_and_a_picture_are_refused_with_the_reason() -> None:
    whole = files.pdf(["Some text that is long enough to be cut."])
    assert _error(files.pdf([], []), ".pdf").startswith("empty: none of 2 pages has text; text in pictures")
    assert _error(files.pdf(["secret"], encrypted=True), ".pdf").startswith("encrypted: a password is needed")
    assert re.match(r"unparseable: Failed to load document .*; it begins with b'.+PNG", _error(files.PNG, ".pdf"))
    half = parse_document(whole[: len(whole) // 2], path="a.pdf")
    assert half.error is None or half.error.startswith(("unparseable", "empty"))


def test_lines_of_pages_become_paragraphs_with_whole_words_and_without_page_numbers() -> None:
    full = "This line is as long as the others of its page are,"
    pages = [
        [
            "The book",
            "Chapter one",
            full,
            f"and its last word is bro{WORD_BREAK}",
            "ken. End.",
            "(1) An item",
            full,
            "1",
        ],
        [
            "The book",
            "which goes on. A state-of" + WORD_BREAK,
            "the-art well" + WORD_BREAK,
            "known well-known",
            full,
            "2",
        ],
        ["The book", "and ends.", "Page 3 of 4"],
        ["The book", "Last.", "- 4 -"],
    ]
    found = list(paragraphs(pages, headings={(0, "chapterone"): 1}))
    assert found == [
        ("The book", 0),
        ("Chapter one", 1),
        (f"{full} and its last word is broken. End.", 0),
        ("(1) An item", 0),
        (f"{full} which goes on. A state-of-the-art well-known well-known", 0),
        (f"{full} and ends.", 0),
        ("Last.", 0),
    ]
    assert without_running_heads([["1", "a"], ["2", "b"]]) == [["1", "a"], ["2", "b"]]


LINES = st.lists(st.sampled_from(["Invoice 7", "0 0 0", "1", "2", "3", "Total", "a b", "iv", "Page 2"]), max_size=6)


@settings(max_examples=300, deadline=None)
@given(st.lists(LINES, max_size=7))
def test_no_line_of_a_pdf_is_lost_but_for_numbers_of_pages(pages: list[list[str]]) -> None:
    said = {line for page in pages for line in page}
    kept = without_running_heads(pages)
    told = " ".join(text for text, _ in paragraphs(pages, headings={})).split()
    assert all(line for page, lines in zip(pages, kept, strict=True) if page for line in lines)
    for line in said - {line for page in kept for line in page}:
        assert line in ("1", "2", "3", "iv", "Page 2")
    assert sorted(" ".join(line for page in kept for line in page).split()) == sorted(told)


def test_what_differs_on_each_page_is_kept_in_its_place() -> None:
    """A number of an invoice, a row of a table and the one line of a slide are no page numbers."""
    invoices = [[f"Invoice {1000 + n}", f"Customer {n} pays.", f"Total: {40 + 17 * n} EUR"] for n in range(4)]
    rows = [[f"{40 * page + n} {3 * n} {5 * n}" for n in range(40)] for page in range(4)]
    slides = [[f"Slide {n}"] for n in range(1, 6)]
    numbers = [[str(n)] for n in range(1, 6)]
    for pages in (invoices, rows, slides, numbers):
        assert without_running_heads(pages) == pages
        told = " ".join(text for text, _ in paragraphs(pages, headings={}))
        assert told == " ".join(line for page in pages for line in page)


def _fault(shared_data: Path, name: str) -> bytes:
    file = shared_data / "faults" / "documents" / name
    if not file.is_file():
        pytest.skip(f"no {file}")
    return file.read_bytes()


def test_lines_of_pages_that_differ_in_numbers_are_no_running_heads(shared_data: Path) -> None:
    invoices = parse_document(_fault(shared_data, "f01_invoice_numbers.pdf"), path="a.pdf").text
    for place, (customer, total) in enumerate(zip("ABCD", (40, 57, 74, 91), strict=True)):
        assert f"Invoice {1000 + place}\n" in invoices
        assert f"Customer {customer} bought {place + 2} kettles" in invoices
        assert f"Total: {total} EUR" in invoices
    slides = parse_document(_fault(shared_data, "f02_one_line_pages.pdf"), path="a.pdf").text
    assert slides.split("\n\n") == [f"Slide {number}" for number in range(1, 6)]


def test_a_table_over_several_pages_keeps_every_row(shared_data: Path) -> None:
    text = parse_document(_fault(shared_data, "f03_table_over_pages.pdf"), path="a.pdf").text
    rows = re.findall(r"(\d+) (\d+) (\d+)", text)
    assert [int(number) for number, _, _ in rows] == [*range(len(rows))]
    assert len(rows) >= 120
    assert len(text.split()) == 3 * len(rows)


def test_xhtml_is_read_by_its_suffix() -> None:
    page = (
        b"<?xml version='1.0'?><html xmlns='http://www.w3.org/1999/xhtml'><body><h1>A</h1><p>One two.</p></body></html>"
    )
    assert parse_document(page, path="a.XHTML").text == "# A\n\nOne two."


def test_a_form_and_annotations_of_a_pdf_are_told(shared_data: Path) -> None:
    text = parse_document(_fault(shared_data, "f06_form.pdf"), path="a.pdf").text
    assert text.split("\n\n") == [
        *("Name of the applicant:", "applicant: Berta Lindqvist", "Reviewer: check the sum.", "Free text on the page")
    ]


def test_a_word_document_gives_headings_tables_and_properties() -> None:
    heading = '<w:p><w:pPr><w:pStyle w:val="Heading1"/></w:pPr><w:r><w:t>Part</w:t></w:r></w:p>'
    cell = "<w:tc><w:p><w:r><w:t>{}</w:t></w:r></w:p></w:tc>"
    table = (
        f"<w:tbl><w:tr>{cell.format('a')}{cell.format('b')}</w:tr><w:tr>{cell.format(1)}{cell.format(2)}</w:tr></w:tbl>"
    )
    styles = (
        '<w:styles xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main">'
        '<w:style w:type="paragraph" w:styleId="Heading1"><w:name w:val="heading 1"/></w:style></w:styles>'
    )
    document = parse_document(files.docx(heading + table, **{"word/styles.xml": styles.encode()}), path="a.docx")
    assert document.error is None
    assert document.text.startswith("# Part")
    assert "| 1 | 2 |" in document.text
    assert (document.title, document.metadata) == ("A title", {"author": "Ann"})


def test_macros_are_noted_and_the_text_is_taken() -> None:
    document = parse_document(files.docx(**{"word/vbaProject.bin": b"macro"}), path="a.docm")
    assert (document.text, document.metadata["has_macros"]) == ("Some text.", "true")


@pytest.mark.parametrize("suffix", [".docx", ".xlsx", ".pptx"])
def test_an_archive_that_inflates_without_end_is_refused_before_it_is_read(suffix: str) -> None:
    bomb = files.archive({"word/document.xml": bytes(64 * 1024 * 1024)})
    reason = _error(bomb, suffix)
    assert reason.startswith(f"too_large: {len(bomb)} bytes inflate to {64 * 1024 * 1024}; the limits are")
    # One whose directory says less than it holds: no more than that is ever inflated.
    lying = bomb.replace((64 * 1024 * 1024).to_bytes(4, "little"), (1000).to_bytes(4, "little"))
    assert lying != bomb
    assert _error(lying, suffix).startswith("unparseable")
    assert MAX_INFLATED_BYTES > 64 * 1024 * 1024


def test_an_archive_in_an_archive_is_not_opened() -> None:
    inner = files.archive({"word/document.xml": b"<never/>"})
    document = parse_document(files.docx(**{"word/embeddings/inner.docx": inner}), path="a.docx")
    assert document.text == "Some text."
    assert _error(files.archive({"a.docx": inner}), ".docx").startswith("unparseable: an archive without word/doc")


def test_office_files_of_other_kinds_are_told_apart() -> None:
    ole = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(100)
    assert _error(ole + "EncryptedPackage".encode("utf-16-le"), ".docx").startswith("encrypted: ")
    assert _error(ole, ".xlsx").startswith("unparseable: an Office file of the old binary kind")
    assert _error(files.PNG, ".pptx").startswith("unparseable: File is not a zip file; it begins with b'\\x89PNG")
    assert _error(files.docx(), ".xlsx").startswith("unparseable: an archive without xl/workbook.xml")


@pytest.mark.parametrize("suffix", [".docx", ".html", ".rst", ".adoc", ".md"])
def test_no_document_reads_a_file_of_the_machine(suffix: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("the-secret-word")
    entity = f'<!DOCTYPE w [<!ENTITY x SYSTEM "file://{secret}">]>'
    content = {
        ".docx": files.docx("<w:p><w:r><w:t>Some text &x;.</w:t></w:r></w:p>", head=entity),
        ".html": f"{entity}<html><body><p>Text &x; text.</p><iframe src='file://{secret}'></iframe></body></html>".encode(),
        ".rst": f"Text\n\n.. include:: {secret}\n\n.. raw:: html\n   :file: {secret}\n".encode(),
        ".adoc": f"= Title\n\nText\n\ninclude::{secret}[]\n\nimage::{secret}[]\n".encode(),
        ".md": f"Text\n\n![x]({secret})\n\n<!--#include file='{secret}'-->".encode(),
    }[suffix]
    document = parse_document(content, path=f"a{suffix}")
    assert "the-secret-word" not in document.text
    assert document.error is None or document.error.startswith(("unparseable", "empty"))


def test_entities_that_multiply_are_refused_or_left_alone() -> None:
    bomb = '<!DOCTYPE w [<!ENTITY a "ha">' + "".join(
        f'<!ENTITY {chr(98 + n)} "{f"&{chr(97 + n)};" * 10}">' for n in range(12)
    )
    document = parse_document(files.docx("<w:p><w:r><w:t>&m;</w:t></w:r></w:p>", head=bomb + "]>"), path="a.docx")
    assert len(document.text) < 1_000_000
    assert document.error is None or document.error.startswith(("unparseable", "empty"))


def test_a_workbook_gives_a_table_for_each_run_of_rows_and_the_values_as_they_are() -> None:
    rows = [["name", None, "n"], ["a|b", None, 1.0], [None, None, None], ["2024", None, 0.1 + 0.2]]
    document = parse_document(files.xlsx(rows), path="a.xlsx")
    assert document.text == ("# Sheet\n\n| name | n |\n| --- | --- |\n| a\\|b | 1 |\n\n| 2024 | 0.3 |\n| --- | --- |")
    assert document.metadata["sheets"] == "Sheet"


def test_slides_are_sections_with_their_notes() -> None:
    document = parse_document(files.pptx("Results *now*", "First", "Second"), path="a.pptx")
    assert document.text == "# Results \\*now\\*\n\nFirst\n\nSecond\n\nSaid aloud."
    assert document.metadata["slides"] == "1"


def test_asciidoc_gives_its_title_headings_and_attributes() -> None:
    text = "= The title\n:author: Ann\n:revdate: 2024-08-22\n\nText *bold*.\n\n== Part\n\n|===\n|a |b\n\n|1 |2\n|===\n"
    document = parse_document(text.encode(), path="a.adoc")
    assert document.text.startswith("# The title\n\nText **bold**.\n\n## Part\n\n| a")
    assert (document.title, document.metadata) == ("The title", {"author": "Ann", "created_at": "2024-08-22"})


def test_a_message_gives_subject_body_and_the_names_of_its_attachments() -> None:
    document = parse_document(files.message("Dear Bob,\n\n# no heading\n", attachments=2), path="a.eml")
    assert document.text == "# A subject\n\nDear Bob,\n\n\\# no heading\n\nAttachments: 0.zip, 1.zip"
    assert document.title == "A subject"
    assert document.metadata == {
        "author": "Ann <ann@example.org>",
        "to": "bob@example.org",
        "created_at": "2024-08-22T12:54:27+02:00",
        "attachments": "0.zip, 1.zip",
    }
    html = b"Subject: s\nContent-Type: text/html; charset=latin-1\n\n<p>Caf\xe9 in the old town.</p>"
    assert parse_document(html, path="a.eml").text == "# s\n\nCafé in the old town."
    assert _error(b"just text\n\nmore", ".eml").startswith("unparseable: no message")
    assert _error(b"Subject: s\nContent-Type: text/plain; charset=klingon\n\ncaf\xe9", ".eml").startswith("wrong_enc")


def test_a_message_of_messages_without_end_is_no_crash() -> None:
    boxed = b"Subject: inner\n\ntext"
    for _ in range(1500):
        boxed = b"Subject: outer\nContent-Type: message/rfc822\n\n" + boxed
    document = parse_document(boxed, path="a.eml")
    assert document.error is None or document.error.startswith("unparseable: RecursionError")
    many = files.message("Body.", attachments=300)
    assert len(parse_document(many, path="a.eml").metadata["attachments"]) <= 1000


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        (b'a,b\n1,"x, y"\n', ["| a | b |", "| 1 | x, y |"]),
        (b"a;b\n1;2,5\n", ["| a | b |", "| 1 | 2,5 |"]),
        (b"a\tb\n1\t\n", ["| a | b |", "| 1 |  |"]),
        (b'a,b\n1,"two\nlines"\n3,4,5\n', ["| a | b |  |", "| 1 | two lines |  |", "| 3 | 4 | 5 |"]),
        (b"name, of all;n\nx;1\ny;2\n", ["| name, of all | n |", "| x | 1 |", "| y | 2 |"]),
        (b"a\tb, c, d\n1\t2\n3\t4, 5\n", ["| a | b, c, d |", "| 1 | 2 |", "| 3 | 4, 5 |"]),
        (b"a;b\n1,5;2,5\n2,5;3,5\n", ["| a | b |", "| 1,5 | 2,5 |", "| 2,5 | 3,5 |"]),
        (b"name,\nx,1\ny,2\n", ["| name |  |", "| x | 1 |", "| y | 2 |"]),
    ],
)
def test_csv_becomes_a_table(content: bytes, rows: list[str]) -> None:
    header, rule, *others = parse_document(content, path="a.csv").text.split("\n")
    assert [header, *others] == rows
    assert set(rule) == set("| -")


def test_lines_above_a_table_of_a_csv_are_its_title() -> None:
    text = parse_document(b"Report, 2024\n\nname;n\nx;1\ny;2\n", path="a.csv").text
    assert text == "Report, 2024\n\n| name | n |\n| --- | --- |\n| x | 1 |\n| y | 2 |"


@pytest.mark.parametrize("content", [b'a,b\n1,"open\n2,3\n', b'a,b\n1,"shut"again\n'])
def test_a_broken_quote_is_refused_with_its_line(content: bytes) -> None:
    assert re.match(r"unparseable: line \d: .*; is a quote broken\?", _error(content, ".csv"))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_empty_file_of_any_format_is_empty_and_a_picture_under_its_name_is_refused(suffix: str) -> None:
    assert _error(b"", suffix).startswith("empty")
    assert _error(b" \n ", suffix).startswith("empty")
    assert _error(files.PNG, suffix).startswith(("unparseable", "not_text"))


def test_metadata_is_bounded_and_every_format_has_a_suffix() -> None:
    from transformations.documents import format_of

    fields = "\n".join(f"k{n}: {'v' * 2000}" for n in range(100))
    document = parse_document(f"---\n{fields}\n---\ntext".encode(), path="a.md")
    assert len(document.metadata) == 32
    assert {len(value) for value in document.metadata.values()} == {1000}
    assert {format_of(f"a{suffix}") for suffix in [*SUFFIXES, *MORE, ".md", ".txt"]} == set(FORMATS)
