"""The commands about rules: their last results, a validation of whole tables, and what was set aside."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from pipelines.cli.options import Config, Finished, Json, Set, say, settings_of
from pipelines.quality.quarantine import SetAside
from transformations.errors import EXIT_DONE, ExpectationFailedError
from transformations.text.printable import printable_line


def add_quality_commands(app: typer.Typer) -> None:
    app.command()(quality)
    app.command()(quarantine)


def quality(
    validate: Annotated[
        bool, typer.Option("--validate", help="Judge whole tables now, and build the Data Docs of the results.")
    ] = False,
    config: Config = None,
    overrides: Set = None,
    as_json: Json = False,
) -> None:
    """What the rules of each table said last, and where the Data Docs are; exit 4 where one of level fail is broken."""
    from pipelines.conductor.run import new_context
    from pipelines.flow.lock import only_writer
    from pipelines.quality.results import describe, validate_tables

    context = new_context(settings_of(config, overrides))
    if validate:
        with only_writer(context.settings):
            validate_tables(context)
    facts, text = describe(context)
    say(facts, text, as_json)
    raise Finished(ExpectationFailedError.exit_code if facts["failed"] else EXIT_DONE)


def quarantine(
    table: Annotated[
        list[str] | None, typer.Option(help="Only of this table, as in silver.documents_quarantine; may be repeated.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many; the longest waiting first.")] = 100,
    config: Config = None,
    overrides: Set = None,
    as_json: Json = False,
) -> None:
    """Everything that was set aside: table, key, reason, since when, attempts and the next step. No Spark."""
    from pipelines.conductor.run import new_context
    from pipelines.quality.quarantine import passed_over, quarantined

    context = new_context(settings_of(config, overrides))
    found = quarantined(context, tables=table or ())
    kinds = {} if table else passed_over(context.settings)
    facts: dict[str, Any] = {
        "total": len(found),
        "set_aside": [one.to_json() for one in found[:limit]],
        "passed_over": [{"kind": k, "files": n, "first": first} for k, (n, first) in kinds.items()],
    }
    lines = [line for one in found[:limit] for line in _lines_of(one)] or ["nothing is set aside"]
    if len(found) > limit:
        lines.append(f"and {len(found) - limit} more: --limit {len(found)}")
    if kinds:
        kinds_text = ", ".join(printable_line(f"{n} {k} (as {first})", width=160) for k, (n, first) in kinds.items())
        lines.append(f"passed over, for no pattern of ingest.include names their kind: {kinds_text}")
    say(facts, "\n".join(lines), as_json)


def _lines_of(one: SetAside) -> list[str]:
    """Four lines about one row that was set aside, without control characters, which a document may contain."""
    since = f"since {one.since:%Y-%m-%d %H:%M:%S} UTC" if one.since else "since an unknown time"
    rules = f"[{', '.join(one.rules)}] " if one.rules else ""
    return [
        printable_line(f"{one.table}  {one.key}  {one.what}", width=400),
        f"    {printable_line(rules + one.reason, width=1_000) or 'no reason was given'}",
        f"    {since}, {_attempts(one.attempts)}",
        f"    → {printable_line(one.next_step, width=1_000)}",
    ]


def _attempts(count: int | None) -> str:
    return "attempts unknown" if count is None else f"{count} attempt{'' if count == 1 else 's'}"
