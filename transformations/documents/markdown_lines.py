"""Lines of Markdown in, which of them are code, and the lines without comments or without MkDocs' boxes, out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

_FENCE = re.compile(r"\s*(?:[-*+>]\s+|\d+[.)]\s+)*(`{3,}(?=[^`]*$)|~{3,})")
_LIST_ITEM = re.compile(r"\s*(?:[-*+]|\d{1,9}[.)])(?:\s|$)")
_INDENTED = re.compile(r" {4}| {0,3}\t")
_RUN_OR_COMMENT = re.compile(r"`+|<!--|\{/\*")
_CLOSING = {"<!--": "-->", "{/*": "*/}"}
_BOX = re.compile(r"( *)(?:!!!|\?\?\?\+?) +([\w-]+)(?: +[\w-]+)*(?: +\"(.*)\")?$")
_TAB = re.compile(r"( *)===[!+]? +(?:\"(.*)\"|'(.*)')$")
_STEP = 4


class Fence:
    """Reads one line after the other, and knows whether it is in a fenced block of code."""

    def __init__(self) -> None:
        self.mark = ""

    def takes(self, line: str) -> bool:
        """Go on to `line`; true if it is code or a fence."""
        match = _FENCE.match(line)
        if not self.mark:
            self.mark = match.group(1) if match else ""
            return bool(match)
        if match and match.group(1).startswith(self.mark) and not line[match.end() :].strip():
            self.mark = ""
        return True


def outside_fences(lines: Sequence[str]) -> Iterator[tuple[int, bool]]:
    """The index of each line, and whether the line is code or a fence."""
    fence = Fence()
    for i, line in enumerate(lines):
        yield i, fence.takes(line)


def without_comments(lines: Sequence[str], *, is_mdx: bool = False) -> Iterator[str]:
    """Drop comments, also over several lines, but not in code; in MDX also those of JavaScript."""
    fence, comments = Fence(), _Comments(lines, is_mdx=is_mdx)
    is_in_list, may_be_code = False, True
    i = 0
    while i < len(lines):
        line = lines[i]
        if fence.takes(line):
            may_be_code = False
        elif not line.strip():
            may_be_code = True
        elif not is_mdx and not is_in_list and may_be_code and _INDENTED.match(line):
            pass
        else:
            is_in_list = bool(_LIST_ITEM.match(line)) or (is_in_list and line[:1] in " \t")
            may_be_code = False
            rest, last = comments.dropped(i)
            if rest != line:
                if rest.strip():
                    yield rest.strip() if line.lstrip().startswith(("<!--", "{/*")) else rest
                i = last + 1
                continue
        yield line
        i += 1


class _Comments:
    """The lines of a document; finds where a comment that begins in one of them ends."""

    def __init__(self, lines: Sequence[str], *, is_mdx: bool) -> None:
        self._lines = lines
        self._openings = ("<!--", "{/*") if is_mdx else ("<!--",)
        self._never: set[str] = set()  # closing marks that do not come again

    def dropped(self, number: int) -> tuple[str, int]:
        """Line `number` without its comments, and the number of the line in which the last of them ends."""
        line = self._lines[number]
        if not any(opening in line for opening in self._openings):
            return line, number
        kept: list[str] = []
        at = 0
        spans = _code_spans(line)
        while match := _RUN_OR_COMMENT.search(line, at):
            opening = match.group()
            end = spans.get(match.start(), match.end())
            if opening in self._openings:
                found = self._end(_CLOSING[opening], number, match.end())
                if found:
                    kept.append(line[at : match.start()])
                    number_after, at = found
                    if number_after != number:
                        number, line = number_after, self._lines[number_after]
                        spans = _code_spans(line)
                    continue
            kept.append(line[at:end])
            at = end
        return "".join([*kept, line[at:]]), number

    def _end(self, closing: str, number: int, at: int) -> tuple[int, int] | None:
        if closing in self._never:
            return None
        for i in range(number, len(self._lines)):
            place = self._lines[i].find(closing, at if i == number else 0)
            if place >= 0:
                return i, place + len(closing)
        self._never.add(closing)  # never closed, so it is no comment and stays in the text
        return None


def _code_spans(line: str) -> dict[int, int]:
    """Start → end of each code span in a line; a run of backticks is closed by the next run of the same length."""
    runs = [(match.start(), match.end()) for match in re.finditer(r"`+", line)]
    spans: dict[int, int] = {}
    following: dict[int, int] = {}  # length → end of the next run of that length
    for start, end in reversed(runs):
        if end - start in following:
            spans[start] = following[end - start]
        following[end - start] = end
    return spans


def without_boxes(lines: Iterable[str]) -> Iterator[str]:
    """Turn boxes and tabs of MkDocs into text under their labels: indented as it is, it would be read as code."""
    open_at: list[int] = []  # the indentation of each open box
    fence = Fence()
    for line in lines:
        if not line.strip():
            if not fence.mark:
                yield ""
                continue
            yield line[_STEP * len(open_at) :]
            continue
        indent = len(line) - len(line.lstrip(" "))
        while open_at and indent < open_at[-1] + _STEP:
            open_at.pop()
            fence.mark = ""
        shown = line[_STEP * len(open_at) :]
        if fence.takes(shown):
            yield shown
            continue
        box, tab = _BOX.match(shown), _TAB.match(shown)
        if box:
            label = box.group(2).capitalize() if box.group(3) is None else box.group(3)
        elif tab:
            label = tab.group(2) or tab.group(3)
        else:
            yield shown
            continue
        open_at.append(indent)
        yield from ("", f"{' ' * (len(shown) - len(shown.lstrip()))}{label.rstrip(':')}:", "") if label else ("",)
