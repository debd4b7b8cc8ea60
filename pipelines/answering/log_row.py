"""Makes the row of inference.inference_log for one call; every call has one, also a failed one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pipelines.models.chat import Completion
from pipelines.models.prompts import Prompt
from pipelines.stores import Hit, Manifest

INFERENCE_LOG = "inference.inference_log"
SERVED_ENTITY = "answering"
STATUS_OK = 200


@dataclass(frozen=True)
class Call:
    """What is known of a call before it is made: who asks what, and when. `batch_run_id` is None outside batches."""

    request_id: str
    question: str
    requested_at: datetime
    requester: str
    client_request_id: str | None = None
    batch_run_id: str | None = None


def log_row(
    call: Call,
    *,
    status_code: int,
    request: Mapping[str, Any],
    response: Mapping[str, Any],
    model: tuple[str, str],
    prompt: Prompt,
    manifest: Manifest,
    hits: Sequence[Hit],
    trace_id: str | None,
    model_seconds: float,
    prediction: str | None = None,
    completion: Completion | None = None,
) -> dict[str, Any]:
    """The row: column → value. Columns that do not apply to text answers are left out, so they are null.

    Args:
        call: the call.
        status_code: 200, or that of the error.
        request: what was asked, to be stored as JSON.
        response: what was answered, or the error, to be stored as JSON.
        model: name and version in the settings.
        prompt: the prompt's version.
        manifest: the index as it was searched.
        hits: the retrieved chunks, best first.
        trace_id: the id of the trace in MLflow; None if there is none.
        model_seconds: time spent in the language model.
        prediction: the text of the answer as it was given; None for a failed call.
        completion: the answer of the model, for its numbers of tokens; None if the model did not answer.
    """
    version = str(manifest.version)
    return {
        "request_id": call.request_id,
        "request_date": call.requested_at.date(),
        "client_request_id": call.client_request_id,
        "request_time": call.requested_at,
        "status_code": status_code,
        "sampling_fraction": 1.0,
        "execution_duration_ms": round(model_seconds * 1000),
        "request": json.dumps(request, ensure_ascii=False),
        "response": json.dumps(response, ensure_ascii=False),
        "logging_error_codes": [],
        "served_entity_id": SERVED_ENTITY,
        "requester": call.requester,
        "model_id": "/".join(model),
        "model_name": model[0],
        "model_version": model[1],
        "prompt_uri": prompt.uri,
        "prompt_version": prompt.version,
        "trace_id": trace_id,
        "prediction": prediction,
        "features_ref": {"table": manifest.source_table, "version": manifest.version},
        "input_tokens": completion.input_tokens if completion else None,
        "output_tokens": completion.output_tokens if completion else None,
        "retrieved": [
            {"doc_id": h.document_id, "chunk_id": h.chunk_id, "rank": rank, "score": h.score, "index_version": version}
            for rank, h in enumerate(hits, start=1)
        ],
        "batch_run_id": call.batch_run_id,
    }
