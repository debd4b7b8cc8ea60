"""The time that work on a text takes grows as the text does, whatever the text is made of."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from html import escape

import pytest

from transformations.documents.data_text import parse_json, parse_xml
from transformations.documents.decode import decode
from transformations.documents.delimited import parse_csv
from transformations.documents.extract import RefusedDocumentError
from transformations.documents.html import parse_html
from transformations.documents.markdown import parse_markdown, parse_mdx
from transformations.documents.plain import escape_inline, parse_plain
from transformations.text.blocks import first_heading, split_blocks
from transformations.text.canonical_text import normalise_text, text_hash, without_data
from transformations.text.language import _prose
from transformations.text.shingles import words

# Characters that some expression or loop may go over again and again.
REPEATED = {
    "blanks": lambda n: "a" + " " * n + "b",
    "tabs": lambda n: "\t" * n + "b",
    "blank lines": lambda n: "\n \n" * n,
    "marks": lambda n: "a" + "\u0315\u0300" * n,
    "marks of marks": lambda n: "a" + "\u0f73" * n,
    "brackets": lambda n: "[" * n,
    "pictures": lambda n: "![a" * n,
    "links": lambda n: "[a](" * n,
    "a long run of backticks": lambda n: "`" * 8 * n,
    "backticks": lambda n: " ".join("`" * (i % 50 + 1) for i in range(n // 25)),
    "comments": lambda n: "<!-- \n" * n,
    "comments in a line": lambda n: "x <!-- {/* " * n,
    "comments of MDX": lambda n: "{/* \n" * n,
    "tags": lambda n: "<Aa\n" * n,
    "attributes": lambda n: "<A b={`" * n,
    "quotes": lambda n: '<A b="' * n,
    "imports": lambda n: "import {\n" * n,
    "fences": lambda n: "```\n" * n,
    "boxes": lambda n: "!!! note\n    x\n" * n,
    "headings": lambda n: "# a\n" * n,
    "a long heading": lambda n: "# " + "[a](b " * n,
    "front matter": lambda n: "---\n" + "a: b\n" * n,
    "wide table": lambda n: "|a" * n + "|\n" + "|-" * n + "|\n" + "|b|\n" * n,
    "data": lambda n: "data:image/png;base64,a " * n,
    "ats": lambda n: "a@" * n,
    "dots": lambda n: "a." * n + "@",
    "elements": lambda n: "<b>a" * n,
    "cells": lambda n: "<table>" + "<tr><td colspan=900>a" * (n // 8),
}


def _fields(text: str) -> dict[str, str]:
    return {f"{n} {part[:9]}": part for n, part in enumerate(text.split())}


WORK: dict[str, Callable[[str], object]] = {
    "normalise_text": normalise_text,
    "text_hash": text_hash,
    "without_data": without_data,
    "words": words,
    "escape_inline": escape_inline,
    "parse_plain": parse_plain,
    "parse_markdown": parse_markdown,
    "parse_mdx": parse_mdx,
    "parse_csv": lambda text: parse_csv(text.replace('"', "").replace("|", ",")),
    "parse_html": parse_html,
    "parse_json": lambda text: parse_json(json.dumps([text])),
    "parse_json of many columns": lambda text: parse_json(json.dumps([_fields(text)] * 2)),
    "parse_json of many names": lambda text: parse_json(json.dumps([{n: p} for n, p in _fields(text).items()])),
    "parse_xml": lambda text: parse_xml(f"<r>{escape(text)}</r>".encode()),
    "decode": lambda text: decode(text.encode(), is_html=True),
    "split_blocks": split_blocks,
    "first_heading": first_heading,
    "prose": _prose,
}


def _seconds(work: Callable[[str], object], text: str) -> float:
    start = time.process_time()
    with suppress(RefusedDocumentError):
        work(text)
    return time.process_time() - start


@pytest.mark.long
@pytest.mark.parametrize("name", WORK)
def test_twice_the_text_takes_about_twice_the_time(name: str) -> None:
    """Sixteen times the text may take 100 times the time at most, where it takes any: its square would be 256 times."""
    work = WORK[name]
    for of, make in REPEATED.items():
        slow = _seconds(work, make(4_000))
        if slow > 0.25:
            quick = min(_seconds(work, make(250)) for _ in range(3))
            if slow >= 100 * quick:  # a first call may load something, and a busy machine stumbles
                slow = min(_seconds(work, make(4_000)) for _ in range(3))
            assert slow < 100 * quick, f"{name} of {of}: {quick} s, and of sixteen times as many {slow} s"


def test_a_table_of_many_columns_and_short_rows_stays_as_long_as_it_was() -> None:
    """11 kB of CSV were 9 MB of Markdown, and three million cells to cut into chunks."""
    table = parse_csv(",".join(f"c{n}" for n in range(1000)) + "\n" + "1\n" * 3000)
    assert len(table.markdown) < 40_000
    blocks = split_blocks(table.markdown)
    assert [blocks[1].text, blocks[-1].text, len(blocks)] == ["c0: 1", "c0: 1", 3001]
    assert blocks[0].text.endswith("c998 | c999")
