"""Connects MLflow to this workspace's store and experiment, and keeps it quiet."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from types import ModuleType

from pipelines.settings.redaction import redacted
from pipelines.settings.sections import Settings
from transformations.errors import ConfigurationError, MissingDependencyError

_PROBE_SECONDS = 10.0
log = logging.getLogger(__name__)

# The tag that marks a trace of an answer.
OURS = "prompt_uri"
_PAGE = 100
_LONGEST_CALL = timedelta(hours=1)


def connect(settings: Settings) -> ModuleType:
    """The `mlflow` module, with tracking store and experiment set for this whole process.

    The first call for a new sqlite store creates its tables, which takes a few seconds; later calls take less than one.

    Raises:
        ConfigurationError: the store or the experiment cannot be used.
        MissingDependencyError: `mlflow` is not installed.
    """
    # mlflow reads these at its import. Spans are written when they end: a thread that exports them would lose those of
    # the last second at a kill, and wait a second at every exit.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ASYNC_TRACE_LOGGING", "false")
    # With the default of seven retries, a call waits for minutes if the server has gone away.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    # SQLAlchemy warns about how MLflow uses it; nobody here can change that.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import mlflow

            # Otherwise the first span imports it, and if warnings are errors, its warnings make that span a dummy.
            import mlflow.pyfunc
        except ImportError:
            raise MissingDependencyError.for_extra("mlflow", "mlflow") from None
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        uri = settings.tracking_uri
        _check_reachable(uri)
        try:
            mlflow.set_tracking_uri(uri)
            if uri.startswith("databricks"):
                mlflow.set_registry_uri("databricks-uc")
            _choose_experiment(mlflow, settings)
        except Exception as error:
            raise ConfigurationError(
                f"MLflow cannot use the experiment {settings.mlflow.experiment!r} at {uri} (mlflow.tracking_uri, "
                f"mlflow.experiment): {type(error).__name__}: {' '.join(str(error).split())[:300]}"
            ) from error
    return mlflow


def _check_reachable(uri: str) -> None:
    """Raises ConfigurationError if no server answers: MLflow itself would try for minutes."""
    if not uri.startswith(("http://", "https://")):
        return
    import requests

    try:
        requests.get(f"{uri.rstrip('/')}/health", timeout=_PROBE_SECONDS)  # whatever it answers, it is there
    except (requests.RequestException, ValueError) as error:
        raise ConfigurationError(
            f"no MLflow server answers at {redacted(uri)} (mlflow.tracking_uri): {redacted(str(error))[:300]}. Start "
            "the server, correct the address, or remove the setting to use the workspace's own mlflow.db."
        ) from None


def drop_unlogged_traces(
    settings: Settings,
    *,
    logged: Callable[[Sequence[str]], Collection[str]],
    unanswered: Collection[str],
    since: datetime,
    now: datetime,
) -> int:
    """Delete our traces of calls that were never logged, because their process was killed. Returns how many.

    Then each trace has a row in the log. Nobody got those answers, and their questions may be asked again.

    Args:
        settings: they name the experiment.
        logged: given some trace ids, returns those that are in the log. A request that is asked again has a trace and
            a row for each try.
        unanswered: request ids that this run is about to ask; no other run asks them.
        since: older traces are not looked at.
        now: a call that is neither logged nor in `unanswered` may still be going on, until it is `_LONGEST_CALL`
            old.
    """
    mlflow = connect(settings)
    client = mlflow.MlflowClient()
    experiment = mlflow.get_experiment_by_name(settings.mlflow.experiment)
    dropped: list[str] = []
    token: str | None = None
    try:
        while True:
            page = client.search_traces(
                locations=[experiment.experiment_id],
                filter_string=f"attributes.timestamp_ms >= {int(since.timestamp() * 1000)}",
                max_results=_PAGE,
                page_token=token,
                include_spans=False,
            )
            known = logged([trace.info.trace_id for trace in page])
            for trace in page:
                request_id, is_ours = trace.info.client_request_id, OURS in trace.info.tags
                began = datetime.fromtimestamp(trace.info.request_time / 1000, now.tzinfo)
                is_over = request_id in unanswered or now - began > _LONGEST_CALL
                if is_ours and request_id is not None and trace.info.trace_id not in known and is_over:
                    dropped.append(trace.info.trace_id)
            token = page.token
            if not token:
                break
        for start in range(0, len(dropped), _PAGE):
            client.delete_traces(experiment.experiment_id, trace_ids=dropped[start : start + _PAGE])
    except mlflow.MlflowException as error:
        log.warning("traces of calls that were never logged could not be deleted: %s", error)
        return 0
    return len(dropped)


def _choose_experiment(mlflow: ModuleType, settings: Settings) -> None:
    name = settings.mlflow.experiment
    if settings.tracking_uri.startswith("sqlite") and mlflow.get_experiment_by_name(name) is None:
        # Without a location MLflow would write artifacts below the folder in which the command was started.
        folder = Path(settings.root) / "mlartifacts"
        # Another process may create it first.
        with suppress(mlflow.MlflowException):
            mlflow.create_experiment(name, artifact_location=folder.absolute().as_uri())
    mlflow.set_experiment(name)
