"""AsciiDoc in, its title and its text as Markdown out. pandoc, a program of its own, reads it in its sandbox.

pandoc writes HTML, because Markdown has no form for cells over several rows or for lists in cells.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pypandoc

from transformations.documents.asciidoc_tables import without_spans
from transformations.documents.extract import Extract
from transformations.documents.html import html_to_markdown

_TITLE = re.compile(r"\A(?:\s|//[^\n]*\n|:[\w-]+:[^\n]*\n|\[[^\n]*\]\n)*= (\S[^\n]*)")
_ATTRIBUTE = re.compile(r"^:(author|email|revdate|revnumber|description|keywords): +(\S.*)$", re.MULTILINE)
_HEADER_BYTES = 4096
# Directives of Asciidoctor's preprocessor, which pandoc does not know. If a condition has text in its brackets, it is
# about that text alone.
_INCLUDE = re.compile(r"include::(\S[^\[]*)\[.*\]\s*$")
# pandoc leaves out films and sounds, and a title that stands among a picture's attributes.
_MEDIUM = re.compile(r"(image|video|audio)::(\S[^\[]*)\[(.*)\]\s*$")
_TITLE_OF = re.compile(r"(?:^|,)\s*title\s*=\s*(?:\"([^\"]+)\"|([^,\"]+))")
_CONDITION = re.compile(r"(?:ifdef|ifndef)::[^\[\s]*\[(.*)\]\s*$|(?:ifeval|endif)::[^\[\s]*\[.*\]\s*$")
_VERBATIM = re.compile(r"(?:-{4,}|\.{4,}|\+{4,}|/{4,}|`{3,}\S*)$")


def parse_asciidoc(text: str) -> Extract:
    """Return the title of the header, the text, and the metadata that the header's attributes give.

    `include::` is not followed: the name of the file stands in its place. If that place is above the title or in the
    header (which ends with the first blank line below the title), the name comes first in the text. Both sides of a
    condition are kept, since only a build knows what is defined. Of a film or a sound the name is kept. No picture is
    opened: pandoc's sandbox denies it every file.

    Raises:
        RuntimeError: pandoc cannot read the text; the message is pandoc's.
    """
    text = "\n".join(without_spans(list(_without_directives(text.split("\n")))))
    found = _TITLE.match(text)
    title = found.group(1).strip() if found else None
    shift = ["--shift-heading-level-by=1"] if title else []
    page = pypandoc.convert_text(
        text, "html", "asciidoc", extra_args=["--sandbox", "--wrap=none", "--mathjax", *shift], verify_format=False
    )
    markdown = html_to_markdown(page)
    metadata: dict[str, object] = dict(_ATTRIBUTE.findall(text[:_HEADER_BYTES]))
    metadata["created_at"] = metadata.pop("revdate", None)
    return Extract(title, f"# {title}\n\n{markdown}" if title else markdown, metadata)


def _without_directives(lines: list[str]) -> Iterator[str]:
    fence = ""
    end = _header_end(lines)
    of_header = [found.group(1) for line in lines[:end] if (found := _INCLUDE.match(line))]
    for at, line in enumerate([*lines, ""]):
        if at == end:
            for name in of_header:
                yield from ("", f"`+{name}+`", "")
        verbatim = _VERBATIM.match(line)
        if verbatim and (not fence or line == fence):
            fence = "" if fence else line.rstrip() if line[:1] != "`" else "```"
        include, condition, medium = _INCLUDE.match(line), _CONDITION.match(line), _MEDIUM.match(line)
        if include:
            if at >= end:
                name = include.group(1)
                yield from (name,) if fence else ("", f"`+{name}+`", "")
        elif condition:
            if condition.group(1):
                yield condition.group(1)
        elif medium and not fence:
            kind, name, attributes = medium.groups()
            if titled := _TITLE_OF.search(attributes):
                yield f".{(titled.group(1) or titled.group(2)).strip()}"
            yield line if kind == "image" else f"`+{name}+`"
        else:
            yield line


def _header_end(lines: list[str]) -> int:
    """How many lines the header takes: the title, what may stand above it, and the lines below it up to the first that
    is blank or cannot belong to a header. 0 if there is no title."""
    has_title = False
    for at, line in enumerate(lines):
        if line.startswith("= "):
            has_title = True
        elif not line.strip():
            if has_title:
                return at
        elif not (
            line.startswith((":", "//", "["))
            or (has_title and "@" in line)
            or _INCLUDE.match(line)
            or _CONDITION.match(line)
        ):
            return at if has_title else 0
    return len(lines) if has_title else 0
