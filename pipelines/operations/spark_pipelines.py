"""A workspace in; its declared pipeline, as `spark-pipelines` of the installed Spark reads and runs it, out."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from contextlib import redirect_stdout
from io import TextIOBase
from pathlib import Path

import yaml

from pipelines.lakehouse.folders import FolderLakehouse
from pipelines.lakehouse.predicates import quoted
from pipelines.lakehouse.statements import text
from pipelines.lakehouse.table_log import is_lost_history
from pipelines.progress import Step
from pipelines.settings.pipeline import pipeline_configuration
from pipelines.settings.sections import Settings
from transformations.errors import ExpectationFailedError, LakeloopError

log = logging.getLogger(__name__)
SCHEMA = "declared"
NO_RETRIES = "spark.sql.pipelines.maxFlowRetryAttempts"
_DEFINITIONS = Path(__file__).parents[1] / "declarative"
_BEGIN = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d: ")
_EVENT = re.compile(r"Flow '?([^\s']+)'? (?:is|has) ([A-Z]+)")
# Spark begins what went wrong with the name of its kind.
_REASON = re.compile(r"\[[A-Z][A-Z0-9_]+(?:\.[A-Z0-9_]+)*\] [^\n]+")
_BROKEN = re.compile(r"rule '[a-z0-9_]+' \(fail\) is broken in [^\n]*?source")


def specification(settings: Settings, folder: Path, *, file: Path, overrides: Sequence[str]) -> Path:
    """Write the specification of the pipeline into `folder`, where its checkpoints are too. Returns its path."""
    definitions = folder / "definitions"
    definitions.unlink(missing_ok=True)
    definitions.symlink_to(_DEFINITIONS)
    bronze = quoted(f"{settings.schema_prefix}bronze")
    spec = {
        "name": SCHEMA,
        "storage": folder.as_uri(),
        "database": f"{settings.schema_prefix}{SCHEMA}",
        "libraries": [{"glob": {"include": "definitions/**"}}],
        "configuration": pipeline_configuration(file, overrides=overrides, bronze=bronze),
    }
    path = folder / "spark-pipeline.yml"
    path.write_text(yaml.safe_dump(spec, sort_keys=False), encoding="utf-8")
    return path


def catalog_of(lake: FolderLakehouse, tables: Sequence[str]) -> list[str]:
    """SQL that tells a catalog of the schemas, and of these tables by their locations."""
    prefix = lake.settings.schema_prefix
    own = lake.folder(f"{SCHEMA}.documents").parent
    statements = [
        f"CREATE SCHEMA IF NOT EXISTS {quoted(f'{prefix}bronze')}",
        f"CREATE SCHEMA IF NOT EXISTS {quoted(f'{prefix}{SCHEMA}')} LOCATION {text(str(own))}",
    ]
    for table in tables:
        schema, name = table.split(".")
        statements.append(
            f"CREATE TABLE {quoted(f'{prefix}{schema}')}.{quoted(name)} USING delta "
            f"LOCATION {text(str(lake.folder(table)))}"
        )
    return statements


def run_pipeline(spec: Path, step: Step, *, datasets: tuple[Sequence[str], Sequence[str]] | None) -> None:
    """Have `spark-pipelines` run the pipeline in this process, by the server that SPARK_REMOTE names.

    Args:
        datasets: those to compute anew, and the others; None: a dry run.

    Raises:
        ExpectationFailedError: a row breaks a rule of level fail.
        LakeloopError: it failed otherwise. The text is the one line that says why.
    """
    from pyspark.errors import PySparkException
    from pyspark.pipelines import cli as spark_pipelines

    from pipelines.lakehouse.remote import connected

    connected(os.environ["SPARK_REMOTE"], {})
    events = Events(step)
    anew, others = datasets or ([], [])
    try:
        with redirect_stdout(events):
            # Where some are to be computed anew, it leaves out every other one that is not named.
            spark_pipelines.run(spec, anew, False, others if anew else [], datasets is None)
    except PySparkException as error:
        raise failure(error, events) from None


class Events(TextIOBase):
    """What `spark-pipelines` prints, line by line: it goes to the log, and each flow that is done advances the step.

    Attributes:
        failed: the dataset whose flow failed first.
        told: the lines that say why.
    """

    def __init__(self, step: Step) -> None:
        self._step = step
        self._line = ""
        self._is_telling = False
        self.failed = ""
        self.told: list[str] = []

    def write(self, words: str) -> int:
        *lines, self._line = (self._line + words).split("\n")
        for line in lines:
            log.info("spark-pipelines: %s", line)
            event = _EVENT.search(line)
            if event and event[2] == "COMPLETED":
                self._step.advance()
            if event and event[2] == "FAILED" and not self.failed:
                self.failed, self._is_telling = event[1].rpartition(".")[2], True
            elif _BEGIN.match(line):
                self._is_telling = False
            if self._is_telling:
                self.told.append(line)
        return len(words)


def failure(error: Exception, events: Events) -> LakeloopError:
    """The error of a run that failed, with the one line that says why: the innermost of Spark's."""
    message = "\n".join([str(error), *events.told])
    if broken := _BROKEN.search(message):
        return ExpectationFailedError(f"pipelines run: {broken[0]}")
    if is_lost_history(ValueError(message)):
        return LakeloopError(
            "pipelines run: the files of arrivals that were not read yet are gone. Read all that are there anew, with: "
            "lakeloop pipelines run --full-refresh documents_parsed"
        )
    reasons = _REASON.findall(message) or [line.strip() for line in message.splitlines() if line.strip()]
    what = f"the dataset {events.failed}" if events.failed else "the pipeline"
    return LakeloopError(f"pipelines run: {what} failed: {reasons[-1][:500] if reasons else type(error).__name__}")
