"""The bytes of an Office file in, its zip archive out, checked: it is one, and it does not inflate without end."""

from __future__ import annotations

import zipfile
from io import BytesIO

from lxml import etree

from transformations.documents.extract import RefusedDocumentError

# Python's zipfile never inflates a member further than its declared size, so the declared sizes are the limit.
MAX_INFLATED_BYTES = 512 * 1024 * 1024
MAX_INFLATED_RATIO = 500
_SMALL_BYTES = 32 * 1024 * 1024
_MAX_MEMBERS = 20_000
_OLE = b"\xd0\xcf\x11\xe0"
_NAMESPACES = {
    "dc": "http://purl.org/dc/elements/1.1/",
    "dcterms": "http://purl.org/dc/terms/",
    "cp": "http://schemas.openxmlformats.org/package/2006/metadata/core-properties",
}


def open_archive(content: bytes) -> zipfile.ZipFile:
    """Open an Office file.

    Raises:
        RefusedDocumentError: `encrypted`; `too_large` (more than 512 MB inflated, or over 500 times its size, or more
            members than any document has); `unparseable` (no zip, an old binary file, a damaged one).
    """
    if content.startswith(_OLE):
        if "EncryptedPackage".encode("utf-16-le") in content:
            raise RefusedDocumentError("encrypted: a password is needed; save the file without one")
        raise RefusedDocumentError("unparseable: an Office file of the old binary kind; save it in today's format")
    try:
        archive = zipfile.ZipFile(BytesIO(content))
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise RefusedDocumentError(f"unparseable: {error}; it begins with {content[:8]!r}") from None
    members = archive.infolist()
    inflated = sum(member.file_size for member in members)
    if len(members) > _MAX_MEMBERS:
        raise RefusedDocumentError(f"too_large: an archive of {len(members)} members, at most {_MAX_MEMBERS} are read")
    ratio = inflated / max(len(content), 1)
    if inflated > MAX_INFLATED_BYTES or (inflated > _SMALL_BYTES and ratio > MAX_INFLATED_RATIO):
        raise RefusedDocumentError(
            f"too_large: {len(content)} bytes inflate to {inflated}; the limits are {MAX_INFLATED_BYTES} bytes and "
            f"{MAX_INFLATED_RATIO} times the size of the file"
        )
    if any(member.flag_bits & 1 for member in members):
        raise RefusedDocumentError("encrypted: the members of the archive have a password")
    return archive


def properties(archive: zipfile.ZipFile) -> tuple[str | None, dict[str, object]]:
    """Title and metadata (author, subject, keywords, created_at, has_macros) of an Office file; None for what it does
    not say."""
    metadata: dict[str, object] = {}
    title = None
    try:
        core = etree.fromstring(archive.read("docProps/core.xml"), etree.XMLParser(resolve_entities=False))
    except (KeyError, etree.XMLSyntaxError):
        core = None
    if core is not None:
        title = core.findtext("dc:title", None, _NAMESPACES)
        metadata = {
            "author": core.findtext("dc:creator", None, _NAMESPACES),
            "subject": core.findtext("dc:subject", None, _NAMESPACES),
            "keywords": core.findtext("cp:keywords", None, _NAMESPACES),
            "created_at": core.findtext("dcterms:created", None, _NAMESPACES),
        }
    if any(name.endswith("vbaProject.bin") for name in archive.namelist()):
        metadata["has_macros"] = "true"
    return (title or "").strip() or None, metadata
