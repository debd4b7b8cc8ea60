"""Tries every open dead letter once more now, and closes those that succeed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pipelines.conductor.run import run_stage
from pipelines.conductor.stages import STAGES
from pipelines.flow.lock import only_writer
from pipelines.flow.stage import Context, nothing_new
from pipelines.quality.dead_letters import open_letters


def replay(context: Context) -> dict[str, Any]:
    """Try every open letter again: texts with their model, rows with their index.

    Returns:
        `tried`: how many letters were open; `still_open`: how many are open now.
    """
    context = replace(context, retry=True)
    before = open_letters(context.lake)
    with only_writer(context.settings):
        for stage in STAGES:
            if stage.command not in {letter["stage"] for letter in before}:
                continue
            for each in stage.contexts(context):
                is_meant = each.subject is not None and any(letter["model"] == each.subject.key for letter in before)
                due = stage.look(each) or (nothing_new(stage, each) if is_meant else None)
                if due is not None:
                    run_stage(stage, each, due)
    return {"tried": len(before), "still_open": len(open_letters(context.lake))}
