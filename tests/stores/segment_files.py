"""The files of one index in segments: those that are there, and what its states say of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def state(folder: Path) -> dict[str, Any]:
    """What readers of the one index below `folder` are shown."""
    [file] = folder.glob("chunks.*/state.json")
    committed: dict[str, Any] = json.loads(file.read_text())["committed"]
    return committed


def named(folder: Path) -> set[str]:
    """The files that some state names."""
    [file] = folder.glob("*/state.json")
    states = [s for s in json.loads(file.read_text()).values() if isinstance(s, dict)]
    bases = [s["base"] for s in states if s["base"]]
    return {name for s in states for name in s["tail"]} | {base[key] for base in bases for key in ("rows", "index")}


def present(folder: Path) -> set[str]:
    return {file.name for file in folder.glob("*/*")} - {"state.json", "lock"}
