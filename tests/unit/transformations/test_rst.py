import textwrap
from pathlib import Path

import pytest

from transformations.documents import parse_document


def markdown(text: str) -> str:
    document = parse_document(textwrap.dedent(text).encode(), path="a.rst")
    assert document.error is None
    return document.text


def test_sections_become_headings_by_depth_and_the_first_one_the_title() -> None:
    document = parse_document(b"Top\n===\n\nSub ``x``\n---------\n\ntext\n\nNext\n====\n\nmore", path="a.rst")
    assert document.title == "Top"
    assert document.text == "# Top\n\n## Sub `x`\n\ntext\n\n# Next\n\nmore"


def test_inline_markup_and_wrapping() -> None:
    assert markdown(
        "*em* **strong**\n``co  de`` `a link <http://x.org>`_ [1]_ |s|\n\n.. |s| replace:: sub\n.. [1] foot"
    ) == ("*em* **strong** `co de` a link [1] sub\n\n[1] foot")


def test_text_that_looks_like_markdown_is_escaped() -> None:
    assert markdown("call __init__(\\*args) of <T> in snake_case\n\n\\# no heading") == (
        "call \\_\\_init\\_\\_(\\*args) of \\<T> in snake_case\n\n\\# no heading"
    )


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (":ref:`Text <target>`", "Text"),
        (":ref:`target`", "target"),
        (":py:func:`~a.b.c`", "`a.b.c`"),
        (":func:`@f <a.f>`", "`@f`"),
        (":confval:`addopts`", "`addopts`"),
        (":issue:`12`", "#12"),
        (":nobody-knows:`it`", "it"),
        ("`it`:unknown:", "it"),
        (":code:`x = 1`", "`x = 1`"),
        (":doc:`how-to/x`", "how-to/x"),
        (":index:`word`", "word"),
        ("of |undefined|", "of |undefined|"),
    ],
)
def test_roles_give_what_a_reader_sees(source: str, expected: str) -> None:
    assert markdown(source) == expected


def test_code_blocks_keep_every_line_and_their_language() -> None:
    assert markdown(
        """
        .. code-block:: python
            :caption: A caption
            :emphasize-lines: 2

            def f():

                return "`" * 3  # ```

        Look::

            plain
              text

        >>> 1 + 1
        2
        """
    ) == (
        'A caption:\n\n````python\ndef f():\n\n    return "`" * 3  # ```\n````\n\n'
        "Look:\n\n```\nplain\n  text\n```\n\n```pycon\n>>> 1 + 1\n2\n```"
    )


def test_lists_of_all_kinds() -> None:
    assert markdown("- one\n- two\n\n  more\n") == "- one\n\n- two\n\n  more"
    assert markdown("3. c\n#. d\n") == "3. c\n4. d"
    assert markdown("term : kind\n    What it is.\n") == "- term (kind): What it is."
    assert markdown("text\n\n:param x: a number\n:returns: it\n") == "text\n\n- param x: a number\n- returns: it"
    assert markdown("-k EXPR  only those\n--long   others\n") == "- `-k EXPR`: only those\n- `--long`: others"
    assert markdown("- a\n\n  - b\n\n    ::\n\n      code\n") == "- a\n\n  - b\n\n    ```\n    code\n    ```"


def test_quotes_line_blocks_and_footnotes() -> None:
    assert markdown("text\n\n   quoted\n\n   twice\n") == "text\n\n> quoted\n>\n> twice"
    assert markdown("| one\n| two\n") == "one\\\ntwo"
    assert markdown("text [#]_\n\n.. [#] note\n") == "text [1]\n\n[1] note"


def test_admonitions_and_version_notes_keep_argument_and_content() -> None:
    assert markdown(".. note:: first\n   line\n\n   second\n") == "> **Note:** first line\n>\n> second"
    assert markdown(".. seealso::\n   :class: x\n\n   - there\n") == "> **See also:**\n>\n> - there"
    assert markdown(".. admonition:: My title\n\n   text") == "> **My title:** text"
    assert markdown(".. versionadded:: 3.1\n   The ``x``.\n\n   More.\n") == "Added in version 3.1: The `x`.\n\nMore."
    assert markdown(".. deprecated:: 2\n\n   Use y.\n") == "Deprecated since version 2: Use y."
    assert markdown(".. deprecated-removed:: 2 4\n   Gone.\n") == "Deprecated since version 2, removed in 4: Gone."
    assert markdown(".. versionchanged:: 2.0\n") == "Changed in version 2.0"


def test_signatures_keep_name_options_and_content() -> None:
    assert markdown(".. py:function:: f(a, b)\n   :noindex:\n\n   Adds.\n") == "`f(a, b)`:\n\nAdds."
    assert markdown(".. confval:: addopts\n   :type: ``args``\n\n   Adds.\n") == "`addopts`:\n\ntype: `args`\n\nAdds."
    assert markdown(".. autofunction:: pytest.main\n") == "`pytest.main`"
    assert markdown(".. unheard-of:: Some title\n   :opt: v\n\n   Its *content*.\n") == "Some title:\n\nIts *content*."
    assert markdown(".. class:: A\n\n   .. method:: m(x)\n\n      Does.\n").endswith("`m(x)`:\n\nDoes.")


def test_what_no_reader_sees_is_dropped() -> None:
    assert (
        markdown(
            """
        :orphan:

        .. _label:
        .. a comment
        .. toctree::
           :maxdepth: 1

           other
        .. index:: word
        .. highlight:: python
        .. currentmodule:: x
        .. contents:: In this article
        .. only:: latex

           for print

        .. only:: not latex

           for the page
        """
        )
        == "for the page"
    )


def test_tables_become_one_line_a_row() -> None:
    expected = "| a | b |\n| --- | --- |\n| 1 \\| x | - p - q |\n| 2 | `c` |"
    assert markdown("===== ===\na     b\n===== ===\n1 | x - p\n\n      - q\n2     ``c``\n===== ===\n") == expected
    rule = "+---+-----+"
    grid = f"{rule}\n| a | b   |\n+===+=====+\n| 1 | x   |\n|   +-----+\n|   | y   |\n{rule}\n| both    |\n{rule}"
    assert markdown(grid) == "| a | b |\n| --- | --- |\n| 1 | x |\n| 1 | y |\n| both |  |"
    listed = ".. list-table:: Caption\n   :header-rows: 1\n\n   * - h\n     - i\n   * - 1\n     - 2\n"
    assert markdown(listed) == "Caption:\n\n| h | i |\n| --- | --- |\n| 1 | 2 |"


def test_source_that_docutils_cannot_read_is_kept_and_its_messages_are_not() -> None:
    text = markdown(
        "before\n\n=== ===\na  b c\n=== ===\n\n:: odd `broken\n\n.. figure::\n   :width: x\n\n   text\n\nend"
    )
    assert "System Message" not in text
    assert "docutils" not in text
    assert "a  b c" in text
    assert text.startswith("before")
    assert text.endswith("end")


@pytest.mark.parametrize(
    "directive",
    [
        ".. include:: {path}",
        ".. include:: {path}\n   :literal:",
        ".. literalinclude:: {path}",
        ".. raw:: html\n   :file: {path}",
        ".. raw:: html\n   :url: file://{path}",
        ".. csv-table:: t\n   :file: {path}",
        ".. csv-table:: t\n   :url: file://{path}",
        ".. code-block:: text\n   :file: {path}",
        ".. figure:: {path}\n   :figwidth: image",
        ".. |x| include:: {path}\n\n|x|",
    ],
)
def test_no_directive_reads_a_file(directive: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("TOP,SECRET\n1,2\n", encoding="utf-8")
    document = parse_document(f"text\n\n{directive.format(path=secret)}\n".encode(), path="a.rst")
    assert document.error is None
    assert "SECRET" not in document.text


def test_raw_html_is_not_taken_over_and_the_date_is_not_told() -> None:
    text = markdown("text\n\n.. raw:: html\n\n   <script>x</script>\n\n.. |d| date::\n\non |d|\n")
    assert text == "text\n\non |d|"


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    markdown("Broken `text\n====\n\n.. nope::\n\n|x| *y\n\n.. include:: /etc/passwd\n\n.. figure::\n")
    assert capfd.readouterr() == ("", "")


def test_a_document_does_not_change_how_the_next_one_is_read() -> None:
    text = ":mine:`x` `y` and :strong:`z`"
    alone = markdown(text)
    markdown(".. role:: mine(code)\n.. default-role:: code\n.. role:: strong(code)\n\n:mine:`x` `y`\n")
    assert markdown(text) == alone
