"""The code of docs/features.md runs, and its assertions hold."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "features.md"


def test_the_code_of_the_page_runs(spark):
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    names = {"spark": spark}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
