"""A real edit history, delivered bit by bit, ends in the tables and the index of a build from scratch."""

from __future__ import annotations

import os

import pytest

from pipelines.conductor.run import new_context, run_stages
from pipelines.conductor.stages import DOCUMENT_STAGES
from pipelines.operations.verify import verify
from pipelines.settings.sections import Settings
from tests.support.history import deliveries, write
from tests.support.state import assert_refined_as_from_scratch, assert_same, state

# `make replay` sets it to "all": one delivery for each of the 86 commits.
COUNT = os.environ.get("LAKELOOP_REPLAY", "8")


@pytest.mark.longest
def test_a_replayed_history_equals_a_build_from_scratch(workspace: Settings, spark, shared_data, tmp_path_factory):
    changes = shared_data / "delta_docs" / "changes.jsonl.gz"
    embedded, texts, new_texts = [], set(), []
    files: dict[str, str] = {}
    for files in deliveries(changes, count=None if COUNT == "all" else int(COUNT)):
        write(workspace.landing_path, files)
        # The history moves whole folders, which is just what the limit on deletes is there to question.
        outcome = run_stages(new_context(workspace, force=True), stages=DOCUMENT_STAGES)
        counts = {s.stage: s.counts for s in outcome.stages}
        embedded.append(counts.get("embed-chunks", {}).get("computed", 0))
        result = verify(new_context(workspace))
        assert result.is_equal, result.differences[:5]
        now = set(
            new_context(workspace).lake.read_arrow("silver.chunks", columns=["text_hash"])["text_hash"].to_pylist()
        )
        new_texts.append(len(now - texts))
        texts |= now
    assert embedded == new_texts

    again = run_stages(new_context(workspace), stages=DOCUMENT_STAGES)
    assert again.stages == ()

    root = tmp_path_factory.mktemp("scratch")
    scratch = Settings(root=root)
    write(scratch.landing_path, files)
    run_stages(new_context(scratch), stages=DOCUMENT_STAGES)
    assert_same(state(workspace), state(scratch))
    assert_refined_as_from_scratch(workspace)
