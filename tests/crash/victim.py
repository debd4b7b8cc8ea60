"""A workspace and a real edit history in; delivery after delivery brought into the index, until it is done or killed.

    python -m tests.crash.victim WORKSPACE CHANGES DELIVERIES

`progress` in the workspace says which delivery is under way, `step` which stage; both survive a kill.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from pipelines.conductor.run import new_context, run_stages
from pipelines.conductor.stages import DOCUMENT_STAGES
from tests.support.chunked import settings_for
from tests.support.history import deliveries, write

DELIVERIES = 86


def main(root: Path, changes: Path, *, until: int) -> None:
    settings = settings_for(root)
    settings = settings.model_copy(update={"embedding": settings.embedding.model_copy(update={"commit_seconds": 0})})
    progress = root / "progress"
    done = int(progress.read_text()) if progress.exists() else 0
    for number, files in enumerate(deliveries(changes, count=DELIVERIES)):
        if number < done:
            continue
        if number >= until:
            return
        write(settings.landing_path, files)
        for stage in DOCUMENT_STAGES:
            (root / "step").write_text(stage.command)
            run_stages(new_context(settings, force=True), stages=[stage])
        with tempfile.NamedTemporaryFile("w", dir=root, delete=False) as new:
            new.write(str(number + 1))
        Path(new.name).replace(progress)  # whole or not at all
    (root / "step").write_text("done")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), until=int(sys.argv[3]))
