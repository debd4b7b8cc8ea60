"""A Word document in, its title and its text as Markdown out. Macros are never run, pictures and links never opened."""

from __future__ import annotations

import posixpath
import warnings
import zipfile
from io import BytesIO
from typing import Any

import mammoth
import mammoth.html
from lxml import etree
from markitdown import StreamInfo
from markitdown.converters import HtmlConverter

from transformations.documents.archive import open_archive, properties
from transformations.documents.docx_html import marked
from transformations.documents.docx_parts import frame_texts, prepare
from transformations.documents.extract import Extract, RefusedDocumentError
from transformations.documents.ooxml import main_part
from transformations.documents.plain import escape_block_start, escape_inline

_USUAL = "word/document.xml"
# Parts without text, which may be most of a file.
_NO_TEXT = ("media/", "embeddings/", "fonts/", "vbaProject.bin")
_STYLES = "p[style-name='Title'] => h1:fresh\np[style-name='Subtitle'] => p:fresh"


def parse_docx(content: bytes) -> Extract:
    """Return the title that the file's properties give, its text, and its metadata.

    The text begins with the headers and footers, each text once. Then come headings, lists, tables, footnotes,
    equations (as LaTeX), text boxes, the figures of charts and the texts of diagrams. A comment stands after its
    paragraph, and a picture is its alternative text.

    Raises:
        RefusedDocumentError: see `open_archive`; `unparseable` if the archive is no Word document.
    """
    with open_archive(content) as archive:
        main = main_part(archive, _USUAL)
        if main is None or not main.endswith(".xml"):
            raise RefusedDocumentError(f"unparseable: an archive without {_USUAL} is no Word document")
        title, metadata = properties(archive)
        framed = [escape_block_start(escape_inline(text)) for text in frame_texts(archive, main)]
        slim = _prepared(archive, main)
    html = mammoth.convert_to_html(slim, convert_image=_alternative_text, style_map=_STYLES).value
    html, marks = marked(html)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nested too deeply for Markdown: it gives the text alone, which is enough
        markdown = HtmlConverter().convert(BytesIO(html.encode()), StreamInfo(charset="utf-8")).markdown
    for mark, meant in marks.items():
        markdown = markdown.replace(mark, meant)
    return Extract(title, "\n\n".join([*framed, markdown]), metadata)


def _alternative_text(image: Any) -> list[Any]:
    return [mammoth.html.text(image.alt_text)] if image.alt_text else []


def _prepared(archive: zipfile.ZipFile, main: str) -> BytesIO:
    """The document without its pictures, and with all of its text in places where mammoth looks for it."""
    folder = posixpath.dirname(main)
    texts = {main, *(posixpath.join(folder, name) for name in ("footnotes.xml", "endnotes.xml"))}
    slim = BytesIO()
    with zipfile.ZipFile(slim, "w") as target:
        for name in dict.fromkeys(archive.namelist()):
            if name.startswith("docProps/thumbnail") or name.removeprefix(f"{folder}/").startswith(_NO_TEXT):
                continue
            part = archive.read(name)
            try:
                target.writestr(name, prepare(part, archive, name) if name in texts else part)
            except etree.XMLSyntaxError as error:
                raise RefusedDocumentError(f"unparseable: {name}: {error}") from None
    slim.seek(0)
    return slim
