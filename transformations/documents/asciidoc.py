"""AsciiDoc in, its title and its text as Markdown out, by pandoc: a program of its own, run in its sandbox."""

from __future__ import annotations

import re

import pypandoc

from transformations.documents.extract import Extract

_TITLE = re.compile(r"\A(?:\s|//[^\n]*\n|:[\w-]+:[^\n]*\n)*= (\S[^\n]*)")
_ATTRIBUTE = re.compile(r"^:(author|email|revdate|revnumber|description|keywords): +(\S.*)$", re.MULTILINE)
_HEADER_BYTES = 4096


def parse_asciidoc(text: str) -> Extract:
    """Return the title of the header, the text, and the metadata that the header's attributes give.

    `include::` is not followed and no picture is opened: pandoc's sandbox denies it every file.

    Raises:
        RuntimeError: what pandoc says, where it cannot read the text.
    """
    found = _TITLE.match(text)
    title = found.group(1).strip() if found else None
    shift = ["--shift-heading-level-by=1"] if title else []
    markdown = pypandoc.convert_text(
        text, "gfm-raw_html", "asciidoc", extra_args=["--sandbox", "--wrap=none", *shift], verify_format=False
    )
    metadata: dict[str, object] = dict(_ATTRIBUTE.findall(text[:_HEADER_BYTES]))
    metadata["created_at"] = metadata.pop("revdate", None)
    return Extract(title, f"# {title}\n\n{markdown}" if title else markdown, metadata)
