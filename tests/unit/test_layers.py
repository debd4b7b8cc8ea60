"""The layers and rooms, read from the source of every module: who may import whom, and what a pure one may touch."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/architecture.md"
PACKAGES = ("lakeloop", "transformations", "expectations", "pipelines")
STAGES = ("bronze", "silver", "gold", "index", "inference", "monitoring", "ops")
# Modules that are themselves imported only by the call that needs their library.
ADAPTERS = (
    "pipelines.stores.", "pipelines.models.", "transformations.documents.",
    "pipelines.integrations.langchain", "pipelines.integrations.llamaindex",
)  # fmt: skip
HEAVY = {
    "mlflow", "lance", "onnxruntime", "openai", "xllamacpp", "matplotlib", "trafilatura", "unearth", "chromadb",
    "pymilvus", "faiss", "annoy", "scann", "psycopg", "pgvector", "databricks", "langchain_core", "llama_index",
    "obstore",
}  # fmt: skip
IMPURE = {
    "os", "io", "time", "socket", "subprocess", "shutil", "tempfile", "random", "secrets", "logging", "asyncio",
    "multiprocessing", "glob", "fcntl", "sqlite3", "urllib.request", "http", "requests", "httpx",
    "httpx2", "urllib3", "aiohttp", "deltalake", "mlflow", "lance", "openai", "delta", "platformdirs",
}  # fmt: skip
# Of these modules, what only computes: a buffer in memory is no file.
PURE = {"io.BytesIO", "io.StringIO"}
IMPURE_CALLS = {"open", "input", "print", "breakpoint", "exec", "eval"}
IMPURE_METHODS = {
    "now", "utcnow", "today", "read_text", "read_bytes", "write_text", "write_bytes", "mkdir", "unlink", "iterdir",
    "is_file", "is_dir", "stat", "getenv", "current_timestamp", "current_date", "uuid4", "uuid1",
    "saveAsTable", "toTable",
}  # fmt: skip


@dataclass(frozen=True)
class Import:
    """`name`, absolute, as imported on `line`; whether when the module loads and not only inside a function."""

    name: str
    line: int
    at_top: bool


@cache
def modules() -> dict[str, Path]:
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
    }


def imports(tree: ast.AST, *, module: str, is_package: bool = False) -> Iterator[Import]:
    """Every import of a module, `from a import b` as a.b; what stands under TYPE_CHECKING counts as not at the top."""
    yield from _walk(tree, module=module if is_package else module.rpartition(".")[0], at_top=True)


def _walk(node: ast.AST, *, module: str, at_top: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, child.lineno, at_top) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            base = module.split(".")[: len(module.split(".")) - child.level + 1] if child.level else []
            start = ".".join([*base, *([child.module] if child.module else [])])
            yield from (Import(f"{start}.{alias.name}", child.lineno, at_top) for alias in child.names)
        else:
            lazy = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) or (
                isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
            )
            yield from _walk(child, module=module, at_top=at_top and not lazy)


@cache
def read(name: str) -> tuple[ast.Module, list[Import]]:
    path = modules()[name]
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    return tree, list(imports(tree, module=name, is_package=path.name == "__init__.py"))


def within(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


@pytest.mark.parametrize(
    ("package", "above"),
    [
        ("transformations", ("expectations", "pipelines", "lakeloop")),
        ("expectations", ("pipelines", "lakeloop")),
        ("pipelines", ("lakeloop",)),
    ],
)
def test_no_layer_imports_one_above_it(package: str, above: tuple[str, ...]) -> None:
    wrong = [
        f"{name}:{found.line} imports {found.name}"
        for name in modules()
        if within(name, package)
        for found in read(name)[1]
        if within(found.name, *above)
    ]
    assert not wrong


def drawn() -> dict[str, list[tuple[str, ...]]]:
    """Package → the rows of its rooms, top first, as docs/architecture.md draws them."""
    house, pure = re.findall(r"^```text\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    rows: dict[str, list[tuple[str, ...]]] = {"pipelines": [], "expectations": [], "transformations": []}
    for line in house.splitlines():
        rows["pipelines"].append(tuple(re.split(r"  +", line)[0].split()))
    for line in pure.splitlines():
        package, *rooms = line.split()
        rows[package].append(tuple(rooms))
    return rows


def owner(name: str) -> str:
    """The module that an imported name is, or belongs to; nothing where it is not ours."""
    while name and name not in modules():
        name = name.rpartition(".")[0]
    return name


@pytest.mark.parametrize("package", ["transformations", "expectations", "pipelines"])
def test_rooms_import_downwards_only_as_the_drawing_says(package: str) -> None:
    level = {room: number for number, row in enumerate(drawn()[package]) for room in row}
    rooms = {name.split(".")[1] for name in modules() if within(name, package) and "." in name}
    assert rooms == level.keys()
    wrong = []
    for name in modules():
        if within(name, package) and "." in name:
            here = name.split(".")[1]
            for found in read(name)[1]:
                there = owner(found.name).split(".")[1:2]
                if within(found.name, package) and there and there != [here] and level[there[0]] <= level[here]:
                    wrong.append(f"{name}:{found.line} imports {found.name}")
    assert not wrong


def test_the_walks_lead_through_files_that_are_there() -> None:
    files = re.findall(r"`([\w/]+(?:\.py|/))`", PAGE.read_text(encoding="utf-8"))
    assert len(files) > 20
    assert [file for file in files if not (ROOT / file).exists() and not (ROOT / "pipelines" / file).exists()] == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {name: {owner(i.name) for i in read(name)[1]} - {name, ""} for name in modules()}
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"a circle: {' → '.join(error.args[1])}")


def test_folders_of_the_flow_hold_stages_and_nothing_else() -> None:
    for name, path in modules().items():
        if name.startswith(tuple(f"pipelines.{stage}." for stage in STAGES)):
            body = read(name)[0].body
            declared = {t.id for n in body if isinstance(n, ast.Assign) for t in n.targets if isinstance(t, ast.Name)}
            declared |= {n.name for n in body if isinstance(n, ast.FunctionDef)}
            assert declared >= {"STAGE", "look", "work"}, path


def test_heavy_libraries_are_imported_where_they_are_used_and_not_at_the_top() -> None:
    wrong = [
        f"{name}:{found.line} imports {found.name} at the top"
        for name in modules()
        if not name.startswith(ADAPTERS)
        for found in read(name)[1]
        if found.at_top and within(found.name, *HEAVY)
    ]
    assert not wrong


def test_transformations_touch_no_file_no_clock_and_no_network() -> None:
    wrong = []
    for name in modules():
        if within(name, "transformations"):
            tree, found = read(name)
            wrong += [
                f"{name}:{i.line} imports {i.name}" for i in found if within(i.name, *IMPURE) and i.name not in PURE
            ]
            wrong += [f"{name}:{line} calls {call}" for line, call in impure_calls(tree)]
    assert not wrong


def impure_calls(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            function = node.func
            if (isinstance(function, ast.Name) and function.id in IMPURE_CALLS) or (
                isinstance(function, ast.Attribute) and function.attr in IMPURE_METHODS
            ):
                yield node.lineno, ast.unparse(function)


def test_the_reader_of_imports_sees_every_kind() -> None:
    source = """
import os.path
from pipelines.lakehouse import session
from . import sibling
from ..other import thing
if TYPE_CHECKING:
    import mlflow
try:
    import lance
except ImportError:
    pass
def f():
    import openai
    datetime.now(); open("x"); Path("x").read_text(); regex.match("x")
"""
    found = {i.name: i.at_top for i in imports(ast.parse(source), module="pipelines.gold.embed")}
    assert found == {
        "os.path": True,
        "pipelines.lakehouse.session": True,
        "pipelines.gold.sibling": True,
        "pipelines.other.thing": True,
        "mlflow": False,
        "lance": True,
        "openai": False,
    }
    assert [call for _, call in impure_calls(ast.parse(source))] == ["datetime.now", "open", "Path('x').read_text"]


def test_every_module_opens_with_a_sentence_and_stays_below_400_lines() -> None:
    wrong = []
    for name, path in modules().items():
        text = path.read_text(encoding="utf-8")
        if text.strip() and not ast.get_docstring(ast.parse(text)):
            wrong.append(f"{name} has no docstring")
        if len(text.splitlines()) > 400:
            wrong.append(f"{name} is {len(text.splitlines())} lines long: split it")
    assert not wrong
