"""answer-questions: answers every row of inference.requests once, and logs it to inference.inference_log.

A request that has a row in the log is done, unless its call failed for a reason that may pass (no answer in time, a
busy server). Such a request is asked again by later runs, and each try has its row. Rows are appended 8 at a time, so a
kill loses a few answers at most.
"""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from pipelines.answering.ask import Answerer, Search, current_user, new_call
from pipelines.answering.log_row import INFERENCE_LOG
from pipelines.flow.stage import Context, Counts, Stage, Work, moved, nothing_new
from pipelines.lakehouse.selection import Without
from pipelines.models.tracking import drop_unlogged_traces

log = logging.getLogger(__name__)

REQUESTS = "inference.requests"
LABELS = "inference.labels"
_COMMIT_EVERY = 8
_NAMESPACE = uuid.UUID("5b0a4a0e-6f0d-5a0b-9d0c-6c616b656c70")
_STATUS_UNAVAILABLE = 503
# Status codes of failures that may pass: no answer in time, too many calls, a server that restarts.
_MAY_PASS = (408, 429, 502, 503, 504)
_MOST_TRIES = 6
_FIRST_PAUSE = timedelta(minutes=5)


def add_questions(context: Context, rows: Sequence[Mapping[str, Any]], *, batch: str) -> int:
    """Append the questions that `batch` does not have yet, and gold labels that are new or have changed.

    Args:
        context: the run's context.
        rows: rows as `read_questions` returns them.
        batch: the name of the batch. Two questions are the same if batch and text are the same.

    Returns:
        How many questions were new.
    """
    lake, now = context.lake, context.now()
    ids = [str(uuid.uuid5(_NAMESPACE, json.dumps([batch, row["question"]]))) for row in rows]
    asked = lake.read_arrow(REQUESTS, columns=["request_id"], where={"request_id": ids})
    known = set(asked["request_id"].to_pylist())
    labels = _current_labels(context, ids)
    requests: dict[str, dict[str, Any]] = {}
    new_labels: dict[str, dict[str, Any]] = {}
    for request_id, row in zip(ids, rows, strict=True):
        if request_id not in known and request_id not in requests:
            requests[request_id] = {
                "request_id": request_id,
                "client_request_id": row.get("id"),
                "question": row["question"],
                "requester": current_user(),
                "batch_run_id": batch,
                "requested_at": now,
            }
        if row.get("gold"):
            gold = {"path": row["gold"]["path"], "heading": row["gold"].get("heading")}
            label = json.dumps(gold, ensure_ascii=False)
            if labels.get(request_id) != label:
                new_labels[request_id] = {
                    "request_id": request_id,
                    "label": label,
                    "label_time": now,
                    "label_source": "gold",
                    "valid_from": now,
                }
    # Labels first: if the run is killed in between, they wait for their request, and the next call adds it.
    if new_labels:
        lake.append_arrow(LABELS, list(new_labels.values()))
    if requests:
        lake.append_arrow(REQUESTS, list(requests.values()))
    return len(requests)


def look(context: Context) -> Work | None:
    """The requests that were not read yet; or no new version, but failed requests that are to be asked again now."""
    return moved(STAGE, context) or (nothing_new(STAGE, context) if _overdue(context) else None)


def work(context: Context, due: Work | None, *, searcher: Search | None = None) -> Counts:
    """Answer every request that has no row in the log, or that failed there for a reason that may have passed.

    Such a failed request is asked again by later runs, after 5 minutes, 10, 20 …, at most six times in all. Each try
    has its row. A failed call is logged with its error, and the others go on. If a server cannot be reached at all, the
    answers so far are logged and the run ends with an error; the next run answers the rest.

    Returns:
        Counts: answered; of these, grounded and quoted; and failed.

    Raises:
        ConfigurationError: there is no index, or one of another model.
        LakeloopError: the language model's server cannot be reached.
    """
    waiting = _waiting(context)
    counts = {"answered": 0, "grounded": 0, "quoted": 0, "failed": 0}
    if not waiting:
        return counts
    rows: list[dict[str, Any]] = []
    with (
        Answerer(context.settings, lake=context.lake, searcher=searcher) as answerer,
        context.progress.step("answering questions", total=len(waiting)) as step,
    ):
        _drop_unlogged_traces(context, waiting)
        try:
            for request in waiting:
                response = answerer.respond(
                    new_call(
                        request["question"] or "",
                        request_id=request["request_id"],
                        client_request_id=request["client_request_id"],
                        requester=request["requester"],
                        batch_run_id=context.run_id,
                    )
                )
                if response.error is not None:
                    if response.error.status_code == _STATUS_UNAVAILABLE:
                        answerer.check_reachable()
                    log.warning("question %s failed: %s", request["request_id"], response.error)
                    counts["failed"] += 1
                if response.answer is not None:
                    counts["answered"] += 1
                    counts["grounded"] += response.answer.is_grounded
                    counts["quoted"] += response.answer.is_quoted
                rows.append(response.row)
                if len(rows) >= _COMMIT_EVERY:
                    batch, rows = rows, []
                    context.lake.append_arrow(INFERENCE_LOG, batch)
                step.advance()
        finally:
            # Also after an error or an interrupt, so that every answer is logged.
            if rows:
                context.lake.append_arrow(INFERENCE_LOG, rows)
    return counts


def _drop_unlogged_traces(context: Context, waiting: Sequence[Mapping[str, Any]]) -> None:
    """Delete the traces of calls that a killed run traced but did not log: they are now asked and traced again."""
    now = context.now()

    def logged(trace_ids: Sequence[str]) -> set[str]:
        rows = context.lake.read_arrow(INFERENCE_LOG, columns=["trace_id"], where={"trace_id": trace_ids})
        return set(rows["trace_id"].to_pylist())

    dropped = drop_unlogged_traces(
        context.settings,
        logged=logged,
        unanswered={request["request_id"] for request in waiting},
        since=min((r["requested_at"] for r in waiting if r["requested_at"]), default=now),
        now=now,
    )
    if dropped:
        log.info("%d traces of calls that a killed run did not log were deleted", dropped)


def _waiting(context: Context) -> list[dict[str, Any]]:
    """The requests to ask now: without a row in the log, or to be asked again; oldest first, each id once."""
    lake, columns = context.lake, ["request_id", "client_request_id", "question", "requester", "requested_at"]
    rows = lake.read_arrow(REQUESTS, columns=columns, which=Without(INFERENCE_LOG, "request_id")).to_pylist()
    rows += lake.read_arrow(REQUESTS, columns=columns, where={"request_id": _overdue(context)}).to_pylist()
    waiting = {row["request_id"]: row for row in rows}
    # All questions of one file arrive at the same instant; ordered by id, they have the same order in every run.
    return sorted(waiting.values(), key=lambda r: (str(r["requested_at"] or ""), r["request_id"]))


def _overdue(context: Context) -> list[str]:
    """The ids of requests to ask again: each call so far failed for a reason that may pass, and the pause is over.

    The log also has calls without a request, which are left out: those of `lakeloop ask`, and of forgotten requests.
    """
    lake, columns = context.lake, ["request_id", "status_code", "request_time"]
    failures: dict[str, list[datetime]] = {}
    for call in lake.read_arrow(INFERENCE_LOG, columns=columns, where={"status_code": _MAY_PASS}).to_pylist():
        failures.setdefault(call["request_id"], []).append(call["request_time"])
    again = [
        request_id
        for request_id, tried_at in failures.items()
        if len(tried_at) < _MOST_TRIES and context.now() >= max(tried_at) + _FIRST_PAUSE * 2 ** (len(tried_at) - 1)
    ]
    calls = lake.read_arrow(INFERENCE_LOG, columns=columns[:2], where={"request_id": again}).to_pylist()
    answered = {call["request_id"] for call in calls if call["status_code"] not in _MAY_PASS}
    requests = lake.read_arrow(REQUESTS, columns=["request_id"], where={"request_id": {*again} - answered})
    return [*{*requests["request_id"].to_pylist()}]


def _current_labels(context: Context, request_ids: Sequence[str]) -> dict[str, str]:
    columns = ["request_id", "label", "valid_from"]
    where = {"label_source": "gold", "request_id": request_ids}
    rows = context.lake.read_arrow(LABELS, columns=columns, where=where).to_pylist()
    return {r["request_id"]: r["label"] for r in sorted(rows, key=lambda r: str(r["valid_from"] or ""))}


STAGE = Stage(
    "answer-questions",
    "inference.requests (and those of a file) → answers with their sources in inference.inference_log.",
    look,
    work,
    sources=(REQUESTS,),
    targets=(INFERENCE_LOG,),
    records="it holds what was answered",
)
