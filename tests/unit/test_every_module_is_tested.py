"""Each module is imported by a test, has a test file of its name, has examples that run, or stands below."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FILES = {
    ".".join(file.relative_to(ROOT).with_suffix("").parts): file.read_text(encoding="utf-8")
    for package in ("lakeloop", "transformations", "expectations", "pipelines")
    for file in (ROOT / package).rglob("*.py")
    if file.stem != "__init__"
}
TESTS = list((ROOT / "tests").rglob("*.py"))
# Parts of one thing, tested through what uses them: module → a test file.
THROUGH = {
    # Readers of one format.
    "transformations.documents.asciidoc_tables": "test_asciidoc",
    "transformations.documents.calendar": "test_email",
    "transformations.documents.doctree": "test_rst",
    "transformations.documents.docx": "test_office",
    "transformations.documents.docx_html": "test_office",
    "transformations.documents.docx_parts": "test_office",
    "transformations.documents.front_matter": "test_markdown",
    "transformations.documents.html_code": "test_html",
    "transformations.documents.html_frame": "test_html",
    "transformations.documents.html_tree": "test_html",
    "transformations.documents.markdown_lines": "test_markdown",
    "transformations.documents.ooxml": "test_office",
    "transformations.documents.pandoc": "test_more_formats",
    "transformations.documents.pdf": "test_formats",
    "transformations.documents.pptx": "test_office",
    "transformations.documents.rst_markup": "test_rst",
    "transformations.documents.xlsx": "test_office",
    "transformations.documents.xlsx_parts": "test_office",
    "lakeloop.workspace": "test_lakeloop",
    # Steps of one stage.
    "pipelines.gold.build_features": "test_features",
    "pipelines.flow.changed_rows": "test_stages",
    "pipelines.flow.worker": "test_workers",
    "transformations.text.chunk_parts": "test_chunks",
    "pipelines.documents.clusters": "test_refine_documents",
    "pipelines.documents.describe": "test_refine_documents",
    "pipelines.documents.parse_worker": "test_parser_process",
    "pipelines.records.columns": "test_record_reading",
    "pipelines.records.delta_tables": "test_record_tables",
    "pipelines.records.reader": "test_record_reading",
    "pipelines.answering.sources": "test_answer_questions",
    "pipelines.models.judge": "test_judged_answers",
    "pipelines.vector_index.owner": "test_index_owner",
    "pipelines.vector_index.spark_source": "test_index_promises",
    # Commands: each is run from its words to its exit code.
    "pipelines.cli.index": "test_index_commands",
    "pipelines.cli.pipelines": "test_declared",
    "pipelines.operations.connect_server": "test_declared_pipelines",
    "pipelines.operations.also_due": "test_plan",
    # Stores: the contract's tests find each by its name in the table of stores.
    "pipelines.stores.annoy": "test_contract",
    "pipelines.stores.databricks_client": "test_databricks",
    "pipelines.stores.libraries": "test_contract",
    "pipelines.stores.segment_folder": "test_segments",
    "pipelines.stores.segment_view": "test_segments",
    # Pinned jars: Spark reads and writes a bucket with them.
    "pipelines.machine.s3_jars": "test_object_storage",
    # Tables: declarations are held against the page of tables.
    "expectations.tables.stored": "test_table_rules",
    "pipelines.lakehouse.catalog": "test_catalog_tables",
    "pipelines.lakehouse.predicates": "test_delta_folder",
    "pipelines.quality.results": "test_quality",
    "pipelines.lakehouse.schemas.bronze": "test_docs",
    "pipelines.lakehouse.schemas.gold": "test_docs",
    "pipelines.lakehouse.schemas.inference": "test_docs",
    "pipelines.lakehouse.schemas.monitoring": "test_docs",
    "pipelines.lakehouse.schemas.ops": "test_docs",
    "pipelines.lakehouse.schemas.silver": "test_docs",
}


def test_every_module_is_tested() -> None:
    imported = set()
    for file in TESTS:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                imported |= {node.module or "", *(f"{node.module}.{name.name}" for name in node.names)}
            elif isinstance(node, ast.Import):
                imported |= {name.name for name in node.names}
    files = {file.stem.removeprefix("test_") for file in TESTS}
    untested = {
        module
        for module, text in FILES.items()
        if module not in imported and module.rpartition(".")[2] not in files and ">>> " not in text
    }
    assert untested - THROUGH.keys() == set(), "give it a test file of its name, or say which tests go through it"
    assert THROUGH.keys() - untested == set(), "these are not there, or have tests of their own by now"
    assert set(THROUGH.values()) <= {file.stem for file in TESTS}
