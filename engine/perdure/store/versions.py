"""The versions of a store's tables: which one this code knows, and the way there from older ones.

``schema/sqlite.sql`` makes the newest tables at once, where there are none. ``schema/sqlite-2.sql``
leads from version 1 to 2, and so on, one file for each version; the same for PostgreSQL. Both ways
must end at the same tables, and a file that was released is never changed again.

What does not belong here: how a store keeps others out meanwhile (sqlite_schema.py,
postgres/schema.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import resources
from importlib.resources.abc import Traversable
from typing import TypeGuard

import attrs

from perdure.errors import StoreVersionError

#: Every worker is struck off: what it has under way is refused, and it finds out at its next
#: commit, by which time the version is another. What they owned wants to be taken up: now.
STRIKE_OFF = (
    "UPDATE perdure_workflows SET owner = NULL, wake_at = {now} WHERE owner IS NOT NULL",
    "DELETE FROM perdure_inbox WHERE worker IS NOT NULL",
    "DELETE FROM perdure_workers",
)


def _own_folder() -> Traversable:
    return resources.files("perdure.store").joinpath("schema")


@attrs.frozen
class Schema:
    """The tables of one kind of store, as some code knows them.

    Attributes:
        kind: what the names of its files begin with.
        version: that of the newest tables; raised by one with each change of them.
        folder: where its files are.
    """

    kind: str
    version: int
    folder: Traversable = attrs.field(factory=_own_folder)

    def creation(self) -> list[str]:
        """The statements that make the newest tables where there are none."""
        return self._statements(f"{self.kind}.sql")

    def way_from(self, version: int) -> list[str]:
        """The statements that lead from the tables of an older version to the newest."""
        numbers = range(version + 1, self.version + 1)
        return [
            statement
            for number in numbers
            for statement in self._statements(f"{self.kind}-{number}.sql")
        ]

    def upgrade(self, execute: Callable[..., object], version: int, *, now: str) -> None:
        """Bring tables of an older version up to date, in a transaction that nobody else writes
        beside; no worker of older code writes after it.

        Args:
            execute: runs a statement.
            now: in SQL: the time in ms since the epoch.
        """
        for statement in self.way_from(version):
            execute(statement)
        for statement in STRIKE_OFF:
            execute(statement.format(now=now))
        execute(f"UPDATE perdure_config SET schema_version = {self.version}")

    def _statements(self, name: str) -> list[str]:
        # Each ends at a semicolon at a line's end. What is indented goes on with it: the body of a
        # function has semicolons too.
        script = self.folder.joinpath(name).read_text("utf-8")
        return [statement for statement in re.split(r";\n(?! )", script) if statement.strip()]

    def is_older(self, version: object) -> TypeGuard[int]:
        """Whether there is a way from tables of that version."""
        return isinstance(version, int) and 1 <= version < self.version

    def check(self, version: object, where: str) -> None:
        """Raise if a stored version is not this code's.

        Args:
            where: the store, for the message.

        Raises:
            StoreVersionError
        """
        if version == self.version:
            return
        if self.is_older(version):
            raise StoreVersionError(
                f"{where}: its schema is version {version}, older than {self.version}, which this"
                " perdure knows: start a worker of this perdure, which upgrades it"
            )
        if isinstance(version, int) and version > self.version:
            raise StoreVersionError(
                f"{where}: its schema is version {version}, newer than {self.version}, which"
                " this perdure knows: upgrade perdure in this process"
            )
        raise StoreVersionError(
            f"{where}: its schema is version {version}, which this perdure (it knows"
            f" {self.version}) does not know: restore a backup, or ask for help with it"
        )

    def check_readable(self, version: object, where: str) -> None:
        """Raise if tables of that version cannot be read by this code; older ones can: whoever
        only looks, as `perdure check` does before a deploy, need not wait for the upgrade.

        Raises:
            StoreVersionError
        """
        if not self.is_older(version):
            self.check(version, where)
