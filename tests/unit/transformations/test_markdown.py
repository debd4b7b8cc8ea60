"""Markdown: what is no text for a reader goes, and what a site shows stays."""

from __future__ import annotations

import pytest

from transformations.documents import ParsedDocument, parse_document
from transformations.text.blocks import split_blocks


def _parsed(text: str, path: str = "a.md") -> ParsedDocument:
    return parse_document(text.encode(), path=path)


@pytest.mark.parametrize(
    ("front", "title", "metadata"),
    [
        ("+++\ntitle = 'Of pumps'\ntags = ['a', 'b']\n[extra]\nx = 1\n+++", "Of pumps", {"tags": "a, b"}),
        ("---\ntitle: Pumps: oil\nlayout: x\n---", "Pumps: oil", {"layout": "x"}),
        ("---\ntitle: 'Open\ntags: [x\n  - y\n---", "Open", {"tags": "[x"}),
        ("---\ntitle: Tab\n\tkey: x\n---", "Tab", {}),
    ],
)
def test_front_matter_is_never_a_heading(front: str, title: str, metadata: dict[str, str]) -> None:
    document = _parsed(f"{front}\n\n## Part\n\ntext")
    assert (document.title, document.metadata) == (title, metadata)
    assert [block.heading_path for block in split_blocks(document.text)] == [(title, "Part")]


def test_a_heading_path_has_no_tags_comments_or_names() -> None:
    text = '# <a id="x"></a>The `code` <!-- omit in toc --> {#the-title .wide}\n\n## Set {1, 2}\n\ntext'
    assert split_blocks(_parsed(text).text)[0].heading_path == ("The code", "Set {1, 2}")


def test_comments_go_wherever_they_stand_and_stay_where_they_are_code() -> None:
    text = """a <!-- one --> b `<!-- two -->`

    <!-- three -->

- item

    <!-- four -->
    goes on

<!-- ```
five -->
c <!-- six
seven --> d {/* eight */}

```html
<!-- nine -->
```"""
    kept = _parsed(text).text
    assert [word in kept for word in ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]] == [
        *(False, True, True, False, False, False, False, True, True)
    ]
    assert "c  d" in kept
    assert _parsed("a {/* b */} c\n\n`{/* d */}`", "a.mdx").text == "a  c\n\n`{/* d */}`"


def test_boxes_and_tabs_of_mkdocs_are_text_under_their_labels() -> None:
    text = """!!! warning "Hot oil"
    Mind *this*.

    ```py
    !!! no
        box
    ```

    ??? tip
        Inner.

=== "Linux"

    - one

After."""
    blocks = [(block.kind, block.text) for block in split_blocks(_parsed(text).text)]
    assert blocks == [
        ("paragraph", "Hot oil:"),
        ("paragraph", "Mind *this*."),
        ("code", "```py\n!!! no\n    box\n```"),
        ("paragraph", "Tip:"),
        ("paragraph", "Inner."),
        ("paragraph", "Linux:"),
        ("list", "- one"),
        ("paragraph", "After."),
    ]


@pytest.mark.parametrize("suffix", [".md", ".txt", ".html", ".rst", ".adoc", ".eml"])
def test_a_picture_that_stands_in_the_text_as_data_is_named_only(suffix: str) -> None:
    data = f"data:image/png;base64,{'iVBORw0KGgo/+' * 3000}=="
    content = {
        ".md": f"before ![A pump]({data}) after",
        ".txt": f"before {data} after",
        ".html": f"<p>before <img src='{data}' alt='A pump'> after {data}</p>",
        ".rst": f"before\n\n.. image:: {data}\n\nafter {data}",
        ".adoc": f"before image:{data}[A pump] after",
        ".eml": f"Subject: s\n\nbefore {data} after",
    }[suffix]
    document = _parsed(content, f"a{suffix}")
    assert document.error is None
    assert "iVBO" not in document.text
    assert len(document.text) < 200
    assert {"before", "after"} <= set(document.text.split())
    assert _parsed("see `data:text/plain,hello`").text == "see `data:text/plain,hello`"


def test_cells_beyond_the_header_and_columns_without_cells_are_in_a_block() -> None:
    text = "| a | b | c |\n| --- | --- | --- |\n| 1 | | | 4 |\n| | 2 \\| 3 |"
    assert [block.text for block in split_blocks(text)] == ["a | b | c", "a: 1 | 4", "b: 2 | 3"]
