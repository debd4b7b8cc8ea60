"""Markdown in, its blocks out: each with the headings above it, in the document's order.

A block is the smallest unit that makes sense alone: a paragraph, a code block, a quotation, one item of a list, one
row of a table (with its column names). Structure is read by markdown-it; a block's text is taken from the source.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, TypeAlias

from markdown_it import MarkdownIt
from markdown_it.token import Token

from transformations.text.table_rows import named_rows, table_rule

Kind: TypeAlias = Literal["paragraph", "code", "list", "table_row", "quote"]

_KINDS: dict[str, Kind] = {"fence": "code", "code_block": "code", "blockquote_open": "quote"}
# Attributes after a heading, as pandoc, Docusaurus, MkDocs and kramdown have them: {#name}, {: .class}.
_ATTRIBUTES = re.compile(r"[ \t]*\{:?[ \t]*[#.][^{}\n]*\}[ \t]*$")
_LONG = 1000
_BACKTICKS = re.compile(r"`+")


@dataclass(frozen=True)
class Block:
    """One block of a document.

    Attributes:
        section: number of the section in the document; headings do not identify it, since two may have equal ones.
        heading_path: the headings above the block, outermost first.
        text: its Markdown. A row of a table is "column: cell | column: cell"; indented code is fenced.
    """

    section: int
    heading_path: tuple[str, ...]
    kind: Kind
    text: str


@cache
def _parser() -> MarkdownIt:
    # Only the places of blocks are wanted. Inline markup would take most of the time, and is not parsed. Link
    # definitions are read as text, since otherwise they would be in no block. Both parsers keep no state between texts.
    parser = MarkdownIt("commonmark").enable("table").disable(["reference", "inline", "text_join"])
    parser.block.ruler.at("table", table_rule, {"alt": ["paragraph", "reference"]})
    return parser


@cache
def _inline_parser() -> MarkdownIt:
    return MarkdownIt("commonmark")


def split_blocks(text: str) -> list[Block]:
    """Return the blocks of `text` (in the form of `normalise_text`), in order.

    A heading with nothing under it, not even a deeper heading, is a block of its own (under the headings above it):
    it is text that somebody may look for. Rules and empty list items are no blocks.

    >>> [(b.heading_path, b.text) for b in split_blocks("# A\\n\\none\\n\\n## B\\n\\n- two\\n- three")]
    [(('A',), 'one'), (('A', 'B'), '- two'), (('A', 'B'), '- three')]
    """
    lines = text.split("\n")
    tokens = _parser().parse(text)
    blocks: list[Block] = []
    headings: list[tuple[int, str, str]] = []  # level, plain text, source
    section = 0
    is_bare = False  # nothing has followed the last heading yet

    def bare_heading() -> Block:
        return Block(section, tuple(title for _, title, _ in headings[:-1]), "paragraph", headings[-1][2])

    i = 0
    while i < len(tokens):
        token = tokens[i]
        end = _closing(tokens, i)
        if token.type == "heading_open":
            level = int(token.tag[1:])
            if is_bare and level <= headings[-1][0]:
                blocks.append(bare_heading())
            section += 1
            title, source = _plain(tokens[i + 1].content), " ".join(tokens[i + 1].content.split())
            while headings and headings[-1][0] >= level:
                headings.pop()
            is_bare = bool(title)
            if title:
                headings.append((level, title, f"{'#' * level} {source}"))
        else:
            path = tuple(title for _, title, _ in headings)
            for kind, block_text in _texts(tokens, i, end, lines):
                blocks.append(Block(section, path, kind, block_text))
                is_bare = False
        i = end + 1
    if is_bare:
        blocks.append(bare_heading())
    return blocks


def first_heading(text: str) -> tuple[int, str] | None:
    """Return level and plain text of the first heading of `text`, or None."""
    tokens = _parser().parse(text)
    for i, token in enumerate(tokens):
        if token.type == "heading_open" and token.level == 0 and (title := _plain(tokens[i + 1].content)):
            return int(token.tag[1:]), title
    return None


def _plain(source: str) -> str:
    """The text of inline Markdown, without markup, HTML and attributes ("{#name}")."""
    if len(source) > _LONG:  # no real heading, and parsing would take time that grows with its square
        return " ".join(source.split())
    source = _ATTRIBUTES.sub("", source)
    tokens = _inline_parser().parseInline(source)
    children = [child for token in tokens for child in token.children or ()]
    shown = (child for child in children if child.type != "html_inline")
    parts = (" " if child.type in ("softbreak", "hardbreak") else child.content for child in shown)
    return " ".join("".join(parts).split())


def _closing(tokens: Sequence[Token], start: int) -> int:
    """The index of the token that closes the one at `start` (itself, if it opens nothing)."""
    if tokens[start].nesting != 1:
        return start
    level = tokens[start].level
    return next(i for i in range(start + 1, len(tokens)) if tokens[i].nesting == -1 and tokens[i].level == level)


def fence_around(code: str, *, at_least: int = 3) -> str:
    """A fence of backticks, longer than any run of backticks in `code`.

    >>> fence_around("a `b`", at_least=1), fence_around("a `b`")
    ('``', '```')
    """
    return "`" * max(at_least, 1 + max((len(run) for run in _BACKTICKS.findall(code)), default=0))


def fenced(code: str, language: str = "") -> str:
    """`code` as a fenced block, whatever it contains."""
    fence = fence_around(code)
    return f"{fence}{language}\n{code}\n{fence}"


def _texts(tokens: Sequence[Token], start: int, end: int, lines: Sequence[str]) -> Iterator[tuple[Kind, str]]:
    """Kind and text of the blocks between two tokens of the outermost level."""
    token = tokens[start]
    if token.type in ("bullet_list_open", "ordered_list_open"):
        for item in (t for t in tokens[start:end] if t.type == "list_item_open" and t.level == 1):
            text = _source(item, lines)
            if re.search(r"[^\s*+-]", text):  # "2007." opens a list, but is text that counts
                yield "list", text
    elif token.type == "table_open":
        yield from (("table_row", row) for row in named_rows(token.meta["rows"]))
    elif token.type == "code_block":
        code = textwrap.dedent(token.content).strip("\n")
        yield "code", fenced(code)
    elif token.type != "hr" and (text := _source(token, lines)).strip():
        yield _KINDS.get(token.type, "paragraph"), text


def _source(token: Token, lines: Sequence[str]) -> str:
    first, last = token.map or (0, 0)
    text = "\n".join(lines[first:last]).strip("\n")
    return text if token.type in ("fence", "list_item_open") else text.strip()
