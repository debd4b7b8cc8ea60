"""What all commands share: their options, their settings, their log, and how they print results."""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from pipelines.settings.layers import FILE_NAME
from pipelines.settings.load import load_settings
from pipelines.settings.redaction import SafeFormatter, redacted, safe
from pipelines.settings.sections import Settings
from pipelines.storage.object_path import is_address
from transformations.errors import EXIT_DONE, EXIT_NOTHING_TO_DO

_NAMED_FILES = 3
_OF_LIBRARIES = "lakeloop: what libraries tell"
# Control characters, which JSON may contain but a terminal would obey, and lone surrogates, which cannot be encoded.
_NOT_IN_JSON = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

if TYPE_CHECKING:
    from pipelines.flow.outcome import Outcome

Config = Annotated[Path | None, typer.Option("--config", help=f"The settings; else the nearest {FILE_NAME}.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a setting.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Force = Annotated[bool, typer.Option("--force", help="Do it although a limit refuses it.")]
From = Annotated[Path | None, typer.Option("--from", metavar="FOLDER", help="Take the documents of this folder.")]
Detailed = Annotated[bool, typer.Option("--detailed-exitcode", help="Exit with 3 when there was nothing to do.")]


class Finished(Exception):
    """Ends a command that has done its work, with this exit code."""

    def __init__(self, code: int) -> None:
        self.code = code


def settings_of(config: Path | None, overrides: list[str] | None, landing: Path | None = None) -> Settings:
    """Load the command's settings, and open its log."""
    settings = _settings_of(config, overrides, landing)
    log_to(settings)
    return settings


def _settings_of(config: Path | None, overrides: list[str] | None, landing: Path | None) -> Settings:
    extra = [f"landing={json.dumps(place_of(landing))}"] if landing else []
    return load_settings(config, overrides=[*(overrides or []), *extra])


def place_of(landing: Path) -> str:
    """What --from names: an address as it is (of which a path keeps one slash), or a folder as an absolute path."""
    return str(landing) if is_address(str(landing)) else str(landing.absolute())


def log_to(settings: Settings) -> None:
    """Log INFO to the workspace's log file, and warnings to the terminal (INFO too, if stderr is no terminal)."""
    stderr = logging.StreamHandler(sys.stderr)
    stderr.setLevel(logging.WARNING if sys.stderr.isatty() else logging.INFO)
    handlers: list[logging.Handler] = [stderr]
    try:
        settings.log_path.parent.mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(settings.log_path, encoding="utf-8"))
        # `main` prints an error itself, in one line; the traceback goes to the file.
        stderr.addFilter(lambda record: record.levelno < logging.ERROR)
    except OSError:
        stderr.setLevel(logging.INFO)
    for handler in handlers:
        handler.setFormatter(SafeFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    for earlier in logging.getLogger("pipelines").handlers:
        if isinstance(earlier, logging.FileHandler):  # of a command before this one in the same process
            earlier.close()
    for name in ("pipelines", "expectations", "transformations"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        logger.handlers = handlers
        logger.propagate = False
    # Messages of libraries, such as that of the bridge to Java after Ctrl-C, go to the file only. Without a handler
    # here, Python would print them.
    root = logging.getLogger()
    for earlier in [handler for handler in root.handlers if handler.name == _OF_LIBRARIES]:
        root.removeHandler(earlier)
    of_libraries = handlers[-1] if len(handlers) > 1 else logging.NullHandler()
    of_libraries.name = _OF_LIBRARIES
    root.addHandler(of_libraries)


def say(facts: Mapping[str, Any], text: str, as_json: bool) -> None:
    """Print one JSON object, or the text, without secrets and without control characters for the terminal."""
    print(_as_json(facts) if as_json else safe(text))


def _as_json(facts: Mapping[str, Any]) -> str:
    """JSON for any reader, in which characters that stdout's encoding lacks are escapes."""
    is_utf8 = (getattr(sys.stdout, "encoding", None) or "").lower().replace("-", "") == "utf8"
    text = redacted(json.dumps(facts, default=str, ensure_ascii=not is_utf8))
    return _NOT_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def run_commands(
    commands: list[str],
    config: Path | None,
    overrides: list[str] | None,
    landing: Path | None,
    force: bool,
    detailed: bool,
    as_json: bool,
    *,
    take_over: str | None = None,
    maintain_now: bool = False,
) -> None:
    from pipelines.conductor.run import new_context, run_to_end
    from pipelines.conductor.stages import stage_named

    context = new_context(settings_of(config, overrides, landing), force=force)
    context.take_over, context.maintain_now = take_over, maintain_now
    outcome = run_to_end(context, stages=[stage_named(command) for command in commands])
    lines = lines_of(outcome)
    if as_json or lines:
        say(outcome.to_json(), lines, as_json)
    outcome.check()
    raise Finished(outcome.exit_code(detailed=detailed))


def watch_commands(
    commands: list[str],
    config: Path | None,
    overrides: list[str] | None,
    landing: Path | None,
    force: bool,
    seconds: float,
    detailed: bool,
    as_json: bool,
) -> NoReturn:
    """Run the commands after each change, until a signal; exit as the last run that did something or failed."""
    from pipelines.conductor.run import new_context
    from pipelines.conductor.stages import stage_named
    from pipelines.conductor.watch import Round, watch, watched_folders

    def print_round(of: Round) -> None:
        line = f"{datetime.now():%H:%M:%S}  {round_line(of.files, of.outcome)}"
        print(safe(line), file=sys.stderr if as_json else sys.stdout, flush=True)

    def settings() -> Settings:
        return _settings_of(config, overrides, landing)

    context = new_context(settings_of(config, overrides, landing), force=force)
    folders = ", ".join(map(str, watched_folders(context.settings)))
    print(safe(f"watching {folders}; Ctrl-C ends it"), file=sys.stderr, flush=True)
    stages = [stage_named(command) for command in commands]
    watched = watch(context, stages=stages, seconds=seconds, on_round=print_round, settings=settings)
    facts = {"stopped": True, "runs": watched.runs, "last": watched.last and watched.last.to_json()}
    say(facts, f"stopped after {watched.runs} runs", as_json)
    if watched.last is None:
        raise Finished(EXIT_NOTHING_TO_DO if detailed else EXIT_DONE)
    watched.last.check()
    raise Finished(watched.last.exit_code(detailed=detailed))


def round_line(files: Sequence[str], outcome: Outcome) -> str:
    """One line for one run of a watch: the files that started it, then each stage's counts."""
    named = ", ".join(files[:_NAMED_FILES]) + (
        f" and {len(files) - _NAMED_FILES} more" if len(files) > _NAMED_FILES else ""
    )
    did = [f"{s.stage}: {_counted(s.counts)}" for s in outcome.stages]
    did += [f"FAILED {failure}" for failure in outcome.failures if failure.error is not None]
    return " · ".join([*([named] if named else []), *did, f"{outcome.seconds:.1f} s"])


def lines_of(outcome: Outcome) -> str:
    """What a run did, one line for each stage."""
    lines = [f"{s.stage:<18} {_counted(s.counts)}  ({s.seconds:.1f} s)" for s in outcome.stages]
    if not outcome.failures:
        lines.append(f"done in {outcome.seconds:.1f} s" if outcome.stages else "nothing has changed: nothing to do")
    return "\n".join(lines)


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{value} {name}" for name, value in counts.items() if value) or "no rows"
