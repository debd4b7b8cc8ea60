"""Plain text in, the same text as Markdown paragraphs out; and the escapes that keep text from being read as markup."""

from __future__ import annotations

import re

from transformations.documents.extract import Extract

_MAX_TITLE = 80
# What opens a block other than a paragraph if it stands at the start of a line.
_BLOCK_START = re.compile(
    r"""(?P<indent>[ ]{0,3})
    (?:(?P<number>\d{1,9})(?=[.)](?:\s|$))
    |(?=\#{1,6}(?:\s|$) | > | [-+*](?:\s|$) | ```|~~~ | =+\s*$ | -+\s*$ | \| | (?:[*_-]\s*){3,}$))""",
    re.VERBOSE,
)
# List markers stay: plain text may well mean them, and Markdown reads them the same way.
_NOT_A_LIST = re.compile(r"([ ]{0,3})(?=#{1,6}(?:\s|$)|>|```|~~~|[=-]+\s*$|\||(?:[*_-]\s*){3,}$|<[A-Za-z/!?])")
# Inline markup: code spans, HTML, emphasis that is not between blanks or inside a word, a backslash that would escape,
# and "[" (`escape_inline` checks that a link follows).
_INLINE = re.compile(r"`|<(?=[A-Za-z/!?])|(?<!\s)\*|\*(?!\s|$)|(?<![^\W_])_|_(?![^\W_])|\\(?=[!-/:-@\[-`{-~])|\[")


def escape_inline(text: str) -> str:
    """Return `text` with a backslash before each character that Markdown would take for inline markup.

    >>> escape_inline("call __init__(*args) of snake_case <T>")
    'call \\\\_\\\\_init\\\\_\\\\_(\\\\*args) of snake_case \\\\<T>'
    """
    closing = -1  # the next "]"; not looked for at each "[", since a text may be made of them

    def escaped(match: re.Match[str]) -> str:
        nonlocal closing
        if match.group() == "[":
            if closing < match.start():
                closing = text.find("]", match.start())
                closing = len(text) if closing < 0 else closing
            if not text.startswith("](", closing):
                return "["
        return "\\" + match.group()

    return _INLINE.sub(escaped, text)


def escape_block_start(line: str) -> str:
    """Return `line`, escaped so that it opens a paragraph and no heading, list, quote, table or code block.

    >>> escape_block_start("# no heading"), escape_block_start("1986. A great year")
    ('\\\\# no heading', '1986\\\\. A great year')
    """
    match = _BLOCK_START.match(line)
    if not match:
        return line
    return f"{match.group('indent')}{match.group('number') or ''}\\{line[match.end() :]}"


def as_paragraph(text: str) -> str:
    """Return `text` as a paragraph on one line, escaped so that Markdown finds no markup in it.

    >>> as_paragraph(" # no\\n*mark* ")
    '\\\\# no \\\\*mark\\\\*'
    """
    return escape_block_start(escape_inline(" ".join(text.split())))


def parse_plain(text: str) -> Extract:
    """Return the title (the first line, if it is short and stands alone) and the text as Markdown.

    Lists, indented code and line breaks stay as they are; headings, rules, quotes, tables, fences and HTML are
    escaped, because in plain text such a line is just a line (a comment in a script, a log, a diff).

    >>> parse_plain("Read me\\n\\n# not a heading").markdown
    'Read me\\n\\n\\\\# not a heading'
    """
    lines = text.split("\n")
    stands_alone = len(lines) == 1 or not lines[1].strip()
    title = lines[0].strip() if stands_alone and len(lines[0].strip()) <= _MAX_TITLE else None
    escaped = (_NOT_A_LIST.sub(r"\1\\", line, count=1) if _NOT_A_LIST.match(line) else line for line in lines)
    return Extract(title, "\n".join(escaped))
