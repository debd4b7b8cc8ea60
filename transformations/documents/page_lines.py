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


def paragraphs(pages: Sequence[Sequence[str]], *, headings: Mapping[tuple[int, str], int]) -> Iterator[tuple[str, int]]:
    """Yield (text, level) of each paragraph: level 0 for text, 1 and more for a heading.

    A paragraph ends with a line that is much shorter than the page's long ones, before a list item, and at a heading;
    it goes on over the end of a page where a sentence does.

    Args:
        pages: the lines of each page, top to bottom, none blank; `WORD_BREAK` ends a line within a word.
        headings: level by (number of the page, `heading_key` of the line).
    """
    lines = [line for page in pages for line in page]
    # Only a broken word asks how the document writes it elsewhere.
    is_broken = any(line.endswith(WORD_BREAK) for line in lines)
    words = Counter(re.findall(r"[\w-]+", " ".join(lines)) if is_broken else ())
    open_text = ""
    for number, page in enumerate(without_running_heads(pages)):
        full = _full_length(page)
        if open_text and page and not _goes_on(open_text, page[0]):
            yield _mended(open_text, words), 0
            open_text = ""
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
    if open_text:
        yield _mended(open_text, words), 0


def heading_key(line: str) -> str:
    """What an entry of an outline and its line on the page have in common: letters and digits, without a number."""
    return re.sub(r"^[\d.]+|\W", "", line.casefold()) or line.casefold()


def without_running_heads(pages: Sequence[Sequence[str]]) -> list[list[str]]:
    """Drop first and last lines that most pages share, whatever number they carry."""
    edges = Counter(
        edge for page in pages for edge in {(at, _edge_key(page[at])) for at in (0, -1) if page}
    )  # a page counts once for its top and once for its foot
    needed = max(_MIN_SHARING_PAGES, _MIN_SHARED_RATIO * len(pages))
    kept = []
    for page in pages:
        lines = list(page)
        for at in (0, -1):
            if lines and edges[(at, _edge_key(lines[at]))] >= needed:
                del lines[at]
        kept.append(lines)
    return kept


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
