"""The lines of printed pages in, paragraphs of one line each out: lines that the page's margin broke are joined."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from statistics import quantiles

# What PDFium puts at the end of a line in which a word is broken.
WORD_BREAK = "\ufffe"
_BROKEN_WORD = re.compile(rf"([\w-]*\w){WORD_BREAK}(\w+)")
_LIST_ITEM = re.compile(r"(?:[•◦▪‣●○■·–—*-]|\(?\d{1,3}[.)]|\(?[a-z][.)])\s+\S")
_SENTENCE_END = tuple(".!?:;。।؟")
_CLOSING = "\"'”’)]»"
# A line with less than this share of the length of a long line of its page was ended by its author, not by the margin.
_FULL_LINE_RATIO = 0.75
_FEW_LINES = 4
# A line at the top or foot of at least this many pages, and of this share of all pages, is a running head.
_MIN_SHARING_PAGES = 3
_MIN_SHARED_RATIO = 0.6
# How many lines a running head or foot may have.
_MAX_EDGE = 3
_PAGE_NUMBER = re.compile(
    r"(?:\W*(?:page|p\.|pg\.?|seite|s\.|página|pagina|стр\.))?\W*(?:(?P<number>\d{1,4})|(?P<roman>[ivxlc]{1,8}))"
    r"(?:\W*(?:of|/|von|de|di|sur|из)\W*\d{1,4})?\W*",
    re.IGNORECASE,
)


def paragraphs(
    pages: Sequence[Sequence[str]],
    *,
    headings: Mapping[tuple[int, str], int],
    asides: Mapping[int, Sequence[str]] | None = None,
) -> Iterator[tuple[str, int]]:
    """Yield (text, level) of each paragraph: level 0 for text, 1 and more for a heading.

    A paragraph ends with a line that is much shorter than the page's long ones, before a list item, and at a heading.
    It goes on over the end of a page if its last sentence does.

    Args:
        pages: the lines of each page, top to bottom, none blank; `WORD_BREAK` ends a line within a word.
        headings: level by (number of the page, `heading_key` of the line).
        asides: texts of a page that are none of its lines, by number of the page; they become paragraphs at its end.
    """
    lines = [line for page in pages for line in page]
    # Words are counted only if one is broken: the counts say how the document writes it elsewhere.
    is_broken = any(line.endswith(WORD_BREAK) for line in lines)
    words = Counter(re.findall(r"[\w-]+", " ".join(lines)) if is_broken else ())
    open_text = ""
    beside: list[str] = []  # the foot and the asides of the page before
    for number, (top, page, foot) in enumerate(_framed(without_running_heads(pages))):
        full = _full_length(page)
        if open_text and not (page and _goes_on(open_text, page[0])):
            yield _mended(open_text, words), 0
            open_text = ""
        # These come before a paragraph that goes on from the page before, so that they do not stand inside a sentence.
        for at, line in [*((number - 1, line) for line in beside), *((number, line) for line in top)]:
            yield _mended(line, words), headings.get((at, heading_key(line)), 0)
        for line in page:
            level = headings.get((number, heading_key(line)), 0)
            if open_text and (level or _LIST_ITEM.match(line)):
                yield _mended(open_text, words), 0
                open_text = ""
            if level:
                yield _mended(line, words), level
                continue
            glue = "" if not open_text or open_text.endswith(WORD_BREAK) else " "
            open_text += glue + line
            if len(line) < full and not line.endswith((WORD_BREAK, ",")) and line is not page[-1]:
                yield _mended(open_text, words), 0
                open_text = ""
        beside = [*foot, *(asides or {}).get(number, ())]
    if open_text:
        yield _mended(open_text, words), 0
    for line in beside:
        yield _mended(line, words), headings.get((len(pages) - 1, heading_key(line)), 0)


def heading_key(line: str) -> str:
    """The key by which an entry of the outline finds its line on the page: its letters and digits in lower case,
    without a number in front."""
    return re.sub(r"^[\d.]+|\W", "", line.casefold()) or line.casefold()


def without_running_heads(pages: Sequence[Sequence[str]]) -> list[list[str]]:
    """Drop page numbers and repetitions that most pages begin or end with, if nothing is lost by it.

    A page number is a line with no other word, whose number grows with the pages. A repetition is a line that an
    earlier page has at its edge, letter by letter, and that no page has away from its edges. Lines that differ, if only
    by a number (of an invoice, of a table's row), stay. A page keeps at least one line.
    """
    kept = [list(page) for page in pages]
    needed = max(_MIN_SHARING_PAGES, _MIN_SHARED_RATIO * len(pages))
    within = Counter(line for page in pages for line in page[_MAX_EDGE:-_MAX_EDGE])
    for at in (0, -1):
        first: dict[str, int] = {}
        for _ in range(_MAX_EDGE):
            drop = _page_numbers(kept, at=at, needed=needed) | _repetitions(kept, within, first, at=at, needed=needed)
            drop = {number for number in drop if len(kept[number]) > 1}
            for number in drop:
                del kept[number][at]
            if not drop:
                break
    return kept


def _page_numbers(pages: Sequence[Sequence[str]], *, at: int, needed: float) -> set[int]:
    """The pages whose line at the edge is a page number, whatever number the first page has."""
    offsets: dict[int, list[int]] = {}
    for number, page in enumerate(pages):
        found = _PAGE_NUMBER.fullmatch(page[at].strip()) if page else None
        if found:
            digits, roman = found.group("number"), found.group("roman")
            offsets.setdefault((int(digits) if digits else _roman(roman)) - number, []).append(number)
    return {number for same in offsets.values() if len(same) >= needed for number in same}


def _repetitions(
    pages: Sequence[Sequence[str]], within: Mapping[str, int], first: dict[str, int], *, at: int, needed: float
) -> set[int]:
    """The pages whose line at the edge is shared by most pages, without the first of them, which `first` remembers."""
    edges = Counter(page[at] for page in pages if page)
    drop = set()
    for number, page in enumerate(pages):
        if not page or within[page[at]] or (edges[page[at]] < needed and page[at] not in first):
            continue
        if first.setdefault(page[at], number) != number:
            drop.add(number)
    return drop


def _roman(text: str) -> int:
    values = [{"i": 1, "v": 5, "x": 10, "l": 50, "c": 100}[letter] for letter in text.lower()]
    return sum(-a if a < b else a for a, b in zip(values, [*values[1:], 0], strict=True))


def _framed(pages: Sequence[Sequence[str]]) -> Iterator[tuple[list[str], list[str], list[str]]]:
    """Each page's lines as running head, body and running foot. A head or foot is a line that most pages have there,
    numbers aside."""
    needed = max(_MIN_SHARING_PAGES, _MIN_SHARED_RATIO * len(pages))
    edges = Counter(edge for page in pages for edge in {(at, _edge_key(page[at])) for at in (0, -1) if page})
    for page in pages:
        start = int(len(page) > 1 and edges[(0, _edge_key(page[0]))] >= needed)
        end = len(page) - int(len(page) > 1 + start and edges[(-1, _edge_key(page[-1]))] >= needed)
        yield list(page[:start]), list(page[start:end]), list(page[end:])


def _edge_key(line: str) -> str:
    return re.sub(r"\d+", "#", line.strip())


def _full_length(lines: Sequence[str]) -> float:
    """The length in characters from which a line counts as full; 0 (each line counts) for a page without lines."""
    lengths = [len(line) for line in lines]
    if len(lengths) < _FEW_LINES:
        return _FULL_LINE_RATIO * max(lengths, default=0)
    return _FULL_LINE_RATIO * quantiles(lengths, n=10)[-1]


def _goes_on(text: str, line: str) -> bool:
    if text.endswith(WORD_BREAK):
        return True
    is_open = not text.rstrip(_CLOSING).endswith(_SENTENCE_END)
    return is_open and line[:1].islower()


def _mended(text: str, words: Mapping[str, int]) -> str:
    """`text` with its broken words joined: with a hyphen if the document writes the word so elsewhere, or if it looks
    like a compound, else without."""

    def whole(match: re.Match[str]) -> str:
        left, right = match.groups()
        with_hyphen, without = f"{left}-{right}", f"{left}{right}"
        if words[without] or not words[with_hyphen]:
            is_compound = "-" in left or not right[:1].islower() or left[-1:].isdigit()
            return with_hyphen if is_compound and not words[without] else without
        return with_hyphen

    return _BROKEN_WORD.sub(whole, text).replace(WORD_BREAK, "-")
