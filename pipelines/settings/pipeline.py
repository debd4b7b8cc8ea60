"""The configuration of a declared pipeline in; its settings, and the schema of the arrivals that it reads, out.

On Databricks the bundle gives the configuration, and locally `lakeloop pipelines`:

- `lakeloop.settings`: the lakeloop.yml (default: the default settings),
- `lakeloop.overrides`: what is stronger than the file, as `--set` takes it, in a JSON list,
- `lakeloop.bronze`: the schema of the arrivals in SQL (default: bronze).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipelines.settings.load import load_settings
from pipelines.settings.sections import Settings
from transformations.errors import ConfigurationError


def pipeline_configuration(file: Path, *, overrides: Sequence[str], bronze: str) -> dict[str, str]:
    """The configuration that says this. No secret is in it: the file and the overrides name variables."""
    return {
        "lakeloop.settings": str(file),
        "lakeloop.overrides": json.dumps(list(overrides)),
        "lakeloop.bronze": bronze,
    }


def pipeline_settings(conf: Any) -> Settings:
    """The settings of the pipeline whose `spark.conf` this is."""
    file, overrides = conf.get("lakeloop.settings", ""), json.loads(conf.get("lakeloop.overrides", "[]"))
    return declarable(load_settings(Path(file), overrides=overrides) if file else Settings())


def declarable(settings: Settings) -> Settings:
    """The settings, if declared datasets can be what they ask for.

    Raises:
        ConfigurationError: they cannot.
    """
    if settings.refine.near_duplicates == "serve_one":
        raise ConfigurationError(
            "refine.near_duplicates is serve_one, and declared datasets do not know which documents are "
            "near-duplicates: the chunks of all of them would be served. Set it to mark or off, or run the stages."
        )
    return settings


def arrivals_of(conf: Any, table: str) -> str:
    """The name in SQL of a table of arrivals, such as `documents`."""
    return f"{conf.get('lakeloop.bronze', 'bronze')}.{table}"
