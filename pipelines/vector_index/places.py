"""Where an index was ever written in; the same places, told from any copy of the workspace, out: ops.index_places.

A place is recorded before the first row goes there, and leaves the table when its index is dropped. So a document can
be forgotten everywhere, also where `index.name`, `index.store` or `index.uri` once said.
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
        """The store of this index. The secret is that of the settings only where it is their own address."""
        index = settings.index
        if (index.store, settings.index_uri) != (self.store, self.uri):
            known = index.options if index.store == self.store else {}
            index = index.model_copy(update={"store": self.store, "uri": self.uri, "secret": None, "options": known})
            settings = settings.model_copy(update={"index": index})
        return open_store(settings, dimension=self.dimension, name=self.index_name)


def kept(settings: Settings, uri: str) -> str:
    """How a table keeps an address: folders of the workspace from its root, so that a copy means its own."""
    if "://" in uri:
        return uri
    path = Path(uri)
    return str(path.relative_to(settings.root)) if path.is_relative_to(settings.root) else uri


def told(settings: Settings, uri: str) -> str:
    """The address that `kept` made."""
    return uri if "://" in uri else str(settings.path(uri))


def places(lake: Lakehouse) -> list[Place]:
    """Every place that is recorded."""
    rows = lake.read_arrow(TABLE).to_pylist()
    return [Place(**{**row, "uri": told(lake.settings, row["uri"])}) for row in rows]


def note(lake: Lakehouse, found: Iterable[Place]) -> None:
    """Record those of the places that are not."""
    known = {place.address for place in places(lake)}
    new = {place.address: place for place in found if place.address not in known}
    lake.append_arrow(TABLE, [asdict(p) | {"uri": kept(lake.settings, p.uri)} for p in new.values()])


def forget_place(lake: Lakehouse, place: Place) -> None:
    """Its index was dropped."""
    uri = kept(lake.settings, place.uri)
    lake.delete(TABLE, {"index_name": [place.index_name], "store": [place.store], "uri": [uri]})
