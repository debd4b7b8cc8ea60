"""The lines of printed pages in, paragraphs in one line each out: what a page's margins had broken is joined again."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from statistics import quantiles

# What PDFium puts where a word goes on in the next line.
WORD_BREAK = "\ufffe"
_BROKEN_WORD = re.compile(rf"([\w-]*\w){WORD_BREAK}(\w+)")
_LIST_ITEM = re.compile(r"(?:[•◦▪‣●○■·–—*-]|\(?\d{1,3}[.)]|\(?[a-z][.)])\s+\S")
_SENTENCE_END = tuple(".!?:;。।؟")
_CLOSING = "\"'”’)]»"
# A line of less than this share of a long line of its page was ended by its author, not by the margin.
_FULL_LINE_RATIO = 0.75
_FEW_LINES = 4
# A line that so many pages share, at their top or foot, is a running head.
_MIN_SHARING_PAGES = 3
_MIN_SHARED_RATIO = 0.6
# Lines of a running head, or foot.
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

    A paragraph ends with a line that is much shorter than the page's long ones, before a list item, and at a heading;
    it goes on over the end of a page where a sentence does.

    Args:
        pages: the lines of each page, top to bottom, none blank; `WORD_BREAK` ends a line within a word.
        headings: level by (number of the page, `heading_key` of the line).
        asides: what stands on a page beside its lines, by number of the page: paragraphs at its end.
    """
    lines = [line for page in pages for line in page]
    # Only a broken word asks how the document writes it elsewhere.
    is_broken = any(line.endswith(WORD_BREAK) for line in lines)
    words = Counter(re.findall(r"[\w-]+", " ".join(lines)) if is_broken else ())
    open_text = ""
    beside: list[str] = []  # what stands at the end of the page before
    for number, (top, page, foot) in enumerate(_framed(without_running_heads(pages))):
        full = _full_length(page)
        if open_text and not (page and _goes_on(open_text, page[0])):
            yield _mended(open_text, words), 0
            open_text = ""
        # Before what goes on from the page before, so that it does not stand in a sentence.
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
    """What an entry of an outline and its line on the page have in common: letters and digits, without a number."""
    return re.sub(r"^[\d.]+|\W", "", line.casefold()) or line.casefold()


def without_running_heads(pages: Sequence[Sequence[str]]) -> list[list[str]]:
    """Drop what most pages begin or end with, where nothing is lost by it: page numbers, and repetitions.

    A page number is a line with no other word, whose number grows with the pages. A repetition is a line that an
    earlier page has to the letter at its edge, and no page within. Lines that differ, if only by a number (of an
    invoice, of a table's row), stay, and so does the last line of a page.
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
    """The pages whose line at the edge is the number of the page, however it is counted."""
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
    """The pages whose line at the edge most pages have there; not the first of them, which `first` remembers."""
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
    """Each page's lines as its running head, its body and its running foot: what most pages have but for a number."""
    needed = max(_MIN_SHARING_PAGES, _MIN_SHARED_RATIO * len(pages))
    edges = Counter(edge for page in pages for edge in {(at, _edge_key(page[at])) for at in (0, -1) if page})
    for page in pages:
        start = int(len(page) > 1 and edges[(0, _edge_key(page[0]))] >= needed)
        end = len(page) - int(len(page) > 1 + start and edges[(-1, _edge_key(page[-1]))] >= needed)
        yield list(page[:start]), list(page[start:end]), list(page[end:])


def _edge_key(line: str) -> str:
    return re.sub(r"\d+", "#", line.strip())


def _full_length(lines: Sequence[str]) -> float:
    """The length from which a line counts as full; 0 (every line goes on) where nothing can be told."""
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
    """`text` with its broken words whole: with the hyphen where the document writes the word so, else without."""

    def whole(match: re.Match[str]) -> str:
        left, right = match.groups()
        with_hyphen, without = f"{left}-{right}", f"{left}{right}"
        if words[without] or not words[with_hyphen]:
            is_compound = "-" in left or not right[:1].islower() or left[-1:].isdigit()
            return with_hyphen if is_compound and not words[without] else without
        return with_hyphen

    return _BROKEN_WORD.sub(whole, text).replace(WORD_BREAK, "-")
