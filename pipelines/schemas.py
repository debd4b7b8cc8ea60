"""The columns of every table, in order; what `Lakehouse.ensure` creates and every stage writes.

Grain and keys are in docs/tables.md. Instants are UTC, microseconds; technical columns start with `_`.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

STRING, LONG, INT, DOUBLE = pa.string(), pa.int64(), pa.int32(), pa.float64()
TIMESTAMP = pa.timestamp("us", tz="UTC")
STRINGS = pa.list_(STRING)
WINDOW = pa.struct([("start", TIMESTAMP), ("end", TIMESTAMP)])
RETRIEVED = pa.list_(
    pa.struct([("doc_id", STRING), ("chunk_id", STRING), ("rank", INT), ("score", DOUBLE), ("index_version", STRING)])
)


@dataclass(frozen=True)
class TableSpec:
    """One table: its columns, its key (empty for a log) and whether its changes are read by a later stage."""

    schema: pa.Schema
    key: tuple[str, ...] = ()
    change_feed: bool = False
    partition_by: tuple[str, ...] = ()

    @property
    def columns(self) -> list[str]:
        return list(self.schema.names)


def _table(
    *columns: tuple[str, pa.DataType], key: str = "", change_feed: bool = False, partition_by: str = ""
) -> TableSpec:
    return TableSpec(pa.schema(list(columns)), tuple(key.split()), change_feed, tuple(partition_by.split()))


_METRIC_GROUP = (
    ("window", WINDOW),
    ("granularity", STRING),
    ("slice_key", STRING),
    ("slice_value", STRING),
    ("model_id", STRING),
)
_METRIC_VALUE = (
    ("metric_name", STRING),
    ("value", DOUBLE),
    ("n", LONG),
    ("stderr", DOUBLE),
    ("scorer_name", STRING),
    ("scorer_version", STRING),
    ("judge_model", STRING),
    ("definition_id", STRING),
)

TABLES: dict[str, TableSpec] = {
    "bronze.documents": _table(
        ("document_id", STRING),
        ("path", STRING),
        ("source", STRING),
        ("op", STRING),
        ("content", pa.binary()),
        ("content_hash", STRING),
        ("size", LONG),
        ("modified_at", TIMESTAMP),
        ("_rescued", STRING),
        ("_ingested_at", TIMESTAMP),
        ("_run_id", STRING),
        change_feed=True,
    ),
    "silver.documents": _table(
        ("document_id", STRING),
        ("path", STRING),
        ("source", STRING),
        ("title", STRING),
        ("text", STRING),
        ("format", STRING),
        ("encoding", STRING),
        ("content_hash", STRING),
        ("size", LONG),
        ("modified_at", TIMESTAMP),
        ("_ingested_at", TIMESTAMP),
        ("_run_id", STRING),
        key="document_id",
        change_feed=True,
    ),
    "silver.documents_quarantine": _table(
        ("document_id", STRING),
        ("path", STRING),
        ("source", STRING),
        ("format", STRING),
        ("content_hash", STRING),
        ("size", LONG),
        ("failed_rules", STRINGS),
        ("reason", STRING),
        ("attempts", INT),
        ("replayed_at", TIMESTAMP),
        ("_ingested_at", TIMESTAMP),
        ("_run_id", STRING),
        key="document_id",
    ),
    "silver.chunks": _table(
        ("chunk_id", STRING),
        ("document_id", STRING),
        ("path", STRING),
        ("title", STRING),
        ("ordinal", INT),
        ("heading_path", STRINGS),
        ("text", STRING),
        ("embed_text", STRING),
        ("text_hash", STRING),
        ("token_count", INT),
        ("format", STRING),
        ("source", STRING),
        key="chunk_id",
        change_feed=True,
    ),
    "silver.chunks_quarantine": _table(
        ("chunk_id", STRING),
        ("document_id", STRING),
        ("path", STRING),
        ("ordinal", INT),
        ("text", STRING),
        ("token_count", INT),
        ("failed_rules", STRINGS),
        ("attempts", INT),
        ("replayed_at", TIMESTAMP),
        ("_run_id", STRING),
        key="chunk_id",
    ),
    "gold.embeddings": _table(
        ("text_hash", STRING),
        ("model", STRING),
        ("revision", STRING),
        ("dimension", INT),
        ("instruction", STRING),
        ("vector", pa.list_(pa.float32())),
        ("_run_id", STRING),
        key="text_hash model revision dimension instruction",
    ),
    "gold.chunk_index": _table(
        ("chunk_id", STRING),
        ("document_id", STRING),
        ("path", STRING),
        ("title", STRING),
        ("heading_path", STRINGS),
        ("text", STRING),
        ("text_hash", STRING),
        ("format", STRING),
        ("source", STRING),
        ("model", STRING),
        ("vector", pa.list_(pa.float32())),
        ("row_hash", STRING),
        key="chunk_id",
        change_feed=True,
    ),
    "inference.requests": _table(
        ("request_id", STRING),
        ("client_request_id", STRING),
        ("question", STRING),
        ("requester", STRING),
        ("batch_run_id", STRING),
        ("requested_at", TIMESTAMP),
        key="request_id",
    ),
    "inference.inference_log": _table(
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
    ),
    "inference.labels": _table(
        ("request_id", STRING),
        ("label", STRING),
        ("label_time", TIMESTAMP),
        ("label_source", STRING),
        ("valid_from", TIMESTAMP),
    ),
    "monitoring.inference_log_profile_metrics": _table(
        ("window", WINDOW),
        ("log_type", STRING),
        ("logging_table_commit_version", INT),
        ("monitor_version", LONG),
        ("granularity", STRING),
        ("slice_key", STRING),
        ("slice_value", STRING),
        ("column_name", STRING),
        ("count", LONG),
        ("data_type", STRING),
        ("num_nulls", LONG),
        ("avg", DOUBLE),
        ("quantiles", pa.list_(DOUBLE)),
        ("min", DOUBLE),
        ("max", DOUBLE),
        ("stddev", DOUBLE),
        ("num_zeros", LONG),
        ("num_nan", LONG),
        ("min_length", DOUBLE),
        ("max_length", DOUBLE),
        ("avg_length", DOUBLE),
        ("non_null_columns", STRINGS),
        ("frequent_items", pa.list_(pa.struct([("item", STRING), ("count", LONG)]))),
        ("median", DOUBLE),
        ("distinct_count", LONG),
        ("percent_nan", DOUBLE),
        ("percent_null", DOUBLE),
        ("percent_zeros", DOUBLE),
        ("percent_distinct", DOUBLE),
        ("model_id", STRING),
        ("sum_weights", DOUBLE),
        ("label_coverage", DOUBLE),
        ("definition_id", STRING),
        ("computed_at", TIMESTAMP),
        ("source_version_from", LONG),
        ("source_version_to", LONG),
        key="window granularity slice_key slice_value column_name model_id monitor_version",
    ),
    "monitoring.llm_quality_metrics": _table(
        *_METRIC_GROUP,
        *_METRIC_VALUE,
        key="window granularity slice_key slice_value model_id metric_name definition_id",
    ),
    "monitoring.retrieval_metrics": _table(
        *_METRIC_GROUP,
        *_METRIC_VALUE,
        key="window granularity slice_key slice_value model_id metric_name definition_id",
    ),
    "monitoring.embedding_drift_metrics": _table(
        *_METRIC_GROUP,
        ("centroid_cosine_shift", DOUBLE),
        ("mmd2", DOUBLE),
        ("mmd_pvalue", DOUBLE),
        ("domain_auc_cv", DOUBLE),
        ("mean_norm_delta", DOUBLE),
        ("knn_overlap", DOUBLE),
        ("n_cur", LONG),
        ("n_ref", LONG),
        ("embedding_model", STRING),
        ("dim", INT),
        key="window granularity slice_key slice_value model_id embedding_model",
    ),
    "ops.stage_runs": _table(
        ("run_id", STRING),
        ("stage", STRING),
        ("definition", STRING),
        ("source_id", STRING),
        ("target_id", STRING),
        ("from_version", LONG),
        ("to_version", LONG),
        ("counts", pa.map_(STRING, LONG)),
        ("started_at", TIMESTAMP),
        ("seconds", DOUBLE),
    ),
}
