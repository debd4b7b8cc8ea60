"""Manuals of eleven generators and pages of websites in; what each way of reading HTML keeps of them, a table, out.

    apt-get download python3.11-doc openjdk-17-doc postgresql-doc-15 git-doc libeigen3-doc mkdocs-doc libgusb-doc \\
        mkdocs-literate-nav-doc libreoffice-help-en-us    # each unpacked by: dpkg -x PACKAGE.deb MANUALS/
    git clone https://github.com/adbar/trafilatura        # WILD is its folder tests
    bin/in-venv python -m benchmarks.html --manuals MANUALS --rust …/share/doc/rust/html --wild WILD

What a manual's page says is known by how its generator marks it (`MANUALS`): that is the truth, of which no way of
reading knows anything but `<main>`. Headings: of h1 to h6 in it, how many are headings of the Markdown. Words: of its
words, how many are there. Foreign: of the words that are there, how many are not in the truth (navigation, head, foot;
a part of it are the texts of pictures). Websites: trafilatura's own judged set; of the snippets that people said
belong to the text, how many are there; of those that do not (dates, teasers, menus), how many are not.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from lxml import html as lxml_html

from transformations.documents.html import html_to_markdown, parse_html

# name -> folder below MANUALS (or RUST/), pattern, XPath of the truth, XPath of what in it is none.
MANUALS = {
    "Sphinx": ("usr/share/doc/python3.11/html", "**/*.html", "//*[@role='main']", ""),
    "Javadoc": ("usr/share/doc", "**/api/java.base/java/util/*.html", "//main", ""),
    "DocBook": (
        "usr/share/doc/postgresql-doc-15/html",
        "*.html",
        "//body",
        "//*[@class='navheader' or @class='navfooter']",
    ),
    "AsciiDoc": ("usr/share/doc/git-doc", "*.html", "//body", "//*[@id='footer' or @id='toc']"),
    "Doxygen": ("usr/share/doc/libeigen3-dev/html", "[a-z]*.html", "//div[@id='doc-content']", ""),
    "MkDocs": ("usr/share/doc/mkdocs/html", "**/*.html", "//*[@role='main']", ""),
    "MkDocs Material": ("usr/share/doc/mkdocs-literate-nav-doc", "**/*.html", "//article", ""),
    "gtk-doc": (
        "usr/share/gtk-doc/html/gusb",
        "*.html",
        "//body",
        "//table[@class='navigation']|//*[@class='footer']",
    ),
    "LibreOffice help": (
        "usr/share/libreoffice/help/en-US/text/swriter",
        "**/*.html",
        "//*[@id='DisplayArea']",
        "",
    ),
    "rustdoc": ("RUST/std", "*/*.html", "//*[@id='main-content']", ""),
    "mdBook": ("RUST/book", "*.html", "//main", ""),
}
_UNSEEN = (
    ".//script|.//style|.//template|.//noscript|.//button|.//select|.//textarea|.//svg"
    "|.//*[contains(concat(' ',@class,' '),' headerlink ')]"
)


class Page(NamedTuple):
    text: str
    words: Counter[str]
    headings: Counter[str]


def words(text: str) -> Counter[str]:
    text = re.sub(r"<!--.*?-->|\]\([^)]*\)|https?://\S+", " ", text, flags=re.DOTALL)
    return Counter(re.findall(r"[^\W_]+", re.sub(r"\\([^\w\s])", r"\1", text).casefold()))


def key(text: str) -> str:
    return "".join(words(text).elements())


def pages(folder: Path, pattern: str, truth: str, none: str, *, count: int) -> Iterator[Page]:
    """`count` pages of a manual, the same ones each time, with what they say."""
    files = sorted(f for f in folder.glob(pattern) if f.is_file() and 2_000 < f.stat().st_size < 300_000)
    random.Random(7).shuffle(files)
    for file in files:
        text = file.read_text(encoding="utf-8", errors="replace")
        tree = lxml_html.document_fromstring(text.encode(), parser=lxml_html.HTMLParser(encoding="utf-8"))
        found = tree.xpath(truth)
        if not found or count <= 0:
            continue
        count -= 1
        for element in [*(tree.xpath(none) if none else []), *found[0].xpath(_UNSEEN)]:
            if element.getparent() is not None:
                element.drop_tree()
        said = " ".join(found[0].itertext())
        titles = (key(" ".join(h.itertext())) for h in found[0].iter("h1", "h2", "h3", "h4", "h5", "h6"))
        yield Page(text, words(said), Counter(filter(None, titles)))


def trafilatura_(text: str) -> str:
    import trafilatura

    return trafilatura.extract(text, output_format="markdown", include_formatting=True, include_tables=True) or ""


def trafilatura_recall(text: str) -> str:
    import trafilatura

    return (
        trafilatura.extract(
            text, output_format="markdown", include_formatting=True, include_tables=True, favor_recall=True
        )
        or ""
    )


def markdownify_(text: str) -> str:
    from markdownify import markdownify

    return str(markdownify(text, heading_style="ATX", strip=["script", "style"]))


def pandoc(text: str) -> str:
    import pypandoc

    return str(pypandoc.convert_text(text, "gfm-raw_html", "html", extra_args=["--sandbox", "--wrap=none"]))


WAYS: dict[str, Callable[[str], str]] = {
    "lakeloop": lambda text: parse_html(text).markdown,
    "the whole page": html_to_markdown,
    "trafilatura": trafilatura_,
    "trafilatura, favor_recall": trafilatura_recall,
    "markdownify": markdownify_,
    "pandoc": pandoc,
}


def judge(way: Callable[[str], str], of: list[Page]) -> tuple[int, int, float, float]:
    """Headings kept, headings, share of the words kept, share of foreign words."""
    kept = there = words_kept = words_there = said = foreign = 0
    for page in of:
        markdown = way(page.text)
        got = words(markdown)
        titles = Counter(key(title) for title in re.findall(r"^#{1,6} +(.*)$", markdown, flags=re.MULTILINE))
        kept += (titles & page.headings).total()
        there += page.headings.total()
        words_kept += (got & page.words).total()
        words_there += page.words.total()
        said += got.total()
        foreign += (got - page.words).total()
    return kept, there, words_kept / max(words_there, 1), foreign / max(said, 1)


def judge_websites(way: Callable[[str], str], folder: Path, *, count: int) -> tuple[float, float]:
    """Share of the wanted snippets that are there, and of the unwanted ones that are not."""
    judged = sorted(json.loads((folder / "evaldata.json").read_text(encoding="utf-8")).items())
    random.Random(3).shuffle(judged)
    scores: dict[bool, list[bool]] = {True: [], False: []}
    for _, item in judged:
        file = next((f for f in (folder / "cache" / item["file"], folder / "eval" / item["file"]) if f.is_file()), None)
        if file is None or count <= 0:
            continue
        try:
            text = file.read_bytes().decode()
        except UnicodeDecodeError:
            continue
        count -= 1
        got = _flat(way(text))
        scores[True] += [_flat(snippet) in got for snippet in item["with"]]
        scores[False] += [_flat(snippet) not in got for snippet in item["without"]]
    return tuple(sum(found) / max(len(found), 1) for found in scores.values())  # type: ignore[return-value]


def _flat(text: str) -> str:
    return re.sub(r"[\s*`\\_|#>~-]+", " ", text).strip()


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--manuals", type=Path, required=True)
    options.add_argument("--rust", type=Path, help="the manuals that come with a Rust toolchain")
    options.add_argument("--wild", type=Path, help="the folder tests of trafilatura's repository")
    options.add_argument("--pages", type=int, default=12, help="of each manual")
    options.add_argument("--websites", type=int, default=100)
    options.add_argument("--ways", nargs="*", default=list(WAYS))
    chosen = options.parse_args()
    found = {
        name: list(
            pages(
                (chosen.rust or chosen.manuals) / folder[5:] if folder.startswith("RUST/") else chosen.manuals / folder,
                pattern,
                truth,
                none,
                count=chosen.pages,
            )
        )
        for name, (folder, pattern, truth, none) in MANUALS.items()
    }
    if not any(found.values()):
        raise SystemExit(
            f"there are no manuals in {chosen.manuals}: the first lines of --help tell where they come from"
        )
    for name in chosen.ways:
        results = {manual: judge(WAYS[name], of) for manual, of in found.items() if of}
        headings, there = (sum(result[i] for result in results.values()) for i in (0, 1))
        kept, foreign = (sum(result[i] for result in results.values()) / len(results) for i in (2, 3))
        row = f"| {name} | {headings} of {there} | {kept:.3f} | {foreign:.3f} |"
        if chosen.wild:
            wanted, unwanted = judge_websites(WAYS[name], chosen.wild, count=chosen.websites)
            row += f" {wanted:.3f} | {unwanted:.3f} |"
        print(row, flush=True)
        for manual, (k, t, share, other) in results.items():
            print(f"    {manual}: headings {k}/{t} words {share:.3f} foreign {other:.3f}", flush=True)


if __name__ == "__main__":
    main()
