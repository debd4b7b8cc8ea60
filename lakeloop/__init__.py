"""lakeloop for Python: a workspace with its tables, its search, its answers, its runs and its state.

    import lakeloop

    workspace = lakeloop.open()  # the nearest lakeloop.yml
    workspace.search("an empty folder for a test")[0].text
    workspace.tables["silver.documents"].to_pandas()

The import loads no Spark, no model and no store; the call that needs one loads it. Errors are those of the command
line: `lakeloop.LakeloopError` and its subclasses (most are in `transformations.errors`). Their text says what to do
next.
"""

from lakeloop.workspace import Table, Tables, Workspace, open, sample
from transformations.errors import LakeloopError

__all__ = ["LakeloopError", "Table", "Tables", "Workspace", "open", "sample"]
