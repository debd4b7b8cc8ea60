"""Small files of each format, made here: whole, and in the ways in which they are hostile or broken."""

from __future__ import annotations

import zipfile
from io import BytesIO

_W = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
_TYPES = "http://schemas.openxmlformats.org/package/2006/content-types"
_CORE = (
    '<cp:coreProperties xmlns:cp="http://schemas.openxmlformats.org/package/2006/metadata/core-properties" '
    'xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>{title}</dc:title><dc:creator>Ann</dc:creator>'
    "</cp:coreProperties>"
)
PNG = b"\x89PNG\r\n\x1a\n" + bytes(64)


def docx(body: str = "<w:p><w:r><w:t>Some text.</w:t></w:r></w:p>", *, head: str = "", **members: bytes) -> bytes:
    """A Word file whose body is the given XML; `head` stands before the root element, `members` are added."""
    parts: dict[str, bytes] = {
        "[Content_Types].xml": (
            f'<Types xmlns="{_TYPES}"><Default Extension="rels" ContentType="application/vnd.openxmlformats-package.'
            'relationships+xml"/><Default Extension="xml" ContentType="application/xml"/></Types>'
        ).encode(),
        "_rels/.rels": (
            b'<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
            b'<Relationship Id="r1" Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/'
            b'officeDocument" '
            b'Target="word/document.xml"/></Relationships>'
        ),
        "docProps/core.xml": _CORE.format(title="A title").encode(),
        "word/document.xml": f'{head}<w:document xmlns:w="{_W}"><w:body>{body}</w:body></w:document>'.encode(),
        **members,
    }
    return archive(parts)


def archive(parts: dict[str, bytes]) -> bytes:
    stream = BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as target:
        for name, content in parts.items():
            target.writestr(name, content)
    return stream.getvalue()


def xlsx(rows: list[list[object]]) -> bytes:
    import openpyxl

    workbook, stream = openpyxl.Workbook(), BytesIO()
    for row in rows:
        workbook.active.append(row)
    workbook.save(stream)
    return stream.getvalue()


def workbook(cells: str, *, texts: str = "", after: str = "", main: str = "xl/workbook.xml", **members: bytes) -> bytes:
    """A workbook of one sheet, whose rows are the given XML; `texts` are shared ones, `after` follows the rows."""
    kinds = "application/vnd.openxmlformats-officedocument.spreadsheetml"
    of = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    s = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    package = "http://schemas.openxmlformats.org/package/2006/relationships"
    folder, name = main.rsplit("/", 1)
    types = [(main, "sheet.main"), ("xl/worksheets/sheet1.xml", "worksheet"), ("xl/sharedStrings.xml", "sharedStrings")]
    types += [("xl/styles.xml", "styles")] if "xl/styles.xml" in members else []
    overrides = "".join(f'<Override PartName="/{part}" ContentType="{kinds}.{kind}+xml"/>' for part, kind in types)
    rels = "".join(
        f'<Relationship Id="r{n}" Type="{of}/{kind}" Target="/{part}"/>'
        for n, (part, kind) in enumerate([(t[0], t[1]) for t in types[1:]], 1)
    )
    parts: dict[str, bytes] = {
        "[Content_Types].xml": (
            f'<Types xmlns="{_TYPES}"><Default Extension="rels" ContentType="application/vnd.openxmlformats-package.'
            f'relationships+xml"/><Default Extension="xml" ContentType="application/xml"/>{overrides}</Types>'
        ).encode(),
        "_rels/.rels": (
            f'<Relationships xmlns="{package}"><Relationship Id="r1" Type="{of}/officeDocument" Target="{main}"/>'
            "</Relationships>"
        ).encode(),
        main: (
            f'<workbook xmlns="{s}" xmlns:r="{of}"><sheets><sheet name="Sheet" sheetId="1" r:id="r1"/></sheets>'
            "</workbook>"
        ).encode(),
        f"{folder}/_rels/{name}.rels": f'<Relationships xmlns="{package}">{rels}</Relationships>'.encode(),
        "xl/worksheets/sheet1.xml": (
            f'<worksheet xmlns="{s}"><sheetData>{cells}</sheetData>{after}</worksheet>'.encode()
        ),
        "xl/sharedStrings.xml": f'<sst xmlns="{s}">{texts}</sst>'.encode(),
        **members,
    }
    return archive(parts)


def repeated(text: str, *, cells: int) -> bytes:
    """A workbook of a few kB whose one shared text stands in many cells."""
    rows = "".join(f'<row r="{n}"><c r="A{n}" t="s"><v>0</v></c></row>' for n in range(1, cells + 1))
    return workbook(rows, texts=f"<si><t>{text}</t></si>")


def pptx(title: str, *paragraphs: str) -> bytes:
    from pptx import Presentation

    presentation, stream = Presentation(), BytesIO()
    slide = presentation.slides.add_slide(presentation.slide_layouts[1])
    slide.shapes.title.text = title
    slide.placeholders[1].text = "\n".join(paragraphs)
    slide.notes_slide.notes_text_frame.text = "Said aloud."
    presentation.save(stream)
    return stream.getvalue()


def pdf(*pages: list[str], title: str = "", encrypted: bool = False) -> bytes:
    """A PDF of lines in Helvetica, a page for each list. Encrypted: with a password that nobody knows."""
    objects = ["<< /Type /Catalog /Pages 2 0 R >>", "", "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"]
    kids = []
    for lines in pages:
        shown = "".join(f"({line}) Tj 0 -14 Td " for line in lines)
        stream = f"BT /F1 12 Tf 72 720 Td {shown} ET"
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
        objects.append(
            "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] "
            f"/Resources << /Font << /F1 3 0 R >> >> /Contents {len(objects)} 0 R >>"
        )
        kids.append(f"{len(objects)} 0 R")
    objects[1] = f"<< /Type /Pages /Kids [{' '.join(kids)}] /Count {len(kids)} >>"
    objects.append(f"<< /Title ({title}) /Author (Ann) /CreationDate (D:20240822125427Z) >>")
    info, trailer = len(objects), ""
    if encrypted:
        objects.append(f"<< /Filter /Standard /V 1 /R 2 /O <{'11' * 32}> /U <{'22' * 32}> /P -44 >>")
        trailer = f"/Encrypt {len(objects)} 0 R /ID [<{'33' * 16}> <{'33' * 16}>]"
    written, offsets = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        offsets.append(len(written))
        written += f"{number} 0 obj\n{body}\nendobj\n".encode("latin-1")
    table = "".join(f"{offset:010} 00000 n \n" for offset in offsets)
    end = f"trailer << /Size {len(objects) + 1} /Root 1 0 R /Info {info} 0 R {trailer} >>"
    xref = f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}{end}\nstartxref\n{len(written)}\n%%EOF"
    return written + xref.encode()


def message(body: str, *, subject: str = "A subject", attachments: int = 0) -> bytes:
    from email.message import EmailMessage

    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = "Ann <ann@example.org>", "bob@example.org", subject
    mail["Date"] = "Thu, 22 Aug 2024 12:54:27 +0200"
    mail.set_content(body)
    for number in range(attachments):
        mail.add_attachment(bytes(1000), maintype="application", subtype="zip", filename=f"{number}.zip")
    return mail.as_bytes()
