"""The list of all stages, in the order of the data flow. A new stage is added here; all else is in its own module."""

from __future__ import annotations

from pipelines.bronze import ingest_documents, ingest_records
from pipelines.flow.stage import Stage
from pipelines.gold import build_features, embed_chunks
from pipelines.index import sync_index
from pipelines.inference import answer_questions
from pipelines.monitoring import monitor, report
from pipelines.ops import maintain
from pipelines.silver import chunk_documents, refine_documents, refine_records
from transformations.errors import ConfigurationError

STAGES: tuple[Stage, ...] = tuple(
    module.STAGE
    for module in (
        ingest_documents,
        ingest_records,
        refine_documents,
        refine_records,
        build_features,
        chunk_documents,
        embed_chunks,
        sync_index,
        answer_questions,
        monitor,
        maintain,
        report,
    )
)
# The stages that a document goes through until an index serves it.
DOCUMENT_STAGES: tuple[Stage, ...] = tuple(
    module.STAGE for module in (ingest_documents, refine_documents, chunk_documents, embed_chunks, sync_index)
)


def stage_named(command: str) -> Stage:
    """The stage with that command.

    Raises:
        ConfigurationError: there is no such stage.
    """
    by_command = {stage.command: stage for stage in STAGES}
    if command not in by_command:
        raise ConfigurationError.unknown_name("stage", command, by_command)
    return by_command[command]
