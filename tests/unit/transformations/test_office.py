"""What stands in Office files beside plain paragraphs: merged cells, formats, charts, comments, moved text."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import files
from transformations.documents import parse_document

_OF = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_A = 'xmlns:a="http://schemas.openxmlformats.org/drawingml/2006/main"'
_VALUE = '<c:pt idx="{}"><c:v>{}</c:v></c:pt>'
_NORTH_SOUTH = f"{_VALUE.format(0, 'North')}{_VALUE.format(1, 'South')}"
_CHART = (
    f'<c:chartSpace xmlns:c="http://schemas.openxmlformats.org/drawingml/2006/chart" {_A}><c:chart><c:title><c:tx>'
    "<c:rich><a:p><a:r><a:t>Yield</a:t></a:r></a:p></c:rich></c:tx></c:title><c:plotArea><c:barChart><c:ser>"
    f"<c:tx><c:strRef><c:strCache>{_VALUE.format(0, 'Rye')}</c:strCache></c:strRef></c:tx>"
    f"<c:cat><c:strRef><c:strCache>{_NORTH_SOUTH}</c:strCache></c:strRef></c:cat>"
    f"<c:val><c:numRef><c:numCache>{_VALUE.format(0, 4.1)}{_VALUE.format(1, 5.2)}</c:numCache></c:numRef></c:val>"
    "</c:ser></c:barChart></c:plotArea></c:chart></c:chartSpace>"
).encode()
_DIAGRAM = (
    f'<dgm:dataModel xmlns:dgm="http://schemas.openxmlformats.org/drawingml/2006/diagram" {_A}><dgm:ptLst>'
    "<dgm:pt><dgm:t><a:p><a:r><a:t>Plan the harbour</a:t></a:r></a:p></dgm:t></dgm:pt>"
    '<dgm:pt type="pres"><dgm:t><a:p><a:r><a:t>drawn</a:t></a:r></a:p></dgm:t></dgm:pt></dgm:ptLst></dgm:dataModel>'
).encode()


def relationships(*pairs: tuple[str, str]) -> bytes:
    made = "".join(
        f'<Relationship Id="r{n}" Type="{_OF}/{kind}" Target="{to}"/>' for n, (kind, to) in enumerate(pairs, 1)
    )
    package = "http://schemas.openxmlformats.org/package/2006/relationships"
    return f'<Relationships xmlns="{package}">{made}</Relationships>'.encode()


def part(tag: str, body: str) -> bytes:
    w = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
    return f'<w:{tag} xmlns:w="{w}">{body}</w:{tag}>'.encode()


def paragraph(text: str) -> str:
    return f"<w:p><w:r><w:t>{text}</w:t></w:r></w:p>"


def word(body: str, **members: bytes) -> list[str]:
    document = parse_document(files.docx(body, **members), path="a.docx")
    assert document.error is None, document.error
    return document.text.split("\n\n")


def test_moved_text_equations_text_boxes_and_wrapped_text_of_word_are_kept() -> None:
    m = 'xmlns:m="http://schemas.openxmlformats.org/officeDocument/2006/math"'
    mc = 'xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006"'
    run = "<w:r><w:t>{}</w:t></w:r>"
    moved = run.format("moved")
    moved = f"<w:p><w:moveFrom>{moved}</w:moveFrom></w:p><w:p><w:moveTo>{moved}</w:moveTo></w:p>"
    frac = "<m:f><m:num><m:r><m:t>a</m:t></m:r></m:num><m:den><m:r><m:t>b</m:t></m:r></m:den></m:f>"
    inline = f"<w:p>{run.format('Is')}<m:oMath {m}>{frac}</m:oMath>{run.format('it?')}</w:p>"
    block = f"<w:p><m:oMathPara {m}><m:oMath><m:r><m:t>x=1</m:t></m:r></m:oMath></m:oMathPara></w:p>"
    box = f"<w:drawing><w:txbxContent>{paragraph('In a box.')}</w:txbxContent></w:drawing>"
    newer = f'<mc:AlternateContent {mc}><mc:Choice Requires="wps">{box}</mc:Choice></mc:AlternateContent>'
    newer = f"<w:p><w:r>{newer}</w:r></w:p>"
    wrapped = f"<w:customXml>{run.format('Wrapped')}</w:customXml><w:fldSimple>{run.format('field')}</w:fldSimple>"
    wrapped = f"<w:p>{wrapped}</w:p>"
    assert word(moved + inline + block + newer + wrapped + paragraph("2007.") + paragraph("# no heading")) == [
        *("moved", r"Is$\frac{a}{b}$it?", "$$x=1$$", "In a box.", "Wrappedfield", r"2007\.", r"\# no heading")
    ]


def test_tables_of_word_have_their_header_their_merged_cells_their_title_and_what_is_in_them() -> None:
    def cell(text: str, properties: str = "") -> str:
        return f"<w:tc><w:tcPr>{properties}</w:tcPr>{text if text.startswith('<') else paragraph(text)}</w:tc>"

    def table(*rows: str) -> str:
        return f"<w:tbl>{''.join(f'<w:tr>{row}</w:tr>' for row in rows)}</w:tbl>"

    down, below, wide = '<w:vMerge w:val="restart"/>', "<w:vMerge/>", '<w:gridSpan w:val="{}"/>'
    merged = table(
        cell("Region") + cell("Yield", wide.format(2)),
        cell("North", down) + cell("1") + cell("2"),
        cell("", below) + cell("3") + cell("4|5"),
        cell("All of it", wide.format(3)),
    )
    inner = table(cell("i") + cell("j"), cell("k") + cell("l"))
    titled = table(cell("Prices", wide.format(3)), *(cell(a) + cell(b) + cell(c) for a, b, c in ("abc", "123")))
    nested = table(cell("x") + cell("y"), cell(inner + "<w:p/>") + cell("*z*"))
    layout = table(cell(paragraph("Around.") + titled + "<w:p/>"))
    assert word(merged + paragraph("Then") + nested + layout) == [
        "| Region | Yield | Yield |\n| --- | --- | --- |\n| North | 1 | 2 |\n"
        "| North | 3 | 4\\|5 |\n| All of it |  |  |",
        "Then",
        "| x | y |\n| --- | --- |\n| i, j; k, l | \\*z\\* |",
        "Around.",
        "Prices",
        "| a | b | c |\n| --- | --- | --- |\n| 1 | 2 | 3 |",
    ]


def test_headers_comments_charts_and_diagrams_of_word_are_told() -> None:
    c, dgm = (
        "http://schemas.openxmlformats.org/drawingml/2006/chart",
        "http://schemas.openxmlformats.org/drawingml/2006/diagram",
    )
    r = f'xmlns:r="{_OF}"'
    body = (
        '<w:p><w:r><w:t>Text.</w:t></w:r><w:r><w:commentReference w:id="0"/></w:r></w:p>'
        f'<w:p><w:r><w:drawing><c:chart xmlns:c="{c}" {r} r:id="r3"/></w:drawing></w:r></w:p>'
        f'<w:p><w:r><w:drawing><d:relIds xmlns:d="{dgm}" {r} r:dm="r4"/></w:drawing></w:r></w:p>'
    )
    comment = f'<w:comment w:id="0" w:author="Ann" w:date="2024-01-02T03:04:05Z">{paragraph("Sure?")}</w:comment>'
    parts = {
        "word/_rels/document.xml.rels": relationships(
            ("header", "header1.xml"), ("comments", "comments.xml"), ("chart", "charts/chart1.xml"),
            ("diagramData", "/word/diagrams/data1.xml"), ("footer", "gone.xml"),
        ),
        "word/header1.xml": part("hdr", paragraph("Contract 7") + paragraph("- 3 -")),
        "word/comments.xml": part("comments", comment),
        "word/charts/chart1.xml": _CHART,
        "word/diagrams/data1.xml": _DIAGRAM,
    }  # fmt: skip
    assert word(body, **parts) == [
        *("Contract 7", "Text.", "Comment (Ann, 2024-01-02T03:04:05): Sure?", "Yield"),
        "|  | Rye |\n| --- | --- |\n| North | 4.1 |\n| South | 5.2 |",
        "Plan the harbour",
    ]


@pytest.mark.parametrize("main", ["word/document2.xml", "doc/main.xml"])
def test_the_main_part_of_a_document_may_have_any_name(main: str) -> None:
    body = part("document", f"<w:body>{paragraph('Here.')}</w:body>")
    content = files.docx(**{main: body, "_rels/.rels": relationships(("officeDocument", main))})
    assert parse_document(content, path="a.docx").text == "Here."
    rows = '<row r="1"><c r="A1"><v>5</v></c></row>'
    assert "| 5 |" in parse_document(files.workbook(rows, main="xl/book7.xml"), path="a.xlsx").text


def test_formulas_without_a_value_formats_merged_cells_and_broken_styles_of_a_sheet() -> None:
    styles = (
        b'<styleSheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><numFmts count="1">'
        b'<numFmt numFmtId="170" formatCode="#,##0.00&quot; EUR&quot;"/></numFmts><fills count="1"><fill/></fills>'
        b'<cellXfs count="3"><xf numFmtId="0"/><xf numFmtId="170"/><xf numFmtId="10"/></cellXfs></styleSheet>'
    )
    text = '<c r="{}" t="inlineStr"><is><t>{}</t></is></c>'
    rows = (
        f'<row r="1">{text.format("A1", "Region")}{text.format("B1", "Sums")}</row>'
        f'<row r="2">{text.format("A2", "North")}<c r="B2" s="1"><v>1234.5</v></c><c r="C2" s="2"><v>0.5</v></c></row>'
        '<row r="3"><c r="B3"><f>B2*2</f></c><c r="C3" t="str"><f>IF(A2="","",A2)</f><v></v></c></row>'
        '<row r="4"><c r="B4"><f t="shared" si="0" ref="B4:B5">B2+A4</f><v/></c></row>'
        '<row r="5"><c r="B5"><f t="shared" si="0"/></c><c r="C5"><f>1+1</f><v>2</v></c></row>'
    )
    merged = '<mergeCells><mergeCell ref="B1:C1"/><mergeCell ref="A2:A5"/></mergeCells>'
    content = files.workbook(rows, after=merged, **{"xl/styles.xml": styles})
    # The styles are found by the relation of the workbook.
    document = parse_document(content, path="a.xlsx")
    assert document.error is None
    assert document.text.split("\n")[2:] == [
        *("| Region | Sums | Sums |", "| --- | --- | --- |"),
        *(
            "| North | 1,234.50 EUR | 50.00% |",
            "| North | =B2*2 |  |",
            "| North | =B2+A4 |  |",
            "| North | =B3+A5 | 2 |",
        ),
    ]


def test_comments_charts_and_texts_of_a_sheet_are_told() -> None:
    s = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    content = files.workbook(
        '<row r="1"><c r="A1"><v>5</v></c></row>',
        **{
            "xl/worksheets/_rels/sheet1.xml.rels": relationships(
                ("drawing", "../drawings/drawing1.xml"), ("comments", "../comments1.xml")
            ),
            "xl/drawings/drawing1.xml": f"<d {_A}><a:p><a:r><a:t>In a shape</a:t></a:r></a:p></d>".encode(),
            "xl/drawings/_rels/drawing1.xml.rels": relationships(("chart", "../charts/chart1.xml")),
            "xl/charts/chart1.xml": _CHART,
            "xl/comments1.xml": (
                f'<comments xmlns="{s}"><authors><author>Ann</author></authors><commentList>'
                '<comment ref="A1" authorId="0"><text><t>Why?</t></text></comment></commentList></comments>'
            ).encode(),
        },
    )
    assert parse_document(content, path="a.xlsx").text.split("\n\n") == [
        *("# Sheet", "| 5 |\n| --- |", "In a shape", "Yield"),
        "|  | Rye |\n| --- | --- |\n| North | 4.1 |\n| South | 5.2 |",
        "A1 Comment (Ann): Why?",
    ]


def test_a_document_that_only_speaks_of_the_strict_namespace_is_read_as_any_other() -> None:
    said = paragraph("Strict: http://purl.oclc.org/ooxml/wordprocessingml/main")
    wrapped = "<w:p><w:customXml><w:r><w:t>Wrapped</w:t></w:r></w:customXml></w:p>"
    assert word(said + wrapped) == ["Strict: http://purl.oclc.org/ooxml/wordprocessingml/main", "Wrapped"]


def test_an_entity_in_an_office_file_is_refused() -> None:
    content = files.docx("<w:p><w:r><w:t>&x;</w:t></w:r></w:p>", head='<!DOCTYPE w [<!ENTITY x "y">]>')
    assert (parse_document(content, path="a.docx").error or "").startswith("unparseable: it refers to the entity 'x'")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("d01_table.docx", "| Fruit | Price |\n| --- | --- |\n| Apple | 3 |"),
        ("d02_document2.docx", "The pump leaks oil."),
        ("d03_moved.docx", "Middle.\n\nThe valve is green.\n\nAfter."),
        ("d05_merged.docx", "| North | 1 |\n| --- | --- |\n| North | 2 |\n| Wide |  |"),
        ("p03_smartart.pptx", "Plan the harbour"),
        ("x01_formula_no_cache.xlsx", "| apple | 2 | 3 | =B2*C2 |"),
        ("x03_title_row.xlsx", "Price list 2024\n\n| Fruit | Price | Unit |"),
        ("x05_formats.xlsx", "| rate | 7.5% |\n| cost | 1,234.50 EUR |\n| code | 00007 |"),
        ("x07_empty_fill.xlsx", "| a | b |\n| --- | --- |\n| 1 | 2 |"),
    ],
)
def test_the_files_of_the_issue_give_their_text(name: str, expected: str, shared_data: Path) -> None:
    file = shared_data / "faults" / "documents" / name
    if not file.is_file():
        pytest.skip(f"no {file}")
    assert expected in parse_document(file.read_bytes(), path=name).text
