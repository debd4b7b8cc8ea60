"""Formats that pandoc reads, and data: what becomes of the whole ones, and what is said of the broken ones."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pypandoc
import pytest

from tests.support import files
from transformations.documents import parse_document

_TEXT = "---\ntitle: The pump\nauthor: Ann\n---\n# Part\n\nSome text.\n\n| a | b |\n|---|---|\n| 1 | 2 |\n"


@pytest.mark.parametrize("kind", ["odt", "epub", "rtf"])
def test_what_pandoc_writes_comes_back_with_its_headings_and_tables(kind: str, tmp_path: Path) -> None:
    file = tmp_path / f"a.{kind}"
    command = [pypandoc.get_pandoc_path(), "-f", "markdown", "-t", kind, "-s", "-o", str(file)]
    subprocess.run(command, input=_TEXT.encode(), check=True)
    document = parse_document(file.read_bytes(), path=file.name)
    assert document.error is None
    assert "# Part\n\nSome text." in document.text
    head, _, row = document.text.strip().split("\n")[-3:]
    assert [head.split(), row.split()] == [["|", "a", "|", "b", "|"], ["|", "1", "|", "2", "|"]]
    assert "The pump" in (document.title or "") + document.text


def test_a_notebook_gives_its_texts_its_code_and_what_it_printed() -> None:
    printed = {"output_type": "stream", "name": "stdout", "text": ["printed\n"]}
    cells = [
        {"cell_type": "markdown", "metadata": {}, "source": ["# Title\n", "words"]},
        {"cell_type": "code", "metadata": {}, "execution_count": 1, "source": ["print(1)"], "outputs": [printed]},
    ]
    notebook = {"nbformat": 4, "nbformat_minor": 4, "metadata": {}, "cells": cells}
    document = parse_document(json.dumps(notebook).encode(), path="a.ipynb")
    assert (document.error, document.title) == (None, "Title")
    assert document.text.split() == [
        *("#", "Title", "words", "```python", "print(1)", "```", "```", "printed", "```"),
    ]


_GRID = """\
Before.[^1]

+-------+-------+
| a     | b     |
+=======+=======+
| - one | two   |
| - 2   |       |
|       | three |
+-------+-------+

[^1]: A note.
"""


@pytest.mark.parametrize(("kind", "cell"), [("odt", "- one - 2"), ("epub", "- one - 2"), ("rtf", "• one • 2")])
def test_a_list_or_two_paragraphs_in_a_cell_are_read(kind: str, cell: str, tmp_path: Path) -> None:
    file = tmp_path / f"a.{kind}"
    command = [pypandoc.get_pandoc_path(), "-f", "markdown", "-t", kind, "-s", "-o", str(file)]
    subprocess.run(command, input=_GRID.encode(), check=True)
    text = parse_document(file.read_bytes(), path=file.name).text
    assert f"| a | b |\n| --- | --- |\n| {cell} | two three |" in text
    assert kind == "rtf" or ("1. A note." in text and "↩" not in text)  # pandoc writes a note that it does not read


def test_html_and_formulas_in_the_markdown_of_a_notebook_are_read() -> None:
    source = (
        "<table><tr><th>a</th></tr><tr><td><ul><li>one</li><li>two</li></ul></td></tr></table>\n\n"
        'Shown: <img alt="a pump" src="x.png">\n\nIt is $x_{1}*y_{2}*z$.'
    )
    cells = [{"cell_type": "markdown", "metadata": {}, "source": [source]}]
    notebook = {"nbformat": 4, "nbformat_minor": 4, "metadata": {}, "cells": cells}
    document = parse_document(json.dumps(notebook).encode(), path="a.ipynb")
    assert document.text == ("| a |\n| --- |\n| - one - two |\n\nShown: a pump\n\nIt is `x_{1}*y_{2}*z`.")


def test_a_list_of_flat_objects_is_a_table_and_other_json_is_laid_out_with_its_numbers() -> None:
    table = parse_document(b'[{"a": 1.10, "b": "x|y"}, {"a": 2, "c": true}]', path="a.json").text
    assert table.split("\n")[2:] == ["| 1.10 | x\\|y |  |", "| 2 |  | true |"]
    laid_out = parse_document(
        b'{"title": "T", "n": [1.10, 1e400, 12345678901234567890.5], "k": 1, "k": 2}', path="a.json"
    )
    assert laid_out.title == "T"
    assert laid_out.text.split() == [
        *("```json", "{", '"title":', '"T",', '"n":', "[", "1.10,", "1e400,", "12345678901234567890.5", "],"),
        *('"k":', "1,", '"k":', "2", "}", "```"),
    ]


def test_objects_that_share_no_names_are_laid_out_and_not_a_table_of_blanks() -> None:
    """90 kB were 11 MB of Markdown."""
    few, many = ([{f"name {n}": n} for n in range(count)] for count in (10, 3000))
    assert parse_document(json.dumps(few).encode(), path="a.json").text.count("\n") == 11
    laid_out = parse_document(json.dumps(many).encode(), path="a.json").text
    assert laid_out.startswith("```json\n[\n {")
    assert len(laid_out) < 200_000


def test_a_fence_is_longer_than_any_run_of_backticks_in_the_code() -> None:
    assert parse_document(b'["````"]', path="a.json").text == '`````json\n[\n "````"\n]\n`````'


def test_xml_is_its_text_and_resolves_nothing(tmp_path: Path) -> None:
    document = parse_document(
        '<?xml version="1.0" encoding="iso-8859-1"?><r><title>T\xe9</title></r>'.encode("latin-1"), path="a.xml"
    )
    assert (document.title, document.text) == ("T\xe9", "```xml\n<r><title>T\xe9</title></r>\n```")
    entity = f'<!DOCTYPE r [<!ENTITY x SYSTEM "file://{tmp_path}">]><r>&x;</r>'.encode()
    assert (parse_document(entity, path="a.xml").error or "").startswith("unparseable: it refers to the entity 'x'")


@pytest.mark.parametrize("suffix", [".ipynb", ".epub", ".odt", ".rtf", ".json", ".xml"])
def test_what_is_broken_or_another_format_is_refused_with_a_reason(suffix: str) -> None:
    for content in (b"", b"{", files.PNG, files.docx(), b"[" * 3000):
        reason = parse_document(content, path=f"a{suffix}").error or ""
        assert reason.startswith(("empty", "unparseable", "not_text", "wrong_encoding")), (content[:20], reason)
