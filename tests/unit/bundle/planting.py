"""Plants changes in a copy of the bundle."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[3]
JOB = "resources/documents_loop.job.yml"

Edit = Callable[[dict[str, Any]], object]


def edit(bundle: Path, name: str, change: Edit) -> None:
    content = yaml.load((bundle / name).read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
    change(content)
    (bundle / name).write_text(yaml.dump(content, Dumper=yaml.CSafeDumper, sort_keys=False), encoding="utf-8")


def job(content: dict[str, Any]) -> Any:
    return content["resources"]["jobs"]["documents_loop"]


def first_task(content: dict[str, Any]) -> Any:
    return job(content)["tasks"][0]


def dependencies(content: dict[str, Any]) -> list[str]:
    found: list[str] = job(content)["environments"][0]["spec"]["dependencies"]
    return found
