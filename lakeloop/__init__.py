"""lakeloop from Python: a workspace with its tables, its search, its answers, its runs and its state.

    import lakeloop

    workspace = lakeloop.open()  # the nearest lakeloop.yml
    workspace.search("an empty folder for a test")[0].text
    workspace.tables["silver.documents"].to_pandas()

Importing it loads no Spark, no model and no store; each is loaded by the call that needs it. Errors are those of the
command line: `lakeloop.LakeloopError` and its subclasses in `transformations.errors`, whose text says what to do next.
"""

from lakeloop.workspace import Table, Tables, Workspace, open
from transformations.errors import LakeloopError

__all__ = ["LakeloopError", "Table", "Tables", "Workspace", "open"]
