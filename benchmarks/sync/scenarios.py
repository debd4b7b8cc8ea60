"""A trial in; the scenarios S0 to S15 on it, each a function that returns the rows of its measurements, out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.sync.check import compare
from benchmarks.sync.corpus import POISON_WORD
from benchmarks.sync.embedder import MODEL, POISON, SECONDS
from benchmarks.sync.trial import Row, Trial
from benchmarks.sync.writes import count_versions, versions_since

_NEW_MODEL = "stub-b"
_VERSIONS_LOOKED_AT = 20


@dataclass(frozen=True)
class Scenario:
    """One step, or a few that belong together.

    Attributes:
        key: as in the tables; a scenario with several rows adds a letter to it.
        titles: by row.
        ideal: what would be perfect, by row.
        is_timed: it is worth a time: no kill, no failure.
    """

    key: str
    titles: dict[str, str]
    ideal: dict[str, str]
    run: Callable[[Trial], list[Row]]
    is_timed: bool = False


def _plain(key: str, change: Callable[[Trial], object], *, is_empty: bool = False) -> Callable[[Trial], list[Row]]:
    def run(trial: Trial) -> list[Row]:
        trial.reset(is_empty=is_empty)
        change(trial)
        trial.sync()
        return [trial.row(key)]

    return run


def _twins(trial: Trial) -> list[Row]:
    trial.reset()
    trial.corpus.add_twins()
    trial.sync()
    added = trial.row("S6a")
    trial.begin()
    trial.corpus.remove_twins()
    trial.sync()
    return [added, trial.row("S6b")]


def _rewritten(trial: Trial) -> None:
    trial.corpus.rewrite()
    trial.system.overwrite_source()


def _new_model(trial: Trial) -> list[Row]:
    rows = []
    for key, is_told in (("S9a", False), ("S9b", True)):
        if is_told and not trial.system.tells_new_model:
            continue
        trial.reset()
        trial.sync({MODEL: _NEW_MODEL}, is_new_model=is_told)
        rows.append(trial.row(key, trial.check(model=_NEW_MODEL), note=_mixture(trial)))
    return rows


def _mixture(trial: Trial) -> str:
    """How many of the versions that readers could see meanwhile hold two models, of those looked at."""
    if trial.system.tag:
        return ""
    versions, chunks = list(versions_since(trial.system.table, trial.mark)), trial.corpus.texts()
    looked_at = versions[:: max(len(versions) // _VERSIONS_LOOKED_AT, 1)]
    mixed = 0
    for version in looked_at:
        found = compare(trial.system.table, chunks, columns=trial.system.columns, model=_NEW_MODEL, version=version)
        mixed += 0 < found.wrong_vectors < found.rows
    return f"{mixed} of {len(looked_at)} versions hold two models" if mixed else ""


def _damaged(trial: Trial) -> list[Row]:
    trial.reset()
    _damage(trial)
    trial.begin()
    trial.outcomes.append(trial.system.repair(trial.variables()))
    return [trial.row("S10")]


def _damage(trial: Trial) -> None:
    """Take 10 rows out of the sink and put 3 into it that no document has, where readers see it."""
    import lance
    import pyarrow as pa

    columns, table = trial.system.columns, trial.system.table
    dataset = lance.dataset(table)
    rows = dataset.to_table(limit=13)
    ids = ", ".join(_literal(key) for key in rows[columns.id].to_pylist()[3:])
    ghosts = [{**row, columns.id: _other(row[columns.id]), columns.text: "a ghost"} for row in rows.to_pylist()[:3]]
    dataset.delete(f"{columns.id} IN ({ids})")
    lance.write_dataset(pa.Table.from_pylist(ghosts, schema=rows.schema), table, mode="append")
    if trial.system.tag:
        dataset = lance.dataset(table)
        dataset.tags.update(trial.system.tag, dataset.version)


def _literal(value: Any) -> str:
    return str(value) if isinstance(value, int) else "'" + str(value).replace("'", "''") + "'"


def _other(key: Any) -> Any:
    return key + 1_000_000_000 if isinstance(key, int) else f"ghost-{key}"


def _killed(key: str, moment: Callable[[Trial], Callable[[], bool]]) -> Callable[[Trial], list[Row]]:
    def run(trial: Trial) -> list[Row]:
        trial.reset(is_empty=True)
        trial.sync({SECONDS: "0.05"}, kill_when=moment(trial))
        verb = "ended before the kill," if trial.outcomes[-1].exit is not None else "killed after"
        note = f"{verb} {trial.embedded():,} texts and {count_versions(trial.system.table):,} versions"
        trial.sync()
        return [trial.row(key, note=note)]

    return run


def _half_embedded(trial: Trial) -> Callable[[], bool]:
    return lambda: trial.embedded() >= trial.chunks // 2


def _fifth_write(trial: Trial) -> Callable[[], bool]:
    """The last write, for a system whose whole load takes fewer."""
    writes = min(5, trial.base_versions)
    return lambda: count_versions(trial.system.table) >= writes


def _killed_edit(trial: Trial) -> list[Row]:
    trial.reset()
    before = set(trial.corpus.texts())
    edited = set(trial.corpus.edit_documents())
    trial.sync({SECONDS: "2"}, kill_when=lambda: trial.embedded(event="begin") > 0)
    gone = before - trial.searchable()
    note = f"{len(gone):,} old chunks gone, of them {len(gone & edited):,} edited" if gone else "old text found"
    trial.sync()
    return [trial.row("S12c", note=note)]


def _poisoned(trial: Trial) -> list[Row]:
    trial.reset()
    poison, old = trial.corpus.poison()
    trial.sync({POISON: POISON_WORD})
    others = [text for text in trial.corpus.texts() if text != poison]
    return [trial.row("S13", trial.check(others, optional=[old]))]


def _emptied(trial: Trial) -> list[Row]:
    trial.reset()
    before = trial.corpus.texts()
    trial.corpus.empty()
    trial.sync()
    return [trial.row("S14", trial.check(before))]


def _two_at_once(trial: Trial) -> list[Row]:
    trial.reset()
    trial.corpus.edit_documents()
    both = [trial.system.start(trial.variables({SECONDS: "1"})) for _ in range(2)]
    trial.outcomes += [running.wait() for running in both]
    return [trial.row("S15")]


def _scenario(
    key: str, title: str, ideal: str, run: Callable[[Trial], list[Row]], *, is_timed: bool = False
) -> Scenario:
    return Scenario(key, {key: title}, {key: ideal}, run, is_timed)


SCENARIOS: tuple[Scenario, ...] = (
    _scenario("S0", "initial load", "E N, W N", _plain("S0", lambda trial: None, is_empty=True), is_timed=True),
    _scenario("S1", "nothing changed", "0 / 0 / 0", _plain("S1", lambda trial: None), is_timed=True),
    _scenario(
        "S2",
        "1 % of the documents, one paragraph each",
        "E = paragraphs",
        _plain("S2", lambda trial: trial.corpus.edit_documents()),
        is_timed=True,
    ),
    _scenario(
        "S3",
        "a document of 10 chunks deleted",
        "D 10, 1-2 commits",
        _plain("S3", lambda trial: trial.corpus.delete_document()),
        is_timed=True,
    ),
    _scenario(
        "S4",
        "one paragraph of the 200-chunk document",
        "1 / 1 / 1",
        _plain("S4", lambda trial: trial.corpus.edit_long_document()),
        is_timed=True,
    ),
    _scenario(
        "S5",
        "a paragraph in front of it",
        "E 1",
        _plain("S5", lambda trial: trial.corpus.insert_in_front()),
        is_timed=True,
    ),
    Scenario(
        "S6",
        {"S6a": "two identical documents added", "S6b": "and both removed"},
        {"S6a": "E 10, W 20", "S6b": "D 20"},
        _twins,
    ),
    _scenario("S7", "file times touched", "0 / 0 / 0", _plain("S7", lambda trial: trial.corpus.touch()), is_timed=True),
    _scenario("S8", "everything overwritten with equal content", "0 / 0 / 0", _plain("S8", _rewritten), is_timed=True),
    Scenario(
        "S9",
        {"S9a": "embedding model changed", "S9b": "the same, and the library told"},
        {"S9a": "E N, never two models", "S9b": "E N, never two models"},
        _new_model,
    ),
    _scenario("S10", "index damaged: -10 rows, +3 ghosts", "noticed, 13 writes", _damaged),
    _scenario("S11", "the sync's own history lost", "E 0", _plain("S11", lambda trial: trial.system.lose_history())),
    _scenario("S12a", "kill -9 at half of S0, then again", "E <= N + a batch", _killed("S12a", _half_embedded)),
    _scenario("S12b", "kill -9 after the 5th index write, then again", "as S12a", _killed("S12b", _fifth_write)),
    _scenario("S12c", "edit, kill -9 while embedding, then again", "old text found", _killed_edit),
    _scenario("S13", "a poison chunk + an edit + a delete", "the rest applied, exit not 0", _poisoned),
    _scenario("S14", "the folder is empty", "refused", _emptied),
    _scenario("S15", "two runs at once", "one wins, exact", _two_at_once),
)
