"""A number of chunks in; a folder of Markdown files with so many paragraphs, and the edits of each scenario, out.

One paragraph is one chunk, for every system: it has 160 words, some 185 tokens of MiniLM, so that none is cut and no
two fit into lakeloop's 256 tokens. There are no headings, so that the text embedded is the paragraph itself.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from hashlib import blake2b
from itertools import chain
from pathlib import Path

PARAGRAPHS, LONG_PARAGRAPHS = 10, 200
POISON_WORD = "unembeddable"
_LONG, _TWINS, _NEW = "long.md", ("twin-a.md", "twin-b.md"), "in front"
_FILES_A_FOLDER = 1000
_TOUCHED_AT = 1_000_000_000  # a day in 2001: no clock and no rounding can take it for the old time
_VOCABULARY = """
    water house light morning river stone garden paper winter summer market street window letter music school
    village mountain island bridge forest harbor engine wheel glass metal wood cotton bread coffee sugar salt apple
    orange horse cattle sheep bird fish tree flower field road train ship captain doctor teacher writer farmer
    soldier king queen child mother father brother sister friend neighbor stranger hour minute week month year
    north south east west red green blue white black golden silver quiet loud quick slow early late young old
    carries follows leaves brings finds holds opens closes builds breaks turns moves watches hears remembers paints
"""
_WORDS = _VOCABULARY.split()


def paragraph(document: str, number: int, *, edition: int = 0) -> str:
    """160 words in 10 sentences; the first names document, number and edition, so that no two are equal."""
    first = f"Paragraph {number} of document {document.removesuffix('.md')} in edition {edition}"
    digest = blake2b(first.encode(), digest_size=64).digest()
    picks = chain.from_iterable(blake2b(digest, salt=bytes([block])).digest() for block in range(3))
    words = [_WORDS[pick % len(_WORDS)] for pick in picks]
    sentences = [first, *(" ".join(words[start : start + 17]).capitalize() for start in range(0, 153, 17))]
    return ". ".join(sentences) + "."


def paragraphs(text: str) -> list[str]:
    """The chunks of one document's text: what stands between blank lines."""
    return [part for part in text.split("\n\n") if part.strip()]


def read_documents(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """(path below `folder`, its chunks) of every document, sorted by path."""
    for file in sorted(folder.rglob("*.md")):
        yield file.relative_to(folder).as_posix(), paragraphs(file.read_text(encoding="utf-8").strip())


def documents_for(chunks: int) -> int:
    """Documents of 10 chunks that make up `chunks` with the one of 200. Raises ValueError where none do."""
    documents, rest = divmod(chunks - LONG_PARAGRAPHS, PARAGRAPHS)
    if rest or documents < 10:
        raise ValueError(f"{chunks} chunks are not 200 and at least ten times 10; take 2400, 24000 or 240000")
    return documents


class Corpus:
    """The folder of documents. Each step writes what its name says; `restore` takes every step back.

    Files that a step leaves alone keep even their inode: a system that looks at times sees no difference.
    """

    def __init__(self, folder: Path, *, chunks: int) -> None:
        self.folder = folder
        self.documents = documents_for(chunks)
        self.chunks = chunks
        self._aside = folder.with_name(f"{folder.name}.aside")
        self._before: dict[Path, tuple[bytes, int] | None] = {}

    def create(self) -> None:
        for folder in (self.folder, self._aside):
            shutil.rmtree(folder, ignore_errors=True)
        for number in range(self.documents):
            name = _name(number)
            self._text(name, [paragraph(name, i) for i in range(PARAGRAPHS)])
        self._text(_LONG, [paragraph(_LONG, i) for i in range(LONG_PARAGRAPHS)])
        self._before.clear()

    def edit_documents(self) -> list[str]:
        """Change one paragraph in 1 % of the documents. Returns the paragraphs that were there."""
        count = max(round(self.documents / 100), 1)
        return [self._edit(_name(number * self.documents // count), number % PARAGRAPHS) for number in range(count)]

    def delete_document(self) -> None:
        self._write(self.folder / _name(self.documents // 2), None)

    def edit_long_document(self, *, edition: int = 1) -> None:
        self._edit(_LONG, LONG_PARAGRAPHS // 2, edition=edition)

    def insert_in_front(self) -> None:
        """Put a paragraph in front of the 200-chunk document."""
        self._text(_LONG, [paragraph(_NEW, 0), *self._paragraphs(_LONG)])

    def add_twins(self) -> None:
        """Add two documents with equal text."""
        for name in _TWINS:
            self._text(name, [paragraph("twin", i) for i in range(PARAGRAPHS)])

    def remove_twins(self) -> None:
        for name in _TWINS:
            self._write(self.folder / name, None)

    def touch(self) -> None:
        """Give every file another time."""
        self._set_aside()
        subprocess.run(["cp", "-a", self._aside, self.folder], check=True)
        for file in self.folder.rglob("*.md"):
            os.utime(file, (_TOUCHED_AT, _TOUCHED_AT))

    def rewrite(self) -> None:
        """Write every file anew with the same bytes: other inodes, other times."""
        self._set_aside()
        subprocess.run(["cp", "-r", self._aside, self.folder], check=True)

    def empty(self) -> None:
        """Leave the folder without a file, as a mount that failed does."""
        self._set_aside()
        self.folder.mkdir()

    def poison(self) -> tuple[str, str]:
        """Make one paragraph unembeddable, edit another document, delete a third.

        Returns:
            The poison paragraph, and what it was before.
        """
        name = _name(1)
        held = self._paragraphs(name)
        old, held[4] = held[4], f"{paragraph(name, 4, edition=1)} This is {POISON_WORD}."
        self._text(name, held)
        self._edit(_name(2), 5)
        self._write(self.folder / _name(3), None)
        return held[4], old

    def restore(self) -> None:
        if self._aside.exists():
            shutil.rmtree(self.folder)
            self._aside.rename(self.folder)
        for file, before in self._before.items():
            if before is None:
                file.unlink(missing_ok=True)
            else:
                file.write_bytes(before[0])
                os.utime(file, ns=(before[1], before[1]))
        self._before.clear()

    def texts(self) -> list[str]:
        """The chunks that the folder now has."""
        return [chunk for _, chunks in read_documents(self.folder) for chunk in chunks]

    def _edit(self, name: str, number: int, *, edition: int = 1) -> str:
        held = self._paragraphs(name)
        old, held[number] = held[number], paragraph(name, number, edition=edition)
        self._text(name, held)
        return old

    def _paragraphs(self, name: str) -> list[str]:
        return paragraphs((self.folder / name).read_text(encoding="utf-8").strip())

    def _text(self, name: str, chunks: list[str]) -> None:
        self._write(self.folder / name, ("\n\n".join(chunks) + "\n").encode())

    def _write(self, file: Path, content: bytes | None) -> None:
        before = (file.read_bytes(), file.stat().st_mtime_ns) if file.exists() else None
        self._before.setdefault(file, before)
        if content is None:
            file.unlink()
        else:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)

    def _set_aside(self) -> None:
        self.folder.rename(self._aside)


def _name(number: int) -> str:
    return f"{number // _FILES_A_FOLDER:03d}/document-{number:05d}.md"
