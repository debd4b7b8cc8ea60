"""Every script in benchmarks/ with a size so small that it only shows whether it still runs, and what it prints."""

from __future__ import annotations

import re
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Script and arguments → a pattern of its last lines.
TINY = {
    "stores sync --rows 300 --rounds 1": r"\| 0 \| .*\n\nmedian ratio \d",
    "stores search --rows 300": r"\| 300 \| \d",
    "stores recall --rows 300 --stores lance faiss": r"\| lance \| 1\.000 \| .*\n\| faiss \| 1\.000 \|",
    "quarantine_split --rows 1000 --rounds 1": r"\| two sides, parquet \|",
    "near_duplicates --documents 300 --peer 300": r"\| lakeloop \| 300 \|",
    "as_of_join --events 1000 --rounds 1": r"\| 0 \| \d",
    "feature_refresh --rows 2000 --days 30 --entities 20 --share 0.1 --rounds 1": r"\| 0 \| \d",
    "sync run --peers . --out {folder} --chunks 300 --systems lakeloop --scenarios S1": r"\| S1 \| .* \| 0 / 0 / 0 \(0\) \|",  # noqa: E501
    "sync.idle --out {folder} --chunks 300 --runs 25 --times 1": r"after 25, \d+\.\d\d times as long",
    "sync.watched --out {folder} --chunks 300 --edits 2": r"from saving to commit: \d.*; median \d",
    "sync.scale --out {folder} --chunks 300 400": r"\| 400 \| nothing new \| \d.*\n\n1.33 times the chunks take",
    "sync.first_load --peers . --out {folder} --chunks 300 --systems lakeloop": r"\| 0 \| lakeloop \| \d",
}
QUICK = {"stores sync --rows 300 --rounds 1"}
# Run by a test of their own below, or not at all.
OTHERS = {
    "parse": "needs samples, which its tests make",
    "html": "needs manuals, which its tests make",
    "grounding": "needs the data set QED",
    "off_topic": "needs the data set QED",
    "sync.check": "is what `sync run` calls for every row that it prints",
    "sync.cocoindex_peer": "runs in an environment of its own, which is not built here",
    "sync.langchain_peer": "runs in an environment of its own, which is not built here",
    "sync.llamaindex_peer": "runs in an environment of its own, which is not built here",
}
# Above the 2,000 bytes from which a page of a manual is taken.
PAGE = f"<html><body><h1>Light</h1><p>{'A lamp shines at night. ' * 100}</p></body></html>"


def run(script: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"benchmarks.{script}", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def printed(script: str, *arguments: str | Path) -> str:
    done = run(script, *arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_every_script_is_run_by_a_test_or_has_a_reason() -> None:
    files = [
        f for f in (ROOT / "benchmarks").rglob("*.py") if '__name__ == "__main__"' in f.read_text(encoding="utf-8")
    ]
    names = [".".join(f.relative_to(ROOT / "benchmarks").with_suffix("").parts) for f in files]
    assert {name.removesuffix(".__main__") for name in names} == {call.split()[0] for call in TINY} | OTHERS.keys()


@pytest.mark.parametrize("call", [pytest.param(c, marks=() if c in QUICK else pytest.mark.longest) for c in TINY])
def test_a_script_runs(call: str, tmp_path: Path) -> None:
    script, *arguments = call.format(folder=tmp_path).split()
    assert re.search(TINY[call], printed(script, *arguments))


def test_samples_that_are_not_there_are_told(tmp_path: Path) -> None:
    for script, option, what in (("parse", "--data", "samples"), ("html", "--manuals", "manuals")):
        done = run(script, option, tmp_path)
        assert done.returncode == 1
        assert done.stderr.startswith(f"there are no {what} in {tmp_path}: ")


@pytest.mark.long
def test_samples_are_parsed(tmp_path: Path) -> None:
    sources = tmp_path / "docling_samples" / "csv" / "sources"
    sources.mkdir(parents=True)
    (sources / "lamps.csv").write_text("name,light\nlamp,bright\n", encoding="utf-8")
    (sources.parent / "groundtruth").mkdir()
    (sources.parent / "groundtruth" / "lamps.csv.md").write_text(
        "| name | light |\n| lamp | bright |", encoding="utf-8"
    )
    assert re.search(
        r"\| csv \| 1 \| 1 \| 0 \| .* \| 1\.000 \|", printed("parse", "--data", tmp_path, "--seconds", "0")
    )


@pytest.mark.long
def test_manuals_are_read_in_every_way(tmp_path: Path) -> None:
    manual = tmp_path / "usr/share/gtk-doc/html/gusb"
    manual.mkdir(parents=True)
    (manual / "light.html").write_text(PAGE, encoding="utf-8")
    out = printed("html", "--manuals", tmp_path)
    assert out.count("    gtk-doc: headings") == 6
    assert "| lakeloop | 1 of 1 | 1.000 | 0.000 |" in out


@pytest.mark.longest
@pytest.mark.parametrize(
    ("script", "line"), [("grounding", r"bare +accepted right"), ("off_topic", "0.30: of its own")]
)
def test_a_script_reads_qed(script: str, line: str, shared_data: Path, tmp_path: Path) -> None:
    data = shared_data / "qed" / "qed-dev.jsonlines"
    if not data.is_file():
        pytest.skip(f"the data set QED is not here (looked for {data}; set LAKELOOP_SHARED_DATA)")
    few = tmp_path / "qed.jsonlines"
    with data.open(encoding="utf-8") as lines:  # a question meets 100 passages of others
        few.write_text("".join(islice(lines, 180)), encoding="utf-8")
    assert re.search(line, printed(script, few))
