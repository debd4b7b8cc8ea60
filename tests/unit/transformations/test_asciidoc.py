"""AsciiDoc: what pandoc's reader refuses or cannot say in Markdown is read all the same."""

from __future__ import annotations

import pytest

from transformations.documents import parse_document

TEXT = """= The title
:author: Ann
include::_attributes.adoc[]

First.

ifdef::backend-html5[]
In HTML.
endif::[]

ifndef::env-github[Not there.]

include::chapter.adoc[leveloffset=+1]

== Part

[cols="1,2a"]
|===
|a |b

.2+|tall
|
* one
* two
|3
|4 |5
2+|wide
3*|six
|seven
|===

----
include::code.rb[]
ifdef::x[]
----
"""


def test_directives_lists_in_cells_and_spans_are_read() -> None:
    document = parse_document(TEXT.encode(), path="a.adoc")
    assert (document.title, document.error) == ("The title", None)
    assert document.text == (
        "# The title\n\n`_attributes.adoc`\n\nFirst.\n\nIn HTML.\n\nNot there.\n\n`chapter.adoc`\n\n## Part\n\n"
        "| a | b |\n| --- | --- |\n| tall | - one - two |\n| tall | 3 |\n| 4 | 5 |\n| wide |  |\n"
        "| six | six |\n| six | seven |\n\n```\ncode.rb\n```"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("= T\n:a: b\ninclude::x.adoc[]\n\ninclude::y.adoc[]\n\nText.", "# T\n\n`x.adoc`\n\n`y.adoc`\n\nText."),
        ("= T\nAnn <a@b.c>\n\ninclude::y.adoc[]\n", "# T\n\n`y.adoc`"),
        ('[id="t"]\ninclude::x.adoc[]\n= T\n:toc:\n\ninclude::y.adoc[]\n', "# T\n\n`x.adoc`\n\n`y.adoc`"),
        ("include::x.adoc[]\n\n= T\n\nText.", "# T\n\n`x.adoc`\n\nText."),
        ("// A comment.\ninclude::x.adoc[]\ninclude::y.adoc[]\n= T\n\nText.", "# T\n\n`x.adoc`\n\n`y.adoc`\n\nText."),
        ("include::x.adoc[]\n= T\n:a: b", "# T\n\n`x.adoc`"),
        ("// No title.\n\ninclude::x.adoc[]\n\ninclude::y.adoc[]\n", "`x.adoc`\n\n`y.adoc`"),
    ],
)
def test_each_include_is_named_and_the_title_stays_one_wherever_it_stands(text: str, expected: str) -> None:
    assert parse_document(text.encode(), path="a.adoc").text == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("video::film.mp4[width=640]", "`film.mp4`"),
        ('audio::sound.ogg[title="How it sounds"]', "How it sounds\n\n`sound.ogg`"),
        ('image::pump.png[The pump, 300, title="The whole, seen from above"]', "The whole, seen from above"),
        ("----\nvideo::film.mp4[title=It]\n----", "```\nvideo::film.mp4[title=It]\n```"),
    ],
)
def test_a_film_and_a_title_among_attributes_do_not_vanish(text: str, expected: str) -> None:
    found = parse_document(f"= T\n\nBefore.\n\n{text}\n\nAfter.\n".encode(), path="a.adoc").text
    assert expected in found, found
