"""The tables of the schema inference: questions, logged calls and labels."""

from __future__ import annotations

import pyarrow as pa

from pipelines.lakehouse.schemas.spec import DOUBLE, INT, LONG, STRING, STRINGS, TIMESTAMP, TableSpec, table_spec

RETRIEVED = pa.list_(
    pa.struct([("doc_id", STRING), ("chunk_id", STRING), ("rank", INT), ("score", DOUBLE), ("index_version", STRING)])
)

TABLES: dict[str, TableSpec] = {
    "inference.requests": table_spec(
        "arrivals",
        ("request_id", STRING),
        ("client_request_id", STRING),
        ("question", STRING),
        ("requester", STRING),
        ("batch_run_id", STRING),
        ("requested_at", TIMESTAMP),
        key="request_id",
        holds="request_id",
    ),
    "inference.inference_log": table_spec(
        "log",
        ("request_id", STRING),
        ("request_date", pa.date32()),
        ("client_request_id", STRING),
        ("request_time", TIMESTAMP),
        ("status_code", INT),
        ("sampling_fraction", DOUBLE),
        ("execution_duration_ms", LONG),
        ("request", STRING),
        ("response", STRING),
        ("logging_error_codes", STRINGS),
        ("served_entity_id", STRING),
        ("requester", STRING),
        ("model_id", STRING),
        ("model_name", STRING),
        ("model_version", STRING),
        ("model_alias_at_time", STRING),
        ("prompt_uri", STRING),
        ("prompt_version", INT),
        ("trace_id", STRING),
        ("prediction", STRING),
        ("prediction_proba", DOUBLE),
        ("features_ref", pa.struct([("table", STRING), ("version", LONG)])),
        ("input_tokens", LONG),
        ("output_tokens", LONG),
        ("retrieved", RETRIEVED),
        ("batch_run_id", STRING),
        partition_by="request_date",
        holds="request_id",
    ),
    "inference.labels": table_spec(
        "arrivals",
        ("request_id", STRING),
        ("label", STRING),
        ("label_time", TIMESTAMP),
        ("label_source", STRING),
        ("valid_from", TIMESTAMP),
        holds="request_id",
    ),
}
