"""Measured rows in; two Markdown tables out: counts with exactness, and times as ratios to the first system's."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median

from benchmarks.sync.check import Exactness
from benchmarks.sync.scenarios import SCENARIOS
from benchmarks.sync.trial import Row

ROWS = "rows.jsonl"


def append_row(out: Path, row: Row) -> None:
    with (out / ROWS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(row), ensure_ascii=False) + "\n")


def read_rows(out: Path) -> list[Row]:
    rows = []
    for line in (out / ROWS).read_text(encoding="utf-8").splitlines():
        values = json.loads(line)
        rows.append(Row(**{**values, "exactness": Exactness(**values["exactness"])}))
    return rows


def counts_table(rows: Sequence[Row]) -> str:
    """One line a scenario, one column a system; the last round of each."""
    systems = list(dict.fromkeys(row.system for row in rows))
    last = {(row.scenario, row.system): row for row in rows}
    lines = []
    for scenario in SCENARIOS:
        for key, title in scenario.titles.items():
            if any((key, system) in last for system in systems):
                cells = [_cell(last.get((key, system))) for system in systems]
                lines.append([key, title, scenario.ideal[key], *cells])
    return _markdown(["", "step", "ideal", *systems], lines)


def times_table(rows: Sequence[Row]) -> str:
    """The first system's median seconds of work, and each other's as a multiple of it: the median over rounds.

    In brackets the smallest and the largest. The last line is the process's start, in seconds, which no other holds.
    """
    systems = list(dict.fromkeys(row.system for row in rows))
    first, *others = systems
    by_round = {
        (row.scenario, row.system, row.round): row.seconds
        for row in rows
        if row.exit == "0" and row.seconds is not None
    }
    lines = []
    for scenario in SCENARIOS:
        if not scenario.is_timed:
            continue
        base = {round_: s for (key, system, round_), s in by_round.items() if (key, system) == (scenario.key, first)}
        if not base:
            continue
        ratios = [
            [by_round[scenario.key, system, r] / s for r, s in base.items() if (scenario.key, system, r) in by_round]
            for system in others
        ]
        title = scenario.titles[scenario.key]
        lines.append([scenario.key, title, f"{median(base.values()):.2f} s", *(_ratio(each) for each in ratios)])
    starts = [[row.start_seconds for row in rows if row.system == s and row.start_seconds is not None] for s in systems]
    lines.append(["", "process start", *(f"{median(each):.2f} s" if each else "" for each in starts)])
    return _markdown(["", "step", *systems], lines)


def described(row: Row, *, separator: str = "; ") -> str:
    """E / W / D (commits), and whatever is not as it should be."""
    parts = [f"{row.embedded:,} / {row.upserted:,} / {row.deleted:,} ({row.commits:,})"]
    if not row.exactness.is_exact:
        parts.append(f"**{row.exactness}**")
    if row.exit != "0":
        parts.append(f"exit {row.exit}")
    if row.note:
        parts.append(row.note)
    return separator.join(parts)


def _cell(row: Row | None) -> str:
    return "" if row is None else described(row, separator="<br>")


def _ratio(values: Sequence[float]) -> str:
    if not values:
        return ""
    return f"x {median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def _markdown(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"
