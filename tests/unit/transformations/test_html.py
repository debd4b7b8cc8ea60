"""HTML pages: all that a reader sees is kept, with its headings, and navigation is not."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from transformations.documents import parse_document


def _text(page: str) -> str:
    document = parse_document(page.encode(), path="a.html")
    assert document.error is None, document.error
    return document.text


SECTIONS = "<h1>Pump</h1><p>One two three.</p><h2>Oil</h2><p>Four five six.</p>"
KEPT = "# Pump\n\nOne two three.\n\n## Oil\n\nFour five six."


@pytest.mark.parametrize(
    "around",
    [
        "{}",
        "<html><body>{}</body></html>",
        "<!doctype html><title>T</title><body><section>{}</section></body>",
        "<div class='wrapper'><div id=content>{}</div></div>",
        "<main>{}</main>",
        "<main><article>{}</article></main>",
        "<table role='presentation'><tr><td>{}</td></tr></table>",
        "<table><tr><td>{}</td></tr></table>",
        "<html><head><meta content='Word'></head><body lang=EN><div class=WordSection1>{}</div></body>",
        "<body><nav><a href='/'>Home</a></nav><div class='navbar'><a href=b>Back</a></div>{}<footer>(c)</footer>",
        "<body><header><a href='/'>Site</a></header>{}<div class=navfooter><a href=n>Next</a></div></body>",
        "<?xml version='1.0' encoding='utf-8'?><html xmlns='http://www.w3.org/1999/xhtml'><body>{}</body></html>",
        "<div>" * 400 + "{}",
    ],
)
def test_headings_and_paragraphs_are_kept_on_every_kind_of_page(around: str) -> None:
    assert _text(around.format(SECTIONS)) == KEPT


def test_all_that_a_reader_sees_is_kept() -> None:
    page = """<main><h2 id=a>Valves<a class=headerlink href="#a" title="Permalink">¶</a></h2>
    <ul><li><a href=x>Inlet</a></li><li><a href=y>Outlet</a><ol start=3><li>deep</li></ol></li></ul>
    <aside>Mind the heat.</aside><figure><img src=p.png alt="A pump"><figcaption>Figure 1</figcaption></figure>
    <details><summary>More</summary>inside</details><dl><dt>bar<dt>psi<dd>pressure</dl>
    <table><caption>Sizes</caption><tr><th>DN<th>mm<tr><td rowspan=2>15<td>20<tr><td>21</table>
    <pre class="language-py"><code>def f():
        return 1</code></pre><p>10<sup>6</sup> of H<sub>2</sub>O, <del>old</del> <b>b</b><i>old</i></p>
    <blockquote>said</blockquote><address>Main<br>Town<br><br>Land</address></main>"""
    assert _text(page) == (
        "## Valves\n\n- Inlet\n\n- Outlet\n\n  3. deep\n\nMind the heat.\n\nA pump\n\nFigure 1\n\n"
        "**More**\n\ninside\n\n- bar, psi: pressure\n\nSizes:\n\n| DN | mm |\n| --- | --- |\n"
        "| 15 | 20 |\n| 15 | 21 |\n\n```py\ndef f():\n        return 1\n```\n\n"
        "10^6 of H2O, ~~old~~ **b***old*\n\n> said\n\nMain Town\n\nLand"
    )


def test_a_heading_in_a_table_heads_the_rows_below_it_and_a_table_of_sections_is_none() -> None:
    members = "<table><tr><td colspan=2><h2>Members</h2></td></tr><tr><td>int</td><td>x</td></tr></table>"
    assert _text(members) == "## Members\n\n|  |  |\n| --- | --- |\n| int | x |"
    assert _text(f"<table><tr><td><a href=x>menu</a><td>{SECTIONS}<tr><td>left<td>right</table>").startswith(
        f"menu\n\n{KEPT}\n\n"
    )
    assert _text(f"<ul><li>{SECTIONS}</li></ul>") == KEPT
    numbered = "<table><tr><td class=linenos><pre>1\n2</pre><td><pre>a\nb</pre></table>"
    assert "```\na\nb\n```" in _text(numbered)


def test_what_is_hidden_is_not_read_but_what_a_reader_can_choose_is() -> None:
    page = "<p>seen <span style='display: none'>not</span></p><p hidden>never</p><div role=tabpanel hidden>tab</div>"
    assert _text(page) == "seen\n\ntab"
    assert _text("<p>x</p><script>alert(1)</script><style>p{}</style><template>t</template>") == "x"


def test_of_a_page_of_a_website_the_article_is_taken_with_its_headings() -> None:
    sentences = " ".join(
        f"The pump number {n} moves {n * 7} litres of oil through the pipe every hour." for n in range(9)
    )
    teasers = "".join(
        f"<div><a href='/{n}'>Ten facts about celebrity number {n} that surprise</a></div>" for n in range(9)
    )
    page = (
        "<html><head><meta property='og:type' content='article'><title>T</title></head><body>"
        f"<div>{teasers}</div><div><h1>Pumps</h1><p>{sentences}</p><h2>Oil</h2><p>{sentences.replace('oil', 'fat')}</p>"
        f"<ul><li>one</li></ul><p>At last, {sentences}</p></div><div>{teasers}</div></body></html>"
    )
    text = _text(page)
    assert "# Pumps" in text
    assert "## Oil" in text
    assert "- one" in text
    assert "celebrity" not in text


def test_a_title_outside_the_main_part_is_kept() -> None:
    assert _text("<header><h1>Pump</h1></header><main><p>Oil.</p></main>") == "# Pump\n\nOil."


TAGS = st.sampled_from(
    [
        "p",
        "div",
        "h1",
        "h2",
        "h6",
        "ul",
        "ol",
        "li",
        "dl",
        "dt",
        "dd",
        "table",
        "tr",
        "td",
        "th",
        "thead",
        "caption",
        "b",
        "i",
        "code",
        "pre",
        "a",
        "br",
        "sup",
        "q",
        "blockquote",
        "section",
        "details",
        "summary",
        "figure",
        "span",
        "img",
        "article",
        "aside",
    ]
)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(TAGS, st.booleans(), st.sampled_from(["one", "two", "", " "])), max_size=30))
@example([("h1", False, "one")] * 30)
@example([("td", False, "one"), ("li", True, "two"), ("dd", False, "one")])
def test_no_word_of_any_nesting_is_lost_or_said_twice(parts: list[tuple[str, bool, str]]) -> None:
    """Whatever is left open or shut twice."""
    page = "".join(
        f"<{'/' if is_end else ''}{tag}>{word}{n if word.strip() else ''} "
        for n, (tag, is_end, word) in enumerate(parts)
    )
    document = parse_document(page.encode(), path="a.html")
    wanted = re.findall(r"(?:one|two)\d+", page)
    assert sorted(re.findall(r"(?:one|two)\d+", document.text)) == sorted(wanted)


def test_however_deep_it_nests_a_page_is_read() -> None:
    for tag in ("div", "ul><li", "blockquote", "dl><dd", "table><tr><td", "b><i", "h1", "span"):
        assert "deep" in _text(f"<{tag}>" * 400 + "deep")
    assert (parse_document(b"<div>" * 3000 + b"deep", path="a.html").error or "").startswith(
        "unparseable: elements nest"
    )


def test_what_a_page_asks_to_be_repeated_is_bounded() -> None:
    wide = "<table><tr>" + "<td colspan=1000>a" * 1000 + "<tr><td>b" * 1000
    tall = "<table>" + "<tr>" + "<td rowspan=65534>cell" * 200 + "<tr>" * 5000
    for page in (wide, tall):
        assert len(_text(page)) < 50 * len(page)
