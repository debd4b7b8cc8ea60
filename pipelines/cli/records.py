"""The command ingest-records: once, or (with --continuous) until it is stopped."""

from __future__ import annotations

from typing import Annotated

import typer

from pipelines.cli.options import Config, Detailed, Json, Set, run_commands, say, settings_of


def add_record_commands(app: typer.Typer) -> None:
    @app.command("ingest-records")
    def ingest_records(
        continuous: Annotated[
            bool, typer.Option("--continuous", help="Go on, and refine what comes, until SIGINT or SIGTERM.")
        ] = False,
        seconds: Annotated[float, typer.Option(min=0.1, help="With --continuous: between two looks.")] = 10.0,
        config: Config = None,
        overrides: Set = None,
        detailed: Detailed = False,
        as_json: Json = False,
    ) -> None:
        """Sources of records → bronze.records_*, each record exactly once."""
        if not continuous:
            run_commands(["ingest-records"], config, overrides, None, False, detailed, as_json)
            return
        from pipelines.conductor.continuous import ingest_until_stopped
        from pipelines.conductor.run import new_context

        counts = ingest_until_stopped(new_context(settings_of(config, overrides)), seconds=seconds)
        sources_text = (
            ", ".join(f"{count['records']} records from {name}" for name, count in counts.items())
            or "no sources of records"
        )
        say({"stopped": True, "sources": counts}, f"stopped after {sources_text}", as_json)
