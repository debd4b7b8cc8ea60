"""Markdown or MDX in, its title and the same Markdown out, without front matter, comments and component tags."""

from __future__ import annotations

import re
from collections.abc import Iterator

from transformations.documents.extract import Extract
from transformations.documents.front_matter import front_matter, titled
from transformations.documents.markdown_lines import outside_fences, without_boxes, without_comments

_ESM = re.compile(
    r"import\s+(?:[\w*{][^\n]*\sfrom\s|[\"'{])|export\s+(?:const|let|var|default|function|class|async|\{|\*)"
)
_TAG_OPEN = re.compile(r"\s*</?[A-Z][\w.]*(?=[\s/>]|$)")
# A whole tag: attributes may hold ">" in quotes or in braces.
_TAG = re.compile(
    r"\s*<(/?)([A-Z][\w.]*)((?:\"[^\"]*\"|'[^']*'|\{`(?:\\.|[^`\\])*`\}|\{[^}`]*\}|[^>\"'{])*?)(/?)>[ \t]*$"
)
_ATTRIBUTE = re.compile(r"(\w+)\s*=\s*(?:\"([^\"]*)\"|'([^']*)'|\{`((?:\\.|[^`\\])*)`\})")
_TAG_THEN_TEXT = re.compile(r"(\s*<[A-Z][\w.]*(?:\s+\w+(?:=\"[^\"]*\"|='[^']*'|=\{[^{}]*\})?)*\s*>)(?=\s*\S)")
_TEXT_THEN_TAG = re.compile(r"(?<=\S)[ \t]*(</[A-Z][\w.]*>)$")
_MAX_TAG_LINES = 200


def parse_markdown(text: str) -> Extract:
    """Return the title (of the front matter, or else the first heading) and the text without front matter and comments.

    Boxes and tabs of MkDocs become text under their labels. A title that only the front matter has becomes the first
    heading: a site shows it there. The other fields of the front matter are the metadata, if they are values or lists
    of values.

    >>> parse_markdown("---\\ntitle: Tables\\ntags: [a, b]\\n---\\nSome <!-- old --> text")
    Extract(title='Tables', markdown='# Tables\\n\\nSome  text', metadata={'tags': 'a, b'})
    """
    fields, body = front_matter(text)
    return titled(fields, "\n".join(without_boxes(without_comments(body.split("\n")))))


def parse_mdx(text: str) -> Extract:
    """Like `parse_markdown`, and without MDX's imports, exports and component tags; the tags' content and labels stay.

    >>> parse_mdx("import A from 'a'\\n\\n<Aside title='Mind'>\\n  Hot\\n</Aside>").markdown.split()
    ['Mind:', 'Hot']
    """
    fields, body = front_matter(text)
    lines = list(without_comments(body.split("\n"), is_mdx=True))
    lines = list(_tags_on_own_lines(list(_without_modules(lines))))
    return titled(fields, "\n".join(_without_components(lines)))


def _without_modules(lines: list[str]) -> Iterator[str]:
    """Drop import and export statements; each ends at the first blank line after its brackets are closed."""
    depth, in_statement = 0, False
    for i, is_code in outside_fences(lines):
        line = lines[i]
        if not in_statement:
            in_statement = not is_code and bool(_ESM.match(line))
        elif not line and depth <= 0:
            in_statement = False
        if not in_statement:
            depth = 0
            yield line
        else:
            depth += sum(map(line.count, "([{")) - sum(map(line.count, ")]}"))


def _tags_on_own_lines(lines: list[str]) -> Iterator[str]:
    """Break a line after a component tag at its start, and before a closing tag at its end."""
    for i, is_code in outside_fences(lines):
        line = lines[i]
        opening = None if is_code else _TAG_THEN_TEXT.match(line)
        if opening:
            yield opening.group(1)
            line = line[opening.end() :]
        closing = None if is_code else _TEXT_THEN_TAG.search(line)
        if closing:
            yield line[: closing.start()]
            line = closing.group(1)
        yield line


def _without_components(lines: list[str]) -> list[str]:
    """Drop component tags on lines of their own, and the indentation of their content."""
    kept: list[str] = []
    outer = ""  # the indentation of the outermost open tag: its content is moved there
    bases: list[int | None] = []  # of each open tag: how far its content is indented, once known
    skip_until = -1
    for i, is_code in outside_fences(lines):
        if i <= skip_until:
            continue
        line = lines[i]
        tag, end = (None, i) if is_code else _whole_tag(lines, i)
        if tag:
            skip_until = end
            closes, _, attributes, closes_itself = tag.groups()
            values = {key: a or b or c for key, a, b, c in _ATTRIBUTE.findall(attributes)}
            if closes_itself and "code" in values:
                kept += ["", f"```{values.get('lang', '')}", *values["code"].replace("\\`", "`").split("\n"), "```", ""]
            elif closes_itself:
                kept.append(" ".join(part.strip() for part in lines[i : end + 1]))
            elif closes:
                bases[-1:] = []
                kept.append("")
            else:
                outer = outer if bases else line[: len(line) - len(line.lstrip())]
                bases.append(None)
                label = values.get("title") or values.get("label") or (values.get("type", "").capitalize())
                kept += ["", f"{outer}{label.rstrip(':')}:", ""] if label else [""]
            continue
        if bases and line:
            indent = len(line) - len(line.lstrip())
            if bases[-1] is None:
                bases[-1] = indent
            line = outer + line[min(indent, bases[-1] or 0) :]
        kept.append(line)
    return kept


def _whole_tag(lines: list[str], start: int) -> tuple[re.Match[str] | None, int]:
    """The component tag that opens at line `start` and ends a line, and the index of that line."""
    if not _TAG_OPEN.match(lines[start]):
        return None, start
    for end in range(start, min(start + _MAX_TAG_LINES, len(lines))):
        if lines[end].endswith(">"):
            match = _TAG.match("\n".join(lines[start : end + 1]))
            if match:
                return match, end
        if not lines[end] and "{" not in lines[start]:
            break
    return None, start
