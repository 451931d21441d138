"""An SQLite store whose workflows move out: it is closed for good to everybody else, then read.

The file says of itself that it moves, or has moved, in place of its schema's version: so a process
that has it open finds out at its next commit, as after an upgrade. Not here: where they move to.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import attrs

from perdure.errors import StoreError, StoreMoved, StoreNotFound, StoreVersionError

from .connection import translate
from .liveness import LockFiles

#: In place of the schema's version.
MOVING: Final = -1
MOVED: Final = -2

#: What moves, parents before their children, with the column that gives the order of rows.
TABLES: Final = {
    "perdure_workers": "id",
    "perdure_workflows": "seq",
    "perdure_steps": "workflow_id, number",
    "perdure_ticks": "workflow_id, position",
    "perdure_events": "workflow_id, id",
    "perdure_inbox": "id",
}

#: Numbers that every database gives for itself, in the same order.
OWN_NUMBERS: Final = {"perdure_workflows": "seq", "perdure_inbox": "id"}

_NOTE = "CREATE TABLE perdure_moved (token TEXT NOT NULL, target TEXT NOT NULL) STRICT"


@attrs.frozen
class Move:
    """A move that was begun.

    Attributes:
        token: by which the target knows that it has been there already.
        target: the address, without its password.
        is_done: the workflows are there, and nowhere else.
    """

    token: str
    target: str
    is_done: bool


@attrs.frozen
class Settings:
    """What is in the row of settings."""

    max_parallelism: int
    next_epoch: int
    next_event: int


def refuse_moved(execute: Callable[[str], sqlite3.Cursor], version: object, path: str) -> None:
    """Raise `StoreMoved` if this is the version of a store that moves or has moved."""
    if version not in (MOVING, MOVED):
        return
    (target,) = execute("SELECT target FROM perdure_moved").fetchone()
    if version == MOVED:
        raise StoreMoved(f"{path}: its workflows have moved to {target}: use that address")
    raise StoreMoved(
        f"{path}: its workflows are being moved to {target}: wait; or, if that was broken off, run"
        " `perdure migrate` again, which goes on, or takes it back with --abandon"
    )


class MovingSqlite:
    """The side that moves out; a context manager.

    Args:
        path: of the file.
        schema_version: the one that this perdure knows.

    Raises:
        StoreNotFound: there is no such file, or it has none of perdure's tables.
        StoreVersionError: another perdure has made it.
        StoreError: it cannot be read.
    """

    def __init__(self, path: str, schema_version: int) -> None:
        self.path = path
        self._schema_version = schema_version
        if not os.path.isfile(path):
            raise StoreNotFound(f"{path}: there is no such file: give the path of a database")
        self._db = sqlite3.connect(f"{Path(path).resolve().as_uri()}?mode=rw", uri=True, timeout=30)
        self._db.isolation_level = None
        try:
            self.move  # noqa: B018 - reads
        except BaseException:
            self._db.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._db.close()

    def _execute(self, sql: str, parameters: tuple[object, ...] = ()) -> sqlite3.Cursor:
        try:
            return self._db.execute(sql, parameters)
        except sqlite3.Error as error:
            raise translate(error, self.path) or StoreError(f"{self.path}: {error}") from error

    @property
    def move(self) -> Move | None:
        """The move that was begun, if one was."""
        tables = {row[0] for row in self._execute("SELECT name FROM sqlite_master")}
        if "perdure_config" not in tables:
            raise StoreNotFound(f"{self.path}: perdure has no tables in it: nothing to move")
        (version,) = self._execute("SELECT schema_version FROM perdure_config").fetchone()
        if version in (MOVING, MOVED):
            token, target = self._execute("SELECT token, target FROM perdure_moved").fetchone()
            return Move(token, target, version == MOVED)
        if version != self._schema_version:
            raise StoreVersionError(
                f"{self.path}: its schema is version {version}, and this perdure knows"
                f" {self._schema_version}: use the perdure that its workers use, or have a worker"
                " of this one upgrade it"
            )
        return None

    # --- closing it to others

    def begin(self, token: str, target: str) -> Move:
        """From now on nobody writes here any more.

        Raises:
            StoreError: a worker is still at work.
        """
        with self._writing():
            found = self.move
            if found is not None:
                raise StoreMoved(f"{self.path}: it was just begun to move it to {found.target}")
            self._refuse_living()
            self._execute(_NOTE)
            self._execute("INSERT INTO perdure_moved VALUES (?, ?)", (token, target))
            self._execute("UPDATE perdure_config SET schema_version = ?", (MOVING,))
        return Move(token, target, is_done=False)

    def _refuse_living(self) -> None:
        locks = LockFiles(Path(f"{os.path.realpath(self.path)}.workers"))
        workers = [row[0] for row in self._execute("SELECT id FROM perdure_workers")]
        with contextlib.closing(locks):
            living = [worker for worker in workers if not locks.is_dead(worker)]
        if living:
            count = "a worker is" if len(living) == 1 else f"{len(living)} workers are"
            raise StoreError(
                f"{self.path}: {count} still at work ({', '.join(living)}): stop them first"
            )

    def finish(self) -> None:
        """Everything is there: whoever comes here is sent on."""
        with self._writing():
            self._execute("UPDATE perdure_config SET schema_version = ?", (MOVED,))

    def abandon(self) -> None:
        """All is as it was before `begin`."""
        with self._writing():
            self._execute("DROP TABLE perdure_moved")
            sql = "UPDATE perdure_config SET schema_version = ?"
            self._execute(sql, (self._schema_version,))

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        self._execute("PRAGMA synchronous = FULL")
        self._execute("BEGIN IMMEDIATE")
        try:
            yield
            self._execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._execute("ROLLBACK")
            raise

    # --- what moves

    @property
    def settings(self) -> Settings:
        """What is in the row of settings."""
        sql = "SELECT max_parallelism, next_epoch, next_event FROM perdure_config"
        return Settings(*self._execute(sql).fetchone())

    def count(self, table: str) -> int:
        """The rows of a table."""
        count: int = self._execute(f"SELECT count(*) FROM {table}").fetchone()[0]
        return count

    def columns(self, table: str) -> list[str]:
        """The columns of a table that move."""
        found = self._execute(f"SELECT * FROM {table} LIMIT 0").description
        return [column[0] for column in found if column[0] != OWN_NUMBERS.get(table)]

    def rows(self, table: str) -> Iterator[tuple[Any, ...]]:
        """The rows of a table, as in `columns`, in the order in which they came to be."""
        columns = ", ".join(self.columns(table))
        sql = f"SELECT {columns} FROM {table} ORDER BY {TABLES[table]}"
        yield from self._execute(sql)

    def other_tables(self) -> list[str]:
        """The application's own tables, which do not move."""
        sql = (
            "SELECT name FROM sqlite_master WHERE type = 'table'"
            r" AND name NOT LIKE 'perdure\_%' ESCAPE '\' AND name NOT LIKE 'sqlite\_%' ESCAPE '\'"
            " ORDER BY name"
        )
        return [row[0] for row in self._execute(sql)]
