"""A block that is too long for a chunk in, its parts out; and parts in, their Markdown out.

At first a part is a whole block. If no chunk can hold it, it becomes its lines or sentences, then their words, then
pieces of words. Parts of a code block that stand together in a chunk are fenced again.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from unicodedata import category

from transformations.text.blocks import Block, Kind

# For each kind of block, the levels at which it can be split, each finer than the one before.
_LEVELS: dict[Kind, tuple[str, ...]] = {
    "paragraph": ("block", "sentences", "lines", "words", "pieces", "characters"),
    "quote": ("block", "lines", "sentences", "words", "pieces", "characters"),
    "list": ("block", "lines", "sentences", "words", "pieces", "characters"),
    "table_row": ("block", "lines", "sentences", "words", "pieces", "characters"),
    "code": ("block", "lines", "words", "pieces", "characters"),
}
# A sentence ends in a mark and white space; Chinese and Japanese marks need no white space.
_BETWEEN_SENTENCES = re.compile(r"(?<=[.!?…])\s+|(?<=[。！？])\s*")
# Blank lines stay with the line before them.
_BETWEEN_LINES = re.compile(r"\n(?!\s*(?:\n|$))")
_FENCE = re.compile(r"(`{3,}|~{3,})[^\n]*")
# Characters in a piece of a word: few enough for any limit, and enough that a megabyte without a blank is not too many
# pieces.
_PIECE = 8
_LONGEST_PIECE = 32
# The zero-width joiner, the skin tones of emoji, and the letters of which two make a flag.
_JOINER = "\u200d"
_SKIN_TONES = frozenset(map(chr, range(0x1F3FB, 0x1F400)))
_FLAG_LETTERS = frozenset(map(chr, range(0x1F1E6, 0x1F200)))


@dataclass(frozen=True)
class Part:
    """A block, or a part of one.

    Attributes:
        section: number of the section that it stands in.
        heading_path: all headings above it.
        kind: the kind of its block.
        text: its Markdown; for a part of a code block, lines without the fence.
        origin: number of its block: parts of equal origin belong together.
        level: how far its block has been split, as an index into the levels of its kind.
        glue: what stands between the part before it and itself, if both have the same origin.
        fence: the fence's first and last line, if it is a part of a code block; else None.
    """

    section: int
    heading_path: tuple[str, ...]
    kind: Kind
    text: str
    origin: int
    level: int = 0
    glue: str = "\n\n"
    fence: tuple[str, str] | None = None

    @property
    def is_lead_in(self) -> bool:
        """Whether the text only introduces what follows: "For example:"."""
        return self.kind == "paragraph" and self.text.rstrip("*_ ").endswith(":")


def part_of(block: Block, origin: int) -> Part:
    """Return the part that is the whole of `block`, the document's block number `origin`."""
    return Part(block.section, block.heading_path, block.kind, block.text, origin)


def split_part(part: Part) -> list[Part]:
    """Return the parts of `part` one level finer, or `[part]` if there is no finer level."""
    levels = _LEVELS[part.kind]
    if part.level + 1 >= len(levels):
        return [part]
    level = levels[part.level + 1]
    text, fence = part.text, part.fence
    if part.kind == "code" and part.level == 0:
        text, fence = _unfenced(text)
    pieces, glue = _pieces(text, level)
    # The first piece keeps the glue of the whole.
    return [
        replace(part, text=piece, level=part.level + 1, fence=fence, glue=glue if i else part.glue)
        for i, piece in enumerate(pieces or [text])
    ]


def _pieces(text: str, level: str) -> tuple[list[str], str]:
    if level == "lines":
        return _BETWEEN_LINES.split(text.strip("\n")), "\n"
    if level == "sentences":
        return [sentence for sentence in _BETWEEN_SENTENCES.split(text) if sentence.strip()], " "
    if level == "words":
        return text.split(), " "
    return list(text) if level == "characters" else _runs(text), ""


def _runs(text: str) -> list[str]:
    """Pieces of `_PIECE` characters, or longer (at most `_LONGEST_PIECE`) so that no mark is torn off its letter."""
    runs, start = [], 0
    while start < len(text):
        end = start + _PIECE
        while end < len(text) and end - start < _LONGEST_PIECE and _belongs(text, end):
            end += 1
        runs.append(text[start:end])
        start = end
    return runs


def _belongs(text: str, place: int) -> bool:
    """Whether the character at `place` belongs to the one before it: an accent, a vowel sign, a part of an emoji."""
    character, before = text[place], text[place - 1]
    return (
        category(character) in ("Mn", "Mc", "Me")
        or _JOINER in (character, before)
        or character in _SKIN_TONES
        or (character in _FLAG_LETTERS and before in _FLAG_LETTERS)
    )


def _unfenced(text: str) -> tuple[str, tuple[str, str] | None]:
    lines = text.split("\n")
    opening = lines[0].strip()
    match = _FENCE.fullmatch(opening)
    if not match:
        return text, None
    closing = match.group(1)
    has_end = len(lines) > 1 and set(lines[-1].strip()) == {closing[0]} and len(lines[-1].strip()) >= len(closing)
    return "\n".join(lines[1 : -1 if has_end else None]), (opening, closing)


def render_parts(parts: Sequence[Part]) -> str:
    """Return the Markdown of consecutive parts of one section."""
    text = ""
    before: Part | None = None
    for _, run in groupby(parts, key=lambda part: part.origin):
        members = list(run)
        joined = members[0].text + "".join(part.glue + part.text for part in members[1:])
        fence = members[0].fence
        if fence:
            joined = "\n".join((fence[0], joined.strip("\n"), fence[1]))
        if before is not None:
            text += "\n" if before.kind == members[0].kind and before.kind in ("list", "table_row") else "\n\n"
        text += joined
        before = members[0]
    return text
