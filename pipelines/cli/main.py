"""The command line `lakeloop`: its commands, their exit codes, and how errors are shown.

Heavy libraries are imported by the command that needs them, so that a run with nothing to do ends without loading them.
"""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from pipelines.cli.index import add_index_commands
from pipelines.cli.options import (
    Config,
    Detailed,
    Finished,
    Force,
    From,
    Json,
    Set,
    log_to,
    place_of,
    run_commands,
    say,
    settings_of,
    watch_commands,
)
from pipelines.cli.pipelines import add_pipeline_commands
from pipelines.cli.quality import add_quality_commands
from pipelines.cli.records import add_record_commands
from pipelines.cli.trace import add_trace_commands
from pipelines.settings.layers import FILE_NAME, trust
from pipelines.settings.redaction import safe
from pipelines.settings.template import settings_template
from pipelines.storage.object_path import is_address
from transformations.errors import EXIT_INTERRUPTED, ConfigurationError, LakeloopError

log = logging.getLogger("pipelines.cli.main")  # also when run as python -m pipelines.cli.main

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Lakehouse pipelines that close the loop. Start with `lakeloop init`, or `lakeloop demo`.",
    epilog="Exit codes: 0 done or nothing to do (3 with --detailed-exitcode), 4 an expectation failed, "
    "5 configuration, 6 done with some rows set aside, 7 refused as dangerous.",
)


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version of lakeloop.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the version as a JSON object.")] = False,
) -> None:
    if version:
        found = _version()
        say({"lakeloop": found}, f"lakeloop {found or '(not installed: run from its source)'}", as_json)
        raise typer.Exit
    if as_json:
        context.fail("Only --version takes --json here; that of a command stands behind its name.")
    if context.invoked_subcommand is None:
        context.fail("Missing command.")


def _version() -> str | None:
    from importlib import metadata

    try:
        return metadata.version("lakeloop")
    except metadata.PackageNotFoundError:
        return None


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="The workspace to make.")] = Path(),
    landing: From = None,
    as_json: Json = False,
) -> None:
    """Write lakeloop.yml with every setting at its default, and make the landing folder."""
    path = folder / FILE_NAME
    if path.exists():
        raise ConfigurationError(f"{path} is there already; nothing was written. Edit it, or remove it first.")
    text = settings_template()
    if landing is not None:
        text = text.replace("\nlanding: landing\n", f"\nlanding: {json.dumps(place_of(landing))}\n")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        if landing is None or not is_address(str(landing)):
            (landing or folder / "landing").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"cannot write {path}: {error.strerror}. Choose a folder of your own.") from None
    with suppress(ConfigurationError):  # if it cannot be trusted, folders below must name the file with --config
        trust(path)
    say({"settings": str(path)}, f"wrote {path}. Put documents into the landing folder, then: lakeloop run", as_json)


@app.command("trust")
def trust_settings(
    folder: Annotated[Path, typer.Argument(help="The folder of a lakeloop.yml.")] = Path(),
    as_json: Json = False,
) -> None:
    """Let the folders below use this folder's lakeloop.yml, which names servers, secrets and code."""
    file = folder if folder.is_file() else folder / FILE_NAME
    if not file.is_file():
        raise ConfigurationError(f"no settings file at {file}. Write one with: lakeloop init")
    trust(file)
    say({"trusted": str(file.absolute())}, f"{file.absolute()} is used from the folders below it", as_json)


@app.command()
def setup(
    wheel: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Also write the embedding model as a wheel, for machines that fetch none."),
    ] = None,
    object_storage: Annotated[
        bool, typer.Option("--object-storage", help="Also the jars with which Spark reads and writes S3.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Fetch Delta's jars and the models into the cache, once, each checked by its hash."""
    from pipelines.machine.assets import ensure_assets, s3_jars
    from pipelines.machine.cache import cache_dir
    from pipelines.machine.models_wheel import write_models_wheel

    fetched = ensure_assets()
    if object_storage:
        s3_jars()
    text = f"fetched {', '.join(fetched)}" if fetched else f"everything is in {cache_dir()}"
    written = write_models_wheel(wheel) if wheel else None
    facts = {"fetched": fetched, "cache": str(cache_dir()), "wheel": written and str(written)}
    say(facts, f"{text}\nwrote {written}" if written else text, as_json)


@app.command()
def doctor(config: Config = None, overrides: Set = None, as_json: Json = False) -> None:
    """Check Java, jars, models, versions, name clashes and write access; say how to mend what is wrong."""
    from pipelines.operations.doctor import diagnose

    checks = diagnose(settings_of(config, overrides))
    lines = [
        f"{'ok     ' if c.ok else 'WRONG  '} {c.name}: {c.detail}{'' if c.ok else f'  → {c.remedy}'}" for c in checks
    ]
    is_well = all(check.ok for check in checks)
    say({"ok": is_well, "checks": [vars(check) for check in checks]}, "\n".join(lines), as_json)
    raise Finished(0 if is_well else ConfigurationError.exit_code)


@app.command()
def run(
    config: Config = None,
    overrides: Set = None,
    landing: From = None,
    until: Annotated[str | None, typer.Option(metavar="STAGE", help="The last stage to run, as in sync-index.")] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on: bring in what changes, until SIGINT or SIGTERM.")
    ] = False,
    seconds: Annotated[float, typer.Option(min=0.1, help="With --watch: a run after so long without a change.")] = 60.0,
    force: Force = False,
    detailed: Detailed = False,
    as_json: Json = False,
) -> None:
    """Run every stage whose input has moved, and no other."""
    from pipelines.conductor.stages import STAGES, stage_named

    commands = [stage.command for stage in STAGES]
    if until is not None:
        commands = commands[: commands.index(stage_named(until).command) + 1]
    if watch:
        watch_commands(commands, config, overrides, landing, force, seconds, detailed, as_json)
    run_commands(commands, config, overrides, landing, force, detailed, as_json)


@app.command("ingest-documents")
def ingest_documents(
    config: Config = None,
    overrides: Set = None,
    landing: From = None,
    force: Force = False,
    detailed: Detailed = False,
    as_json: Json = False,
) -> None:
    """Files that are new, changed or gone → bronze.documents."""
    run_commands(["ingest-documents"], config, overrides, landing, force, detailed, as_json)


@app.command("answer-questions")
def answer_questions(
    questions: Annotated[Path | None, typer.Option(help="JSON lines: question, and gold {path, heading}.")] = None,
    batch: Annotated[str, typer.Option(help="Name of the batch; the same questions in it are asked once.")] = "default",
    config: Config = None,
    overrides: Set = None,
    detailed: Detailed = False,
    as_json: Json = False,
) -> None:
    """inference.requests (and those of a file) → answers with their sources in inference.inference_log."""
    if questions is not None:
        from pipelines.answering.questions import read_questions
        from pipelines.conductor.run import new_context
        from pipelines.flow.lock import only_writer
        from pipelines.inference.answer_questions import add_questions

        context = new_context(settings_of(config, overrides))
        rows = read_questions(questions)
        with only_writer(context.settings):
            add_questions(context, rows, batch=batch)
    run_commands(["answer-questions"], config, overrides, None, False, detailed, as_json)


def _add_stage_command(command: str, text: str) -> None:
    def stage_command(
        config: Config = None, overrides: Set = None, detailed: Detailed = False, as_json: Json = False
    ) -> None:
        run_commands([command], config, overrides, None, False, detailed, as_json)

    app.command(command, help=text)(stage_command)


@app.command("maintain")
def maintain(
    config: Config = None,
    overrides: Set = None,
    force: Annotated[bool, typer.Option("--force", help="At once, due or not.")] = False,
    detailed: Detailed = False,
    as_json: Json = False,
) -> None:
    """Every table → itself in fewer files, without versions that nobody needs."""
    run_commands(["maintain"], config, overrides, None, False, detailed, as_json, maintain_now=force)


# Copies of the stages' own help (a test compares them): importing the stages here would load all that they need.
_STAGE_HELP = {
    "refine-documents": "bronze.documents → silver.documents, its history and its quarantine.",
    "refine-records": "bronze.records_* → silver.records_*, their history and their quarantine.",
    "build-features": "The source of each feature table in the settings → gold.features_*.",
    "chunk-documents": "silver.documents → silver.chunks.",
    "embed-chunks": "silver.chunks → gold.embeddings and gold.chunk_index.",
    "monitor": "inference.inference_log and inference.labels → profile and quality metrics.",
    "report": "All tables → one self-contained report.html.",
}
for _command, _text in _STAGE_HELP.items():
    _add_stage_command(_command, _text)


add_index_commands(app)
add_record_commands(app)
add_quality_commands(app)
add_pipeline_commands(app)
add_trace_commands(app)


@app.command()
def search(
    query: Annotated[str, typer.Argument(help="What to look for.")],
    k: Annotated[int, typer.Option("-k", min=1, max=1000, help="How many chunks.")] = 5,
    where: Annotated[
        str | None, typer.Option(help="Keep rows that pass, as in: format = rst and not path = a.md")
    ] = None,
    config: Config = None,
    overrides: Set = None,
    as_json: Json = False,
) -> None:
    """Find the chunks nearest to a query. No Spark."""
    from pipelines.answering.search import search as find
    from transformations.tables.filters import parse_filter

    hits = find(settings_of(config, overrides), query, k=k, where=None if where is None else parse_filter(where))
    lines = [
        f"{hit.score:.3f}  {hit.path} › {' › '.join(hit.heading_path)}\n       {_first_line(hit.text)}" for hit in hits
    ]
    say({"query": query, "hits": [vars(hit) for hit in hits]}, "\n".join(lines) or "nothing found", as_json)


@app.command()
def ask(
    question: Annotated[str, typer.Argument(help="A question about the documents.")],
    config: Config = None,
    overrides: Set = None,
    as_json: Json = False,
) -> None:
    """Answer a question with its sources; the call is logged and traced. No Spark."""
    from pipelines.answering.ask import Answerer, NotLoggedError

    unlogged: NotLoggedError | None = None
    with Answerer(settings_of(config, overrides)) as answerer:
        try:
            answer = answerer.answer(question)
        except NotLoggedError as error:
            answer, unlogged = error.answer, error
    grounded = "grounded in the sources" if answer.is_grounded else "not grounded in the sources"
    note = "quoted from the best source" if answer.is_quoted else grounded
    sources = [f"  [{i}] {s.path} › {' › '.join(s.heading_path)}" for i, s in enumerate(answer.sources, 1)]
    text = "\n".join([answer.text, "", f"({note}; {answer.seconds:.1f} s, trace {answer.trace_id})", *sources])
    say({**vars(answer), "sources": [vars(s) for s in answer.sources]}, text, as_json)
    if unlogged is not None:
        raise unlogged


@app.command()
def status(config: Config = None, overrides: Set = None, as_json: Json = False) -> None:
    """How far each stage and the index are, and what is quarantined; exit 1 where a table is damaged. No Spark."""
    from pipelines.operations.status import describe
    from transformations.errors import DamagedTableError

    facts, text = describe(settings_of(config, overrides))
    say(facts, text, as_json)
    if facts["damaged"]:
        raise Finished(DamagedTableError.exit_code)


@app.command()
def demo(
    package: Annotated[str, typer.Option(help="A package whose documentation to take.")] = "pytest",
    versions: Annotated[str | None, typer.Option(help="Its versions, oldest first: 1.3.24,1.4.54.")] = None,
    folder: Annotated[Path, typer.Option(help="Where it works, in an earlier demo's place.")] = Path("build/demo"),
    as_json: Json = False,
) -> None:
    """The whole loop on three deliveries of a real documentation, from nothing to a report."""
    from rich.console import Console

    from pipelines.demo.run import render, run_demo
    from transformations.errors import ExpectationFailedError

    summary = run_demo(folder, package, versions=versions.split(",") if versions else None, begin=log_to)
    if as_json:
        say(summary, "", as_json)
    else:
        Console().print(*render(summary), sep="\n", highlight=False, soft_wrap=True)
    is_equal = all(delivery["verified"] for delivery in summary["deliveries"])
    raise Finished(0 if is_equal else ExpectationFailedError.exit_code)


def _first_line(text: str, width: int = 110) -> str:
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1] + "…"


def main(arguments: list[str] | None = None) -> None:
    """Run a command. Raises SystemExit for any exit code but 0: Databricks, which calls this, then sees a failure."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # characters that the terminal's encoding lacks become escapes
            stream.reconfigure(errors="backslashreplace")
    code = _guarded(lambda: app(arguments, prog_name="lakeloop"))
    if code:
        raise SystemExit(code)


def _guarded(command: Callable[[], Any]) -> int:
    try:
        command()
    except SystemExit as ended:  # typer's own end: 0, or 2 after it has printed what was wrong with the arguments
        code = ended.code if isinstance(ended.code, int) else 1
        if code == EXIT_INTERRUPTED:
            print("interrupted: run the same command again, it goes on from there", file=sys.stderr)
        return code
    except Finished as finished:
        return finished.code
    except KeyboardInterrupt:  # before typer could take it for its own
        print("interrupted: run the same command again, it goes on from there", file=sys.stderr)
        return EXIT_INTERRUPTED
    except LakeloopError as error:
        _log_failure(str(error))
        print(safe(f"{type(error).__name__}: {error}"), file=sys.stderr)
        return error.exit_code
    except Exception as error:
        _log_failure("the command failed", error=error)
        files = [h.baseFilename for h in logging.getLogger("pipelines").handlers if isinstance(h, logging.FileHandler)]
        first = str(error).strip().splitlines()[0][:300] if str(error).strip() else ""
        where = f"\nThe whole story is in {files[0]}." if files else ""
        print(safe(f"{type(error).__name__}: {first}{where}"), file=sys.stderr)
        return 1
    return 0


def _log_failure(text: str, *, error: Exception | None = None) -> None:
    """Log a failure, if the log is open already: otherwise Python would print the error a second time."""
    if logging.getLogger("pipelines").handlers:
        log.error("%s", text, exc_info=error)


if __name__ == "__main__":
    main()
