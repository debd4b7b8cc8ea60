"""A vector follows from its text alone, also with a model that sees white space: whatever was there before."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from deltalake import DeltaTable

from pipelines.conductor.run import new_context, run_stages
from pipelines.conductor.stages import DOCUMENT_STAGES
from pipelines.operations.verify import verify
from pipelines.settings.sections import Settings
from tests.support.chunked import settings_for
from tests.support.embedders import Free
from tests.support.state import assert_same, state

_LINES = ["def f(x):", "if x:", "return x", "a = [1,", "2]", "the rest", "of it"]
_BLANKS = ["", " ", "  ", "    ", "\t"]


def _code(chance: random.Random) -> str:
    lines = [chance.choice(_BLANKS) + chance.choice(["", "  "]).join(line.split(" ")) for line in _LINES]
    return "```\n" + chance.choice(["\n", "\n\n"]).join(lines) + "\n```"


def _edit(folder: Path, chance: random.Random) -> None:
    """The same words in other white space; now and then other words, or back to what a document once was."""
    for number in chance.sample(range(5), 3):
        path = folder / f"{number}.md"
        old = folder.parent / f"{number}.old"
        if old.exists() and chance.random() < 0.2:
            path.write_text(old.read_text())
            continue
        if path.exists() and chance.random() < 0.5:
            old.write_text(path.read_text())
        words = f"One  sentence{chance.choice([' ', chr(10), '  '])}of {chance.choice(['many', 'few'])} words."
        path.write_text(f"# D\n\n{words}\n\n## Code\n\n{_code(chance)}\n")


def _run(settings: Settings) -> None:
    run_stages(new_context(settings, force=True), stages=DOCUMENT_STAGES)


@pytest.mark.longest
def test_a_history_of_edits_of_white_space_ends_with_the_vectors_of_a_build_from_scratch(tmp_path: Path, spark):
    (tmp_path / "edited").mkdir()
    (tmp_path / "scratch").mkdir()
    edited, scratch = settings_for(tmp_path / "edited"), settings_for(tmp_path / "scratch")
    chance = random.Random(11)
    for _ in range(2):
        _edit(edited.landing_path, chance)
        _run(edited)
    for path in edited.landing_path.iterdir():
        (scratch.landing_path / path.name).write_bytes(path.read_bytes())
    _run(scratch)
    assert_same(state(edited), state(scratch))
    lake = new_context(edited).lake
    texts = {row["chunk_id"]: row["embed_text"] for row in lake.read_arrow("silver.chunks").to_pylist()}
    for row in lake.read_arrow("gold.chunk_index").to_pylist():
        np.testing.assert_allclose(row["vector"], Free().embed([texts[row["chunk_id"]]])[0], atol=1e-6)
    assert verify(new_context(edited)).differences == ()

    # A vector and a hash that are not those of their text are named.
    first, second, *_ = sorted(texts)
    wrong = lake.read_arrow("gold.chunk_index", where={"chunk_id": second}).to_pylist()[0]["vector"]
    table = DeltaTable(str(lake.folder("gold.chunk_index")))
    table.update({"vector": f"make_array({', '.join(map(str, reversed(wrong)))})"}, predicate=f"chunk_id = '{first}'")
    table = DeltaTable(str(lake.folder("silver.chunks")))
    table.update({"embed_text": "concat(embed_text, ' ')"}, predicate=f"chunk_id = '{second}'")
    found = {(d.where, d.kind, d.key) for d in verify(new_context(edited)).differences}
    assert {("chunks", "wrong_vector", first), ("silver.chunks", "stale", second)} <= found
