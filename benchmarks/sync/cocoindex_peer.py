"""A folder in; its chunks in a Lance table, kept equal by a cocoindex app, out.

Both ways follow its LanceDB example: a component a file, with memo, and a memo on the embedding function; a batch that
fails is halved, as its own embedders do. As documented: 64 texts a batch, ids from its generator, the chunk's place in
the row, and the exit code of `update_blocking`, which is 0 whatever failed. At its best: 1,024 texts a batch, ids from
path and text, no place in the row, and errors counted.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Annotated, Any, TypeVar

os.environ["COCOINDEX_DISABLE_USAGE_TRACKING"] = "1"  # read when the library is imported

import cocoindex as coco
import numpy as np
from cocoindex.connectors import lancedb, localfs
from cocoindex.resources.file import FileLike, PatternFilePathMatcher
from cocoindex.resources.id import IdGenerator
from cocoindex.resources.schema import VectorSchema, VectorSchemaProvider
from numpy.typing import NDArray

from benchmarks.sync.corpus import paragraphs
from benchmarks.sync.embedder import DIMENSION, PoisonError, StubEmbedder
from benchmarks.sync.peer import TABLE, Job, main


def _vectors(texts: list[str]) -> list[NDArray[np.float32]]:
    try:
        return list(StubEmbedder().embed(texts, batch_size=len(texts)))
    except PoisonError as error:
        raise coco.RetryWithSmallerBatch() from error


_embed_64 = coco.fn.as_async(batching=True, max_batch_size=64)(_vectors)
_embed_1024 = coco.fn.as_async(batching=True, max_batch_size=1024)(_vectors)


class Stub(VectorSchemaProvider):
    """An embedder as cocoindex's own are: memoised by text, and by the model's name."""

    def __init__(self, *, is_best: bool) -> None:
        self._name = StubEmbedder().name
        self._embed = _embed_1024 if is_best else _embed_64

    @coco.fn(memo=True, version=1, logic_tracking="self")
    async def embed(self, text: str) -> NDArray[np.float32]:
        return await self._embed(text)

    async def __coco_vector_schema__(self) -> VectorSchema:
        return VectorSchema(dtype=np.dtype(np.float32), size=DIMENSION)

    def __coco_memo_key__(self) -> object:
        return self._name


Row = TypeVar("Row")
DATABASE = coco.ContextKey[lancedb.LanceAsyncConnection]("database")
EMBEDDER = coco.ContextKey[Stub]("embedder", detect_change=True)


@dataclass
class DocumentedRow:
    id: int
    document: str
    chunk: int
    text: str
    vector: Annotated[NDArray[np.float32], EMBEDDER]


@dataclass
class BestRow:
    id: str
    document: str
    text: str
    vector: Annotated[NDArray[np.float32], EMBEDDER]


@coco.fn
async def documented_row(
    chunk: tuple[int, str], path: str, ids: IdGenerator, table: lancedb.TableTarget[DocumentedRow]
) -> None:
    place, text = chunk
    vector = await coco.use_context(EMBEDDER).embed(text)
    table.declare_row(row=DocumentedRow(await ids.next_id(text), path, place, text, vector))


@coco.fn(memo=True)
async def documented_file(file: FileLike[Any], table: lancedb.TableTarget[DocumentedRow]) -> None:
    chunks = list(enumerate(paragraphs((await file.read_text()).strip())))
    await coco.map(documented_row, chunks, file.file_path.path.as_posix(), IdGenerator(), table)


@coco.fn
async def best_row(chunk: tuple[str, str], path: str, table: lancedb.TableTarget[BestRow]) -> None:
    key, text = chunk
    table.declare_row(row=BestRow(key, path, text, await coco.use_context(EMBEDDER).embed(text)))


@coco.fn(memo=True)
async def best_file(file: FileLike[Any], table: lancedb.TableTarget[BestRow]) -> None:
    path, seen, chunks = file.file_path.path.as_posix(), Counter[str](), []
    for text in paragraphs((await file.read_text()).strip()):
        chunks.append((sha256(f"{path}\0{text}\0{seen[text]}".encode()).hexdigest(), text))
        seen[text] += 1
    await coco.map(best_row, chunks, path, table)


async def _table(row: type[Row]) -> lancedb.TableTarget[Row]:
    schema = await lancedb.TableSchema.from_class(row, primary_key=["id"])
    return await lancedb.mount_table_target(DATABASE, table_name=TABLE, table_schema=schema)


def sync(job: Job) -> Mapping[str, int]:
    """Errors: how many components failed, where they are counted."""
    errors: list[BaseException] = []

    @coco.lifespan
    async def resources(builder: coco.EnvironmentBuilder) -> AsyncIterator[None]:
        builder.settings.db_path = job.state / "cocoindex.db"
        builder.provide(DATABASE, await lancedb.connect_async(job.sink))
        builder.provide(EMBEDDER, Stub(is_best=job.is_best))
        if job.is_best:
            builder.set_exception_handler(lambda error, context: errors.append(error))
        yield

    @coco.fn
    async def app() -> None:
        matcher = PatternFilePathMatcher(included_patterns=["**/*.md"])
        files = localfs.walk_dir(job.folder, recursive=True, path_matcher=matcher).items()
        if job.is_best:
            await coco.mount_each(best_file, files, await _table(BestRow))
        else:
            await coco.mount_each(documented_file, files, await _table(DocumentedRow))

    coco.App(coco.AppConfig(name="chunks"), app).update_blocking()
    return {"errors": len(errors)}


if __name__ == "__main__":
    main(sync)
