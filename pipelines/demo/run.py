"""The demo: delivers the documentation of several versions of a package, and runs the stages after each delivery.

Then it answers questions, and writes summary.json and report.html.
"""

from __future__ import annotations

import filecmp
import json
import os
import shlex
import shutil
import sys
import threading
import time
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from pipelines.answering.questions import heading_questions, read_questions
from pipelines.conductor.run import new_context, run_stages
from pipelines.conductor.stages import DOCUMENT_STAGES, stage_named
from pipelines.demo.workspace import check_environment, check_folder, make_workspace, note_delivery
from pipelines.flow.lock import only_writer
from pipelines.flow.outcome import Outcome
from pipelines.inference.answer_questions import add_questions
from pipelines.machine.assets import ensure_assets, fetch_sdist
from pipelines.machine.cache import cache_dir
from pipelines.machine.java import find_java
from pipelines.monitoring.report import write_report
from pipelines.operations.verify import verify
from pipelines.progress import Progress
from pipelines.settings.sections import Settings
from transformations.errors import ConfigurationError

if TYPE_CHECKING:
    from rich.console import RenderableType

_VERSIONS = {
    "pytest": ["6.2.5", "7.4.4", "8.3.4"],
    "sqlalchemy": ["1.3.24", "1.4.54", "2.0.36"],
}
_DOCUMENTATION_FOLDERS = ("doc", "docs", "Doc", "documentation")
_HEADING_QUESTIONS = 12
_INFERENCE_STAGES = tuple(stage_named(command) for command in ("answer-questions", "monitor"))


def run_demo(
    folder: Path, package: str, *, versions: Sequence[str] | None, begin: Callable[[Settings], None] = lambda _: None
) -> dict[str, Any]:
    """Run the whole loop in a new workspace. Returns the summary, which is also written to its summary.json.

    An earlier demo in `folder` is removed only after all that this one needs was fetched.

    Args:
        versions: oldest first; None: those that lakeloop knows for the package.
        begin: called with the workspace's settings before the first delivery.

    Raises:
        ConfigurationError: no versions are known for the package, its distribution has no documentation, there is no
            Java, the folder has something that no demo made, or environment variables name other places.
    """
    start = time.monotonic()
    versions = list(versions or _VERSIONS.get(package.lower()) or [])
    if not versions:
        raise ConfigurationError(f"demo: name the versions of {package}, oldest first: --versions 1.0,2.0,3.0")
    check_environment(os.environ)
    check_folder(folder)
    find_java()
    ensure_assets()
    sources = [documentation(package, version, target=cache_dir() / "sources") for version in versions]
    settings = make_workspace(folder)
    begin(settings)
    progress = Progress()
    with PeakMemory() as memory:
        deliveries = []
        for version, source in zip(versions, sources, strict=True):
            deliver(source, settings.path(settings.landing))
            outcome = run_stages(new_context(settings, progress=progress, force=True), stages=DOCUMENT_STAGES)
            with progress.step("verify"):
                deliveries.append(_delivery(version, outcome, settings))
        _ask(settings, package)
        outcome = run_stages(new_context(settings, progress=progress), stages=_INFERENCE_STAGES)
    answered = next(s.counts for s in outcome.stages if s.stage == "answer-questions")
    summary = {
        "package": package,
        "deliveries": deliveries,
        "retrieval": _retrieval(settings),
        "answers": {
            "count": answered["answered"],
            "grounded": answered["grounded"],
            "quoted": answered["quoted"],
        },
        "inference_seconds": {s.stage: round(s.seconds, 2) for s in outcome.stages},
        "peak_memory_mb": memory.peak_mb,
        "seconds": round(time.monotonic() - start, 1),
        "report": str(settings.path(settings.report)),
    }
    # Written with the summary, because no table has the versions and the verifications.
    write_report(new_context(settings), summary=summary)
    (settings.root / "summary.json").write_text(json.dumps(summary, indent=2, default=str) + "\n", encoding="utf-8")
    return summary


def documentation(package: str, version: str, *, target: Path) -> Path:
    """The documentation folder of a package's source distribution, which is fetched once and never built.

    Raises:
        ConfigurationError: it has none.
    """
    root = fetch_sdist(package, version, target=target / f"{package}-{version}")
    for name in _DOCUMENTATION_FOLDERS:
        if (root / name).is_dir():
            return root / name
    raise ConfigurationError(
        f"demo: {package} {version} has no documentation among {', '.join(_DOCUMENTATION_FOLDERS)} in its source "
        "distribution. Take another package."
    )


def deliver(source: Path, landing: Path) -> None:
    """Make `landing` have exactly the files of `source`: add new ones, replace those that differ, remove the rest."""
    wanted = {p.relative_to(source) for p in source.rglob("*") if p.is_file() and not p.is_symlink()}
    note_delivery(landing.parent, {path.as_posix(): source / path for path in wanted})
    for held in [p for p in landing.rglob("*") if p.is_file()]:
        if held.relative_to(landing) not in wanted:
            held.unlink()
    for path in sorted(wanted):
        to = landing / path
        if to.is_file() and filecmp.cmp(source / path, to, shallow=False):
            continue
        to.parent.mkdir(parents=True, exist_ok=True)
        # Not copy2, so that the file has the time of its arrival.
        shutil.copyfile(source / path, to)


def _delivery(version: str, outcome: Outcome, settings: Settings) -> dict[str, Any]:
    start = time.monotonic()
    result = verify(new_context(settings))
    counts = {stage.stage: stage.counts for stage in outcome.stages}
    seconds = {stage.stage: round(stage.seconds, 2) for stage in outcome.stages}
    return {
        "version": version,
        "documents": {k: counts["ingest-documents"][k] for k in ("new", "changed", "gone", "unchanged")},
        "set_aside": sum(c.get("set_aside", 0) for c in counts.values()),
        "chunks": result.chunks,
        "embeddings": {k: counts["embed-chunks"][k] for k in ("computed", "cached")},
        "index": {k: counts["sync-index"][k] for k in ("upserts", "deletes", "rows")},
        "verified": result.is_equal,
        "seconds": {**seconds, "verify": round(time.monotonic() - start, 2)},
    }


def _ask(settings: Settings, package: str) -> None:
    context = new_context(settings)
    own = read_questions(Path(str(files("pipelines.demo") / "questions.jsonl")))
    rows = [row for row in own if row.get("package") == package.lower()]
    columns = ["path", "heading_path", "document_id", "ordinal"]
    rows += heading_questions(context.lake.read_arrow("silver.chunks", columns=columns), limit=_HEADING_QUESTIONS)
    with only_writer(settings):
        add_questions(context, rows, batch="demo")


def _retrieval(settings: Settings) -> dict[str, Any]:
    rows = new_context(settings).lake.read_arrow("monitoring.retrieval_metrics").to_pylist()
    values = {row["metric_name"]: row for row in rows if row["slice_key"] is None}
    return {
        "questions": values["hit_at_5"]["n"],
        "hit_at_5": round(values["hit_at_5"]["value"], 4),
        "mrr": round(values["mrr"]["value"], 4),
    }


def render(summary: dict[str, Any]) -> list[RenderableType]:
    """The summary for the terminal: a table of deliveries, the answers, and what to try next."""
    from rich.table import Table

    table = Table(title=f"{summary['package']}'s documentation, delivery by delivery", title_justify="left")
    table.add_column("")
    for delivery in summary["deliveries"]:
        table.add_column(delivery["version"], justify="right")

    def row(name: str, *keys: str) -> None:
        cells = []
        for delivery in summary["deliveries"]:
            value: Any = delivery
            for key in keys:
                value = value.get(key, 0)
            cells.append("yes" if value is True else "NO" if value is False else f"{value:,}")
        table.add_row(name, *cells)

    for key in ("new", "changed", "gone", "unchanged"):
        row(f"documents {key}", "documents", key)
    row("rows set aside", "set_aside")
    row("chunks", "chunks")
    row("embeddings computed", "embeddings", "computed")
    row("  from the cache", "embeddings", "cached")
    for key in ("upserts", "deletes", "rows"):
        row(f"index {key}", "index", key)
    row("files = tables = index", "verified")
    for stage in summary["deliveries"][0]["seconds"]:
        row(f"seconds {stage}", "seconds", stage)
    retrieval, answers = summary["retrieval"], summary["answers"]
    workspace = Path(summary["report"]).parent
    # With its path if the name alone is not found, because the virtual environment is not activated.
    program = "lakeloop" if shutil.which("lakeloop") else shlex.quote(str(Path(sys.executable).with_name("lakeloop")))
    return [
        table,
        f"{answers['count']} questions answered: {answers['grounded']} grounded in their sources, {answers['quoted']} "
        f"replaced by a quotation. The gold section was among the first 5 chunks for {retrieval['hit_at_5']:.0%} of "
        f"{retrieval['questions']} (MRR {retrieval['mrr']:.2f}).",
        f"{summary['seconds']:.0f} s, at most {summary['peak_memory_mb']:,} MB. Report: {summary['report']}",
        f"\nGo on there:\n  cd {shlex.quote(str(workspace))}\n"
        f'  {program} ask "How do I share a fixture between test files?"\n'
        f'  {program} search "temporary directory"\n'
        f"  {program} status",
    ]


class PeakMemory:
    """Measures the most memory that this process and all its descendants had at once, sampled twice a second.

    Shared pages count once if the system reports them (PSS); else each process counts with its RSS.
    """

    def __init__(self) -> None:
        self.peak_mb = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        import psutil

        me = psutil.Process()
        while not self._stop.wait(0.5):
            total = 0
            for process in (me, *me.children(recursive=True)):
                try:
                    memory = process.memory_full_info()
                    total += getattr(memory, "pss", 0) or memory.rss
                except psutil.Error:
                    continue
            self.peak_mb = max(self.peak_mb, total // 1_000_000)
