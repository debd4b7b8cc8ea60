"""A Word document in, its title and its text as Markdown out. Macros are never run, pictures and links never opened."""

from __future__ import annotations

import warnings
import zipfile
from io import BytesIO
from typing import Any

import mammoth
import mammoth.html
from markitdown import StreamInfo
from markitdown.converter_utils.docx.pre_process import pre_process_docx
from markitdown.converters import HtmlConverter

from transformations.documents.archive import open_archive, properties
from transformations.documents.extract import Extract, RefusedDocumentError

# Word has no text in these, and they may be most of a file.
_NO_TEXT = ("word/media/", "word/embeddings/", "word/fonts/", "word/vbaProject.bin", "docProps/thumbnail")


def parse_docx(content: bytes) -> Extract:
    """Return the title that the file's properties give, its text, and its metadata.

    Headings, lists, tables, footnotes and equations (as LaTeX) are kept; a picture is its alternative text.

    Raises:
        RefusedDocumentError: see `open_archive`; `unparseable` where it is an archive and no Word document.
    """
    with open_archive(content) as archive:
        if "word/document.xml" not in archive.namelist():
            raise RefusedDocumentError("unparseable: an archive without word/document.xml is no Word document")
        title, metadata = properties(archive)
        slim = _without_pictures(archive)
    html = mammoth.convert_to_html(pre_process_docx(slim), convert_image=_alternative_text, style_map=_STYLES).value
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # too deeply nested for Markdown: the text alone, which is what we want
        markdown = HtmlConverter().convert(BytesIO(html.encode()), StreamInfo(charset="utf-8")).markdown
    return Extract(title, markdown, metadata)


_STYLES = "p[style-name='Title'] => h1:fresh\np[style-name='Subtitle'] => p:fresh"


def _alternative_text(image: Any) -> list[Any]:
    return [mammoth.html.text(image.alt_text)] if image.alt_text else []


def _without_pictures(archive: zipfile.ZipFile) -> BytesIO:
    slim = BytesIO()
    with zipfile.ZipFile(slim, "w") as target:
        for name in dict.fromkeys(archive.namelist()):
            if not name.startswith(_NO_TEXT):
                target.writestr(name, archive.read(name))
    slim.seek(0)
    return slim
