"""Keeps ops.index_places: every place to which an index was ever written.

A place is recorded before the first row is written there, and removed when its index is dropped. So a document can be
forgotten everywhere, also in places that `index.name`, `index.store` or `index.uri` named in the past.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from pipelines.lakehouse.tables import Lakehouse
from pipelines.settings.sections import Settings
from pipelines.stores import Store, open_store

TABLE = "ops.index_places"


@dataclass(frozen=True)
class Place:
    """One index at one address: `uri` is a server's address, or a folder as an absolute path."""

    index_name: str
    alias: str
    store: str
    uri: str
    model_name: str
    dimension: int

    @property
    def address(self) -> tuple[str, str, str]:
        return self.index_name, self.store, self.uri

    def open(self, settings: Settings) -> Store:
        """The store of this index. The secret of the settings is used only for their own store and address."""
        index = settings.index
        if (index.store, settings.index_uri) != (self.store, self.uri):
            known = index.options if index.store == self.store else {}
            index = index.model_copy(update={"store": self.store, "uri": self.uri, "secret": None, "options": known})
            settings = settings.model_copy(update={"index": index})
        return open_store(settings, dimension=self.dimension, name=self.index_name)


def kept(settings: Settings, uri: str) -> str:
    """An address as the table keeps it: a folder of the workspace is relative to its root, so that in a copy of the
    workspace it means the copy's folder."""
    if "://" in uri:
        return uri
    path = Path(uri)
    return str(path.relative_to(settings.root)) if path.is_relative_to(settings.root) else uri


def told(settings: Settings, uri: str) -> str:
    """The address from which `kept` made `uri`, or in a copy of the workspace the copy's own."""
    return uri if "://" in uri else str(settings.path(uri))


def places(lake: Lakehouse) -> list[Place]:
    """All recorded places."""
    rows = lake.read_arrow(TABLE).to_pylist()
    return [Place(**{**row, "uri": told(lake.settings, row["uri"])}) for row in rows]


def note(lake: Lakehouse, found: Iterable[Place]) -> None:
    """Record those places that are not recorded yet."""
    known = {place.address for place in places(lake)}
    new = {place.address: place for place in found if place.address not in known}
    lake.append_arrow(TABLE, [asdict(p) | {"uri": kept(lake.settings, p.uri)} for p in new.values()])


def forget_place(lake: Lakehouse, place: Place) -> None:
    """Remove the record of a place whose index was dropped."""
    uri = kept(lake.settings, place.uri)
    lake.delete(TABLE, {"index_name": [place.index_name], "store": [place.store], "uri": [uri]})
