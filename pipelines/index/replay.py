"""Dead letters in; each tried once more now, and closed where it went through, out."""

from __future__ import annotations

from dataclasses import replace as with_values
from importlib import import_module
from typing import Any

from pipelines.dead_letters import open_letters
from pipelines.models.embedders import embedding_model
from pipelines.run import instances_of, only_writer, stage_named, window_of
from pipelines.stage import Context, Window, run_stage


def replay(context: Context) -> dict[str, Any]:
    """Try every open letter again: texts with their model, rows with their index.

    Returns:
        How many letters were open, and how many still are.
    """
    context = with_values(context, retry=True)
    before = len(open_letters(context.lake))
    with only_writer(context.settings):
        for command in ("embed-chunks", "sync-index"):
            stage = stage_named(command)
            for _, each in instances_of(stage, context):
                window = window_of(stage, each)
                label = embedding_model(each.settings).label
                if window is None and open_letters(each.lake, stage=command, model=label):
                    head = each.lake.ensure(stage.source)
                    # Nothing new to read: only the letters.
                    window = Window(head.version, head.version, head.table_id)
                if window is not None:
                    run_stage(stage, each, window=window, work=import_module(stage.module).run)
    return {"tried": before, "still_open": len(open_letters(context.lake))}
