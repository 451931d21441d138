"""Where a workload's database lies: in a file, or on a PostgreSQL server of its own.

A place gives a new store for each name, and the raw commits that its figures stand beside.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import attrs
from benchmarks.raw import Durability, Raw, commits_to_file, commits_to_server

if TYPE_CHECKING:
    from tests.postgres import Server


class Place(Protocol):
    """Where one run of one workload keeps its database and its files."""

    @property
    def folder(self) -> Path: ...

    @property
    def durability(self) -> Durability: ...

    def store(self, name: str) -> str:
        """The address of a database that is new, as for `WorkflowManager`."""
        ...

    def raw(self) -> Raw:
        """How long one-row commits take here, without any engine."""
        ...


@attrs.frozen
class FilePlace:
    """SQLite files in a folder."""

    folder: Path
    durability: Durability

    def store(self, name: str) -> str:
        return str(self.folder / f"{name}.db")

    def raw(self) -> Raw:
        return commits_to_file(self.folder, self.durability)


@attrs.frozen
class ServerPlace:
    """Databases of a PostgreSQL server."""

    folder: Path
    server: Server
    durability: Durability = "disk"

    def store(self, name: str) -> str:
        return self.server.create_database()

    def raw(self) -> Raw:
        return commits_to_server(self.server.create_database())
