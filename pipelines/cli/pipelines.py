"""The commands that run the declared datasets on this machine; each prints one JSON object with --json."""

from __future__ import annotations

from typing import Annotated

import typer

from pipelines.cli.options import Config, Detailed, Finished, Json, Set, say, settings_of
from pipelines.settings.layers import find_settings


def add_pipeline_commands(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True)
    group.command()(run)
    group.command("dry-run")(dry_run)
    app.add_typer(group, name="pipelines", help="The declared datasets, on this machine, by a Spark of its own.")


def run(
    full_refresh: Annotated[
        list[str] | None,
        typer.Option(metavar="DATASET", help="Empty it, and compute it from all arrivals; may be repeated."),
    ] = None,
    full_refresh_all: Annotated[bool, typer.Option("--full-refresh-all", help="Compute all of them anew.")] = False,
    config: Config = None,
    overrides: Set = None,
    detailed: Detailed = False,
    as_json: Json = False,
) -> None:
    """bronze → the declared datasets of documents, chunks and records, beside the stages' tables."""
    from pipelines.operations.declared import update_declared

    update = update_declared(
        settings_of(config, overrides),
        file=find_settings(config),
        overrides=overrides or [],
        full_refresh=full_refresh or [],
        full_refresh_all=full_refresh_all,
    )
    width = max(map(len, update.rows), default=0)
    lines = [f"{name:<{width}}  {rows:>8} rows  ({update.added[name]:+})" for name, rows in update.rows.items()]
    lines.append(f"done in {update.seconds:.1f} s" if update.is_new else "nothing has changed: nothing to do")
    say(update.to_json(), "\n".join(lines), as_json)
    raise Finished(update.exit_code(detailed=detailed))


def dry_run(config: Config = None, overrides: Set = None, as_json: Json = False) -> None:
    """Check the definitions of the datasets, and how they depend on each other; write none."""
    from pipelines.operations.declared import check_declared

    seconds = check_declared(settings_of(config, overrides), file=find_settings(config), overrides=overrides or [])
    say({"valid": True, "seconds": round(seconds, 1)}, f"the definitions are right ({seconds:.1f} s)", as_json)
