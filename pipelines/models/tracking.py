"""Settings in; MLflow, quiet and pointed at this workspace's store and experiment, out."""

from __future__ import annotations

import logging
import os
import warnings
from contextlib import suppress
from pathlib import Path
from types import ModuleType

from pipelines.redaction import redacted
from pipelines.settings import Settings
from transformations.errors import ConfigurationError, MissingDependencyError

_PROBE_SECONDS = 10.0


def connect(settings: Settings) -> ModuleType:
    """The `mlflow` module with its tracking store and experiment set, for this whole process.

    The first call for a new sqlite store creates its tables, which takes a few seconds; later ones below one.

    Raises:
        ConfigurationError: the store or the experiment cannot be used.
        MissingDependencyError: `mlflow` is not installed.
    """
    # Read when mlflow is imported. Spans are written as they end: exporting them from a thread would lose those of
    # the last second to a kill, and wait a second at every exit.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ASYNC_TRACE_LOGGING", "false")
    # Seven, the default, make a call wait for minutes where the server went away meanwhile.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    # SQLAlchemy warns about how MLflow uses it, which nobody here can act on.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import mlflow

            # The first span would import it, and its warnings would make that span a dummy where warnings are errors.
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
    """Raises ConfigurationError where no server answers: MLflow itself would go on trying for minutes."""
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


def _choose_experiment(mlflow: ModuleType, settings: Settings) -> None:
    name = settings.mlflow.experiment
    if settings.tracking_uri.startswith("sqlite") and mlflow.get_experiment_by_name(name) is None:
        # Without a place of its own, MLflow would write artifacts below whatever folder the command was started in.
        folder = Path(settings.root) / "mlartifacts"
        # Another process may be first.
        with suppress(mlflow.MlflowException):
            mlflow.create_experiment(name, artifact_location=folder.absolute().as_uri())
    mlflow.set_experiment(name)
