"""The command that traces an id back to its file and its runs."""

from __future__ import annotations

from typing import Annotated

import typer

from pipelines.cli.options import Config, Json, Set, say, settings_of


def add_trace_commands(app: typer.Typer) -> None:
    @app.command()
    def trace(
        name: Annotated[str, typer.Argument(metavar="ID", help="A chunk_id, document_id, path, or record's key.")],
        config: Config = None,
        overrides: Set = None,
        as_json: Json = False,
    ) -> None:
        """From an index entry, or any row, back to its file, its arrival and its runs. No Spark."""
        from pipelines.conductor.run import new_context
        from pipelines.operations.trace import render
        from pipelines.operations.trace import trace as trace_back

        found = trace_back(new_context(settings_of(config, overrides)), name)
        say(found.to_json(), "\n".join(render(found)), as_json)
