"""Folders of sample files in; a table of what became of them, format by format, and how fast, out.

    bin/in-venv python -m benchmarks.parse

Bare: the library that reads the format, called as its documentation shows, in this process, with nothing around it.
Ours: the same files by two `ParserProcess`es side by side, with their limits, as two Spark tasks have them; each is
warm, as it is from a task's second file on. The text recovered is the share of the words of docling's Markdown for the
same file (docling's own output, not a reading by people) that ours has, each as often as there; links' targets and
picture marks do not count.
"""

from __future__ import annotations

import argparse
import csv
import io
import re
import threading
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from email import message_from_bytes, policy
from pathlib import Path
from statistics import median

from pipelines.documents.parser_process import Limits, ParserProcess
from transformations.documents import ParsedDocument, format_of

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
LIMITS = Limits(60, 1024)
ROUNDS = 5


def samples(data: Path) -> list[Path]:
    """Every sample file of a format that is ours, sorted."""
    found = [*(data / "docling_samples").rglob("sources/*"), *(data / "pdf_samples").rglob("*.pdf")]
    return sorted(f for f in found if f.is_file() and format_of(f.name) != "text")


def bare_pdf(content: bytes) -> object:
    import pypdfium2

    document = pypdfium2.PdfDocument(content)
    return "\n".join(page.get_textpage().get_text_bounded() for page in document)


def bare_office(suffix: str) -> Callable[[bytes], object]:
    from markitdown import StreamInfo
    from markitdown.converters import DocxConverter, PptxConverter, XlsxConverter

    converter = {"docx": DocxConverter, "pptx": PptxConverter, "xlsx": XlsxConverter}[suffix]()
    return lambda content: converter.convert(io.BytesIO(content), StreamInfo(extension=f".{suffix}"))


def bare_html(content: bytes) -> object:
    import trafilatura

    return trafilatura.extract(content.decode(), output_format="markdown", include_tables=True)


def bare_asciidoc(content: bytes) -> object:
    import pypandoc

    return pypandoc.convert_text(content.decode(), "gfm", "asciidoc", verify_format=False)


def bare_markdown(content: bytes) -> object:
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark").enable("table").parse(content.decode())


BARE: dict[str, Callable[[bytes], object]] = {
    "pdf": bare_pdf,
    "html": bare_html,
    "asciidoc": bare_asciidoc,
    "markdown": bare_markdown,
    "csv": lambda content: list(csv.reader(io.StringIO(content.decode()))),
    "email": lambda content: message_from_bytes(content, policy=policy.default).get_body().get_content(),
    **{suffix: (lambda c, s=suffix: bare_office(s)(c)) for suffix in ("docx", "pptx", "xlsx")},
}


def words(markdown: str) -> Counter[str]:
    """The words of a Markdown text, without comments, targets of links and escapes."""
    text = re.sub(r"<!--.*?-->|&(?:amp|lt|gt);|\]\([^)]*\)|https?://\S+", " ", markdown, flags=re.DOTALL)
    return Counter(re.findall(r"[^\W_]+", re.sub(r"\\([_*|\[\]()#.!<>-])", r"\1", text).casefold()))


def truth_of(file: Path) -> Path | None:
    """docling's Markdown for a sample, where there is one."""
    folder = file.parent.parent / "groundtruth"
    return next((p for p in (folder / f"{file.name}.md", folder / f"{file.stem}.md") if p.is_file()), None)


def recalled(file: Path, text: str) -> tuple[int, int] | None:
    """Words of docling's Markdown that `text` has, and all of them."""
    truth = truth_of(file)
    if truth is None:
        return None
    wanted = words(truth.read_text(encoding="utf-8"))
    return (wanted & words(text)).total(), wanted.total()


def parse_all(files: Sequence[Path]) -> dict[Path, ParsedDocument]:
    with ParserProcess(LIMITS) as process:
        return {file: process.parse(file.read_bytes(), path=file.name) for file in files}


def bare_seconds(contents: Sequence[bytes], parse: Callable[[bytes], object]) -> float:
    start = time.perf_counter()
    for content in contents:
        try:
            parse(content)
        except Exception:  # what a bare library makes of a broken file is its own affair
            continue
    return time.perf_counter() - start


def our_seconds(contents: Sequence[tuple[str, bytes]], processes: Sequence[ParserProcess]) -> float:
    """Each process takes the next file as soon as it is free."""
    waiting, lock = iter(contents), threading.Lock()

    def work(process: ParserProcess) -> None:
        while True:
            with lock:
                item = next(waiting, None)
            if item is None:
                return
            process.parse(item[1], path=item[0])

    threads = [threading.Thread(target=work, args=(process,)) for process in processes]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - start


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, default=DATA, help="the folder of docling_samples and pdf_samples")
    options.add_argument("--seconds", type=float, default=2.0, help="about so much work of the bare library a round")
    chosen = options.parse_args()
    warnings.simplefilter("ignore")
    by_format: dict[str, list[Path]] = defaultdict(list)
    for file in samples(chosen.data):
        by_format[format_of(file.name)].append(file)
    if not by_format:
        raise SystemExit(
            f"there are no samples in {chosen.data}: name the folder of docling_samples and pdf_samples (--data)"
        )
    parsed = parse_all([file for files in by_format.values() for file in files])
    print(
        "| format | files | text | refused | files a second, two workers | the bare library | of twice that | "
        "text recovered |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    refused: list[str] = []
    totals = [0.0, 0.0]
    with ParserProcess(LIMITS) as one, ParserProcess(LIMITS) as two:
        for name, files in sorted(by_format.items()):
            documents = [parsed[file] for file in files]
            refused += [f"{f.name}: {parsed[f].error}" for f in files if parsed[f].error]
            # A broken file costs the bare library nothing: only what both can read is timed.
            timed = [f for f in files if not parsed[f].error]
            contents = [f.read_bytes() for f in timed]
            once = min(bare_seconds(contents, BARE[name]) for _ in range(2))
            repeats = max(1, round(chosen.seconds / max(once, 1e-4)))
            named = [(f.name, c) for f, c in zip(timed, contents, strict=True)]
            for process in (one, two):
                our_seconds(named, [process])
            pairs = [
                (bare_seconds(contents * repeats, BARE[name]), our_seconds(named * repeats, [one, two]))
                for _ in range(ROUNDS)
            ]
            count = len(timed) * repeats
            bare, ours = median(p[0] for p in pairs), median(p[1] for p in pairs)
            totals[0] += bare / repeats
            totals[1] += ours / repeats
            found = [pair for f in timed if (pair := recalled(f, parsed[f].text))]
            share = f"{sum(p[0] for p in found) / sum(p[1] for p in found):.3f}" if found else "-"
            texts = sum(not d.error for d in documents)
            print(
                f"| {name} | {len(files)} | {texts} | {len(files) - texts} | {count / ours:.0f} | {count / bare:.0f} | "
                f"{bare / ours / 2:.2f} | {share} |",
                flush=True,
            )
    print(f"\nall samples: of twice the bare libraries {totals[0] / totals[1] / 2:.2f}\n\nRefused:")
    print("\n".join(f"- {line}" for line in refused))


if __name__ == "__main__":
    main()
