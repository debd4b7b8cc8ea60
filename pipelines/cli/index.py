"""The commands about an index and its table; each prints one JSON object with --json."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from pipelines.cli.options import (
    Config,
    Detailed,
    Finished,
    Force,
    From,
    Json,
    Set,
    lines_of,
    run_commands,
    say,
    settings_of,
)
from transformations.errors import EXIT_DONE, EXIT_NOTHING_TO_DO, EXIT_SET_ASIDE, ExpectationFailedError, RefusedError


def add_index_commands(app: typer.Typer) -> None:
    """Add the commands to the command line, in the order of an index's life."""
    app.command()(plan)
    app.command("sync-index")(sync_index)
    app.command()(verify)
    app.command()(audit)
    app.command()(repair)
    app.command()(rebuild)
    app.command()(replay)
    app.command()(swap)
    app.command()(forget)


def plan(
    config: Config = None,
    overrides: Set = None,
    landing: From = None,
    force: Force = False,
    detailed: Detailed = False,
    as_json: Json = False,
) -> None:
    """What the next run would add, change, delete and embed; exit 7 where a limit would refuse it. No Spark."""
    from pipelines.conductor.run import new_context
    from pipelines.operations.plan import plan as make_plan
    from pipelines.operations.plan import render

    made = make_plan(new_context(settings_of(config, overrides, landing), force=force))
    say(made.to_json(), render(made), as_json)
    if made.refused_by:
        raise Finished(RefusedError.exit_code)
    is_idle = detailed and not made.documents and not made.embed and not made.also_due
    raise Finished(EXIT_NOTHING_TO_DO if is_idle else EXIT_DONE)


def sync_index(
    config: Config = None,
    overrides: Set = None,
    force: Force = False,
    take_over: Annotated[
        str | None,
        typer.Option(metavar="WORKSPACE", help="Make another workspace's index this one's, where that is no more."),
    ] = None,
    detailed: Detailed = False,
    as_json: Json = False,
) -> None:
    """gold.chunk_index → the vector index, equal to it."""
    run_commands(["sync-index"], config, overrides, None, force, detailed, as_json, take_over=take_over)


def verify(config: Config = None, overrides: Set = None, as_json: Json = False) -> None:
    """Compare files, tables and indexes with each other; exit 4 and name what differs."""
    from pipelines.conductor.run import new_context
    from pipelines.operations.verify import verify as compare

    result = compare(new_context(settings_of(config, overrides)))
    facts = f"{result.documents} documents, {result.chunks} chunks, {result.index_rows} index rows"
    if result.is_equal:
        text = f"equal: {facts}, version {result.version}, fingerprint {result.fingerprint}"
    else:
        shown = [f"{d.where}: {d.kind} {d.key!r} {d.detail}".rstrip() for d in result.differences[:20]]
        more = [f"… and {len(result.differences) - 20} more"] if len(result.differences) > 20 else []
        mend = [f"put right by: {' && '.join(result.remedies)}"]
        text = "\n".join([f"NOT equal, {len(result.differences)} differences ({facts}):", *shown, *more, *mend])
    say(result.to_json(), text, as_json)
    raise Finished(EXIT_DONE if result.is_equal else ExpectationFailedError.exit_code)


def audit(config: Config = None, overrides: Set = None, as_json: Json = False) -> None:
    """Compare every row and vector of the indexes with the table; exit 4 and name what differs."""
    from pipelines.conductor.run import new_context
    from pipelines.vector_index.audit import audit as compare

    context = new_context(settings_of(config, overrides))
    results = [compare(context, state).to_json() for state in _indexes(context)]
    lines = [
        f"{r['index']}: {'equal' if r['equal'] else 'NOT equal'}, {r['rows']} rows at version {r['version']}"
        + "".join(f"\n  {d['kind']} {d['chunk_id']}" for d in r["differences"][:20])
        + ("" if r["is_fingerprint_right"] else "\n  the manifest's fingerprint is not the table's")
        for r in results
    ]
    say({"indexes": results}, "\n".join(lines) or "no index yet: lakeloop run", as_json)
    raise Finished(EXIT_DONE if all(r["equal"] for r in results) else ExpectationFailedError.exit_code)


def repair(config: Config = None, overrides: Set = None, force: Force = False, as_json: Json = False) -> None:
    """Audit, then write exactly the rows that differ. Embeds nothing."""
    from pipelines.conductor.run import new_context
    from pipelines.flow.lock import only_writer
    from pipelines.vector_index.repair import repair as mend

    context = new_context(settings_of(config, overrides), force=force)
    with only_writer(context.settings):
        results = [mend(context, state) for state in _indexes(context)]
    lines = [
        f"{r['index']}: {r['upserts']} written, {r['deletes']} deleted ({r['differences'] or 'equal'})" for r in results
    ]
    say({"indexes": results}, "\n".join(lines) or "no index yet: lakeloop run", as_json)


def rebuild(
    name: Annotated[str, typer.Argument(metavar="STAGE|TABLE", help="As in chunk-documents, or silver.chunks.")],
    config: Config = None,
    overrides: Set = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Compute a table anew from its source, write what differs, and run what reads it. Embeds what the cache lacks."""
    from pipelines.conductor.run import new_context
    from pipelines.operations.rebuild import rebuild as build

    outcome = build(new_context(settings_of(config, overrides), force=force), name)
    say(outcome.to_json(), lines_of(outcome), as_json)
    raise Finished(outcome.exit_code())


def replay(config: Config = None, overrides: Set = None, as_json: Json = False) -> None:
    """Try every dead letter once more; exit 6 while some stay."""
    from pipelines.conductor.run import new_context
    from pipelines.operations.replay import replay as try_again

    result = try_again(new_context(settings_of(config, overrides)))
    say(result, f"{result['tried']} tried, {result['still_open']} still open", as_json)
    raise Finished(EXIT_SET_ASIDE if result["still_open"] else EXIT_DONE)


def swap(
    back: Annotated[bool, typer.Option("--back", help="Serve what was served before the last swap, at once.")] = False,
    finish: Annotated[bool, typer.Option("--finish", help="Drop the indexes that are not served.")] = False,
    config: Config = None,
    overrides: Set = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Serve the index of the settings' embedding model, if it passes its gates; the old one stays up to date."""
    from pipelines.conductor.run import new_context
    from pipelines.flow.lock import only_writer
    from pipelines.vector_index.swap import finish as drop_others
    from pipelines.vector_index.swap import swap as move
    from pipelines.vector_index.swap import swap_back

    context = new_context(settings_of(config, overrides), force=force)
    with only_writer(context.settings):
        result = drop_others(context) if finish else swap_back(context) if back else move(context)
    lines = [f"{'passed' if g['is_passed'] else 'FAILED'} {g['name']}: {g['detail']}" for g in result.get("gates", [])]
    lines.append(f"readers get {result['serves']}" + (f"; dropped {', '.join(result['dropped'])}" if finish else ""))
    say(result, "\n".join(lines), as_json)


def forget(
    document: Annotated[str, typer.Argument(help="Its path, as in silver.documents, or its document_id.")],
    config: Config = None,
    overrides: Set = None,
    force: Force = False,
    only_index: Annotated[
        bool,
        typer.Option("--only-index", help="Clear the indexes at the settings' address alone, as a receipt says to."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Remove one document: every edition of its text, and what was made of it, wherever lakeloop put it.

    Whose text goes: that of the one document, by path or id; of logged calls the questions and answers that were given
    a chunk of it; of the embedding cache every text that no chunk uses any more. Where: all tables with their older
    versions, and every index that this workspace ever wrote, also by another index.name and at an earlier index.uri.
    Texts of records and other documents stay, though they quote it. The receipt says what was removed and what remains
    (MLflow's traces, logs, the report, backups); exit 6 where an index could not be cleared, with the command for it.
    """
    from pipelines.conductor.run import new_context
    from pipelines.operations.forget import forget as remove
    from pipelines.operations.forget import render

    receipt = remove(new_context(settings_of(config, overrides), force=force), document, only_index=only_index)
    say(receipt, render(receipt), as_json)
    raise Finished(EXIT_SET_ASIDE if receipt["not_cleared"] else EXIT_DONE)


def _indexes(context: Any) -> list[Any]:
    from pipelines.vector_index.state import states

    return [state for state in states(context.lake, context.settings.index.name) if state.role != "shadow"]
