import sys

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from transformations.documents import format_of, parse_document
from transformations.errors import MissingDependencyError
from transformations.text.canonical_text import normalise_text

SUFFIXES = [".rst", ".md", ".mdx", ".markdown", ".html", ".htm", ".txt", "", ".PY"]
REASONS = ("empty", "not_text", "wrong_encoding", "unparseable")
MARKUP = st.text(alphabet="ab \n`*_:.|[]<>#-=+\\/{}\"'()1é", max_size=120)


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.binary(max_size=200), MARKUP.map(str.encode)), st.sampled_from(SUFFIXES))
@example(b"\xff\xfe\xd8\xd8", ".txt")
@example(b".. include:: x\n", ".rst")
@example(b"---\ntitle: [\n---\n", ".md")
def test_parse_document_never_raises_and_gives_text_or_a_reason(content: bytes, suffix: str) -> None:
    document = parse_document(content, path=f"a folder/'n{suffix}")
    if document.error is None:
        assert document.text.strip()
        assert document.text == normalise_text(document.text)
        assert document.encoding
    else:
        assert document.text == ""
        assert document.error.startswith(REASONS)


@settings(max_examples=100, deadline=None)
@given(MARKUP, st.sampled_from(SUFFIXES))
def test_parse_document_is_deterministic(text: str, suffix: str) -> None:
    assert parse_document(text.encode(), path=f"a{suffix}") == parse_document(text.encode(), path=f"a{suffix}")


@pytest.mark.parametrize(
    ("path", "expected"),
    [("a.RST", "rst"), ("a/b.mdx", "markdown"), ("a.htm", "html"), ("a.rst/b", "text"), ("\n.md.txt", "text")],
)
def test_the_suffix_decides_the_format(path: str, expected: str) -> None:
    assert format_of(path) == expected


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", "empty: the file has no text"),
        (b" \n\t\r\n", "empty: the file has no text"),
        ("\ufeff".encode(), "empty: the file has no text"),
        (b"text\0more", "not_text: NUL byte at offset 4"),
        (b"\x01\x02\x03abc", "not_text: 3 of 6 bytes are control characters"),
        (b"caf\xe9 au lait", "wrong_encoding: byte 0xe9 at offset 3 is not utf-8; save the file as UTF-8"),
        (b"\xef\xbb\xbfab\xff", "wrong_encoding: byte 0xff at offset 5 is not utf-8; save the file as UTF-8"),
    ],
)
def test_bytes_that_are_no_utf8_text_are_refused_with_the_place(content: bytes, error: str) -> None:
    document = parse_document(content, path="a.txt")
    assert (document.error, document.text) == (error, "")


@pytest.mark.parametrize(
    ("encoding", "named"), [("utf-8-sig", "utf-8"), ("utf-16", "utf-16"), ("utf-32", "utf-32"), ("utf-8", "utf-8")]
)
def test_a_byte_order_mark_decides_the_encoding(encoding: str, named: str) -> None:
    document = parse_document("Grüße, 世界".encode(encoding), path="a.txt")
    assert (document.text, document.encoding) == ("Grüße, 世界", named)


def test_half_a_utf16_character_is_a_wrong_encoding() -> None:
    document = parse_document("ab".encode("utf-16")[:-1], path="a.txt")
    assert (document.error or "").startswith("wrong_encoding")


def test_html_may_declare_its_encoding_and_nothing_else_may() -> None:
    page = "<html><head><meta charset='latin-1'></head><body><p>Café in the old town.</p></body></html>"
    document = parse_document(page.encode("latin-1"), path="a.html")
    assert (document.text, document.encoding) == ("Café in the old town.", "cp1252")
    assert (parse_document(page.encode("latin-1"), path="a.md").error or "").startswith("wrong_encoding")
    unknown = parse_document(page.replace("latin-1", "klingon").encode("latin-1"), path="a.html")
    assert (unknown.error or "").startswith("wrong_encoding: cannot decode as 'klingon'")


def test_nesting_without_end_is_unparseable_and_no_crash() -> None:
    nested = b"".join(b" " * depth + b"- a\n\n" for depth in range(0, 1200, 2))
    assert (parse_document(nested, path="a.rst").error or "").startswith("unparseable: RecursionError: ")
    assert parse_document(b"> " * 5000 + b"a", path="a.md").error is None


def test_a_missing_parser_is_no_property_of_the_document(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "transformations.documents.html", raising=False)
    monkeypatch.setitem(sys.modules, "trafilatura", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'lakeloop\[documents\]'"):
        parse_document(b"<p>x</p>", path="a.html")


def test_markdown_passes_through_with_its_first_heading_as_title() -> None:
    text = "intro\n\nThe *title*\n===\n\n```python\nx = 1  # not a heading\n```"
    document = parse_document(text.encode(), path="a.md")
    assert (document.title, document.text) == ("The title", text)


def test_a_title_of_the_front_matter_becomes_the_first_heading() -> None:
    document = parse_document(b"---\ntitle: 'A: b'\ntags: [x]\n---\n\n## Part\n\ntext", path="a.md")
    assert (document.title, document.text) == ("A: b", "# A: b\n\n## Part\n\ntext")
    document = parse_document(b"---\ntitle: Short\n---\n# Long title\n\ntext", path="a.md")
    assert (document.title, document.text) == ("Short", "# Long title\n\ntext")


def test_two_rules_are_no_front_matter() -> None:
    assert parse_document(b"---\njust text\n---\nmore", path="a.md").text == "---\njust text\n---\nmore"


def test_comments_are_dropped_but_not_inside_code() -> None:
    text = "a\n\n<!-- one\n\ntwo -->\n\n```html\n<!-- kept -->\n```\n\n<!-- never closed"
    assert parse_document(text.encode(), path="a.md").text.split() == [
        *("a", "```html", "<!--", "kept", "-->", "```", "<!--", "never", "closed")
    ]


def test_mdx_loses_its_modules_and_tags_and_keeps_content_and_labels() -> None:
    text = """import {
  Tabs
} from "x";
import A from "y";

Text before.

<Aside
  type="caution"
  title="Important"
>
  Mind *this*.
</Aside>

<Tabs syncKey="k">
  <TabItem label="SQL">

    ```sql
    import x from y
      SELECT 1
    ```

  </TabItem>
</Tabs>

<Aside type="note">On one line.</Aside>

<Code code={`a < \\`b\\``} lang="py" />
"""
    parsed = parse_document(text.encode(), path="a.mdx").text
    blocks = [block.strip("\n") for block in parsed.split("\n\n") if block.strip("\n")]
    assert blocks == [
        "Text before.",
        "Important:",
        "Mind *this*.",
        "SQL:",
        "```sql\nimport x from y\n  SELECT 1\n```",
        "Note:",
        "On one line.",
        "```py\na < `b`\n```",
    ]


def test_html_keeps_the_content_and_drops_the_navigation() -> None:
    page = """<html><head><title>Site</title></head><body><nav><a href="/">Home page</a></nav><main><h1>Install</h1>
    <p>Use <code>pip</code> for that, it is quick.</p><pre><code>def f():
    return 1</code></pre><table><tr><th>a</th><th>b</th></tr><tr><td>1</td><td>2</td></tr></table>
    </main><footer>All rights reserved</footer></body></html>"""
    document = parse_document(page.encode(), path="a.html")
    assert document.title == "Install"
    assert "# Install\n\nUse `pip` for that, it is quick.\n\n```\ndef f():\n    return 1\n```" in document.text
    assert "| 1 | 2 |" in document.text
    assert "Home page" not in document.text
    assert "rights" not in document.text
    assert (parse_document(b"<html><body></body></html>", path="a.html").error or "").startswith("empty")


def test_plain_text_is_no_markup() -> None:
    text = "Notes\n\n# a comment\n> not quoted\n- an item\n    indented\n=====\n<div>\nsnake_case"
    document = parse_document(text.encode(), path="a.txt")
    assert document.title == "Notes"
    assert document.text == (
        "Notes\n\n\\# a comment\n\\> not quoted\n- an item\n    indented\n\\=====\n\\<div>\nsnake_case"
    )


def test_a_first_line_that_goes_on_is_no_title() -> None:
    assert parse_document(b"one\ntwo", path="a").title is None
    assert parse_document(b"x" * 81, path="a").title is None
