"""The command about rules: what they said last, and a validation of whole tables with Data Docs."""

from __future__ import annotations

from typing import Annotated

import typer

from pipelines.cli_options import Config, Finished, Json, Set, say, settings_of
from transformations.errors import EXIT_DONE, ExpectationFailedError


def add_quality_commands(app: typer.Typer) -> None:
    app.command()(quality)


def quality(
    validate: Annotated[
        bool, typer.Option("--validate", help="Judge whole tables now, and build the Data Docs of the results.")
    ] = False,
    config: Config = None,
    overrides: Set = None,
    as_json: Json = False,
) -> None:
    """What the rules of each table said last, and where the Data Docs are; exit 4 where one of level fail is broken."""
    from pipelines.quality_results import describe, validate_tables
    from pipelines.run import new_context, only_writer

    context = new_context(settings_of(config, overrides))
    if validate:
        with only_writer(context.settings):
            validate_tables(context)
    facts, text = describe(context.lake, context.settings)
    say(facts, text, as_json)
    raise Finished(ExpectationFailedError.exit_code if facts["failed"] else EXIT_DONE)
