"""Runs a Great Expectations checkpoint for a table, and builds its Data Docs.

The context is a folder of the workspace (`quality`): suites, checkpoints and results are JSON below gx/, the pages are
below data_docs/. Nothing is sent anywhere.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expectations.tables.stored import TableExpectations
from expectations.targets.suites import great_expectations, suite
from transformations.errors import LakeloopError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_SITE = "lakeloop"


def page_of(folder: Path) -> Path:
    """The first page of the Data Docs of `folder`."""
    return folder / "data_docs" / "index.html"


def validate(
    folder: Path, table: str, rows: DataFrame, *, expectations: TableExpectations, others: Mapping[str, str]
) -> dict[str, int]:
    """Run the checkpoint of `table` over `rows`, and add the result to the Data Docs of `folder`.

    Args:
        others: the table that a rule refers to → its identifier in SQL.

    Returns:
        Rule → the number of rows that break it; for a rule of the whole table, 1 if it is broken.

    Raises:
        MissingDependencyError: Great Expectations is not installed.
    """
    gx = great_expectations()
    from great_expectations.checkpoint.actions import UpdateDataDocsAction

    context = open_context(folder)
    name = table.replace(".", "_")
    asked = suite(
        name,
        rules=expectations.rules,
        table_rules=expectations.table_rules,
        key=expectations.key,
        others=others,
    )
    # The rows are read once for each rule, so the caller persists them: the library would never free its own copy.
    source = context.data_sources.add_or_update_spark(name="spark", persist=False)
    batch = source.add_dataframe_asset(name=name).add_batch_definition_whole_dataframe("whole")
    definition = context.validation_definitions.add_or_update(
        gx.ValidationDefinition(name=name, data=batch, suite=context.suites.add_or_update(asked))
    )
    checkpoint = context.checkpoints.add_or_update(
        gx.Checkpoint(
            name=name,
            validation_definitions=[definition],
            actions=[UpdateDataDocsAction(name="data_docs", site_names=[_SITE])],
            result_format="SUMMARY",
        )
    )
    outcome = checkpoint.run(batch_parameters={"dataframe": rows})
    rows.sparkSession.catalog.dropTempView("tmp_view")
    return broken(outcome)


def broken(outcome: Any) -> dict[str, int]:
    """Rule → the number of rows that break it, out of a checkpoint's result.

    Raises:
        LakeloopError: a query could not be run; the library alone would count that as "not met".
    """
    found = {}
    for result in outcome.run_results.values():
        for each in result.results:
            errors = [e["exception_message"] for e in _exceptions(each.exception_info)]
            if errors:
                raise LakeloopError(f"great_expectations could not ask {each.expectation_config.meta}: {errors[0]}")
            found[each.expectation_config.meta["rule"]] = int(each.result["observed_value"])
    return found


def _exceptions(info: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The exceptions in a result, which has one of two forms: one exception, or one for each metric."""
    candidates = [info] if "raised_exception" in info else [v for v in info.values() if isinstance(v, Mapping)]
    return [each for each in candidates if each.get("raised_exception")]


def open_context(folder: Path) -> Any:
    """The Great Expectations context in `folder`, made if it does not exist; analytics off, one site of Data Docs."""
    gx = great_expectations()
    folder.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        context = gx.get_context(mode="file", project_root_dir=folder)
    logging.getLogger("great_expectations").setLevel(logging.WARNING)
    context.enable_analytics(False)
    context.variables.progress_bars = {"globally": False}
    if _SITE not in context.variables.data_docs_sites:
        for site in list(context.variables.data_docs_sites):
            context.delete_data_docs_site(site)
        store = {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(page_of(folder).parent)}
        site_index = {"class_name": "DefaultSiteIndexBuilder"}
        site = {"class_name": "SiteBuilder", "store_backend": store, "site_index_builder": site_index}
        context.add_data_docs_site(_SITE, site)
    return context
