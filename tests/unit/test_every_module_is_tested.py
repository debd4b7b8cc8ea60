"""Each module is named by a test (its file, or what it imports), has examples that run, or stands below with its tests.

Modules are known by the last part of their name alone, so that one may move to another folder.
"""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FILES = {
    file.stem: file.read_text(encoding="utf-8")
    for package in ("transformations", "expectations", "pipelines")
    for file in (ROOT / package).rglob("*.py")
    if file.stem != "__init__"
}
TESTS = list((ROOT / "tests").rglob("*.py"))
# Parts of one thing, tested through what uses them: module → a test file.
THROUGH = {
    # Readers of one format.
    "asciidoc_tables": "test_asciidoc",
    "calendar": "test_email",
    "doctree": "test_rst",
    "docx": "test_office",
    "docx_html": "test_office",
    "docx_parts": "test_office",
    "front_matter": "test_markdown",
    "html_code": "test_html",
    "html_frame": "test_html",
    "html_tree": "test_html",
    "markdown_lines": "test_markdown",
    "ooxml": "test_office",
    "pandoc": "test_more_formats",
    "parse_worker": "test_parser_process",  # the process that it starts
    "pdf": "test_formats",
    "rst_markup": "test_rst",
    "xlsx": "test_office",
    "xlsx_parts": "test_office",
    # Steps of one stage.
    "build_features": "test_features",
    "changed_rows": "test_stages",
    "chunk_parts": "test_chunks",
    "landing": "test_ingest_documents",
    "record_columns": "test_record_reading",
    "record_reader": "test_record_reading",
    "set_aside": "test_refine_documents",
    "source": "test_index_promises",  # the index as a Spark source: needs a store and a session
    "sources": "test_answer_questions",
    # Commands: each is run from its words to its exit code.
    "cli_index": "test_index_commands",
    "cli_options": "test_cli",
    "cli_quality": "test_quality",
    "cli_records": "test_record_commands",
    "cli_trace": "test_trace",
    # Stores: the contract's tests find each by its name in the table of stores.
    "annoy": "test_contract",
    "databricks_client": "test_databricks",
    "libraries": "test_contract",
    "segment_folder": "test_segments",
    "segment_view": "test_segments",
    # Tables.
    "delta_sql": "test_delta_folder",
    "ops": "test_docs",  # declarations, held against the page of tables
    "quality_results": "test_quality",
    "tables": "test_table_rules",
}


def test_every_module_is_tested() -> None:
    named = {file.stem.removeprefix("test_") for file in TESTS}
    for file in TESTS:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                named |= {(node.module or "").split(".")[-1], *(name.name for name in node.names)}
            elif isinstance(node, ast.Import):
                named |= {name.name.split(".")[-1] for name in node.names}
    untested = {stem for stem, text in FILES.items() if stem not in named and ">>> " not in text}
    assert untested - THROUGH.keys() == set(), "give it a test file of its name, or say which tests go through it"
    assert THROUGH.keys() - untested == set(), "these are not there, or have tests of their own by now"
    assert set(THROUGH.values()) <= {file.stem for file in TESTS}
