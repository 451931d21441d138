"""Workflows move from an SQLite file into a PostgreSQL database, running ones too.

Three commits, so that at every moment one database at most is in use: the file says that it moves,
and nobody writes there any more; all rows arrive in the other, in one transaction; the file says
that they have moved. A move that is broken off is completed, or taken back, by the next call.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import attrs

from perdure.errors import StoreError, StoreMoved
from perdure.runtime.clock import RealClock
from perdure.store.sqlite_moving import TABLES, Move, MovingSqlite
from perdure.store.sqlite_schema import SCHEMA_VERSION

if TYPE_CHECKING:
    from perdure.store.postgres.moving import MovingIn

#: Told of a table, the rows that have arrived, and the rows that it has.
Progress: TypeAlias = Callable[[str, int, int], object]

#: After so many rows the caller is told how far it is.
ROWS_TOLD = 500


@attrs.frozen(kw_only=True)
class MigrationReport:
    """What has moved.

    Attributes:
        rows: how many rows of each table; empty if an earlier call had brought them.
        other_tables: the application's own tables in the file, which have not moved.
    """

    rows: dict[str, int]
    other_tables: tuple[str, ...] = ()

    @property
    def workflows(self) -> int:
        """How many workflows have moved, ended ones too."""
        return self.rows.get("perdure_workflows", 0)


def migrate(source: str, target: str, *, progress: Progress | None = None) -> MigrationReport:
    """Move all workflows of an SQLite file into a PostgreSQL database without any.

    All workers of the file must have ended. Workflows that are in progress go on as soon as a
    worker runs on the target; attempts that were cut off count as lost, as after a crash. From then
    on whoever opens the file is told where to go. The application's own tables do not move.

    A call that was broken off may be repeated with the same arguments: it goes on where it was.

    Args:
        source: path of the file, or ``sqlite:///path``.
        target: ``postgresql://…``; its tables are made if it has none.
        progress: called with a table, the rows that have arrived, and the rows that it has.

    Raises:
        StoreMoved: the file was moved elsewhere, or is just being moved elsewhere.
        StoreError: a worker is still at work, the target holds workflows, or one of the two is in
            trouble. What was copied until then is gone, and the file says that it moves.
        ValueError: that is no path, or no address of a PostgreSQL database.
    """
    path, shown = _check(source, target)
    from perdure.store.postgres.moving import MovingIn, check_empty
    from perdure.store.postgres.store import PostgresStore

    with MovingSqlite(path, SCHEMA_VERSION) as leaving:
        move = _resume(leaving, shown)
        if move is not None and move.is_done:
            return MigrationReport(rows={})
        store = PostgresStore(target)
        store.open(max_parallelism=leaving.settings.max_parallelism)
        store.close()
        if move is None:
            check_empty(target)
            move = leaving.begin(RealClock().new_id(), shown)
        rows: dict[str, int] = {}
        with MovingIn(target, move.token) as arriving:
            if not arriving.is_done:
                for table in TABLES:
                    rows[table] = _copy(leaving, arriving, table, progress)
                settings = leaving.settings
                arriving.set_settings(**attrs.asdict(settings))
        leaving.finish()
        return MigrationReport(rows=rows, other_tables=tuple(leaving.other_tables()))


def abandon_migration(source: str, target: str) -> None:
    """Take back a move that was broken off: the file is what it was before.

    Args:
        source: as it was given to `migrate`.
        target: so is this.

    Raises:
        StoreMoved: it is too late: all rows have arrived.
        StoreError: no move was begun, or one of the two cannot be asked.
    """
    path, shown = _check(source, target)
    from perdure.store.postgres.moving import has_moved_in

    with MovingSqlite(path, SCHEMA_VERSION) as leaving:
        move = _resume(leaving, shown)
        if move is None:
            raise StoreError(f"{path}: no move was begun, so there is none to abandon")
        if move.is_done or has_moved_in(target, move.token):
            raise StoreMoved(
                f"{path}: its workflows have arrived in {shown}: go on with `perdure migrate`"
            )
        leaving.abandon()


def _check(source: str, target: str) -> tuple[str, str]:
    """The path of the file, and the target without its password."""
    path = source.removeprefix("sqlite:///")
    if not path or "://" in path or path == ":memory:":
        raise ValueError(f"source={source!r}: give the path of an SQLite file")
    if not target.startswith(("postgresql://", "postgres://")):
        raise ValueError(f"target={target!r}: give postgresql://… ")
    from perdure.store.postgres.address import parse

    return str(Path(path)), parse(target).text


def _resume(leaving: MovingSqlite, shown: str) -> Move | None:
    move = leaving.move
    if move is not None and move.target != shown:
        state = "have moved" if move.is_done else "are being moved"
        raise StoreMoved(f"{leaving.path}: its workflows {state} to {move.target}, not to {shown}")
    return move


def _copy(leaving: MovingSqlite, arriving: MovingIn, table: str, progress: Progress | None) -> int:
    total = leaving.count(table)
    count = 0
    for count in arriving.copy(table, leaving.columns(table), leaving.rows(table)):
        if progress is not None and count % ROWS_TOLD == 0:
            progress(table, count, total)
    if count != total:
        raise StoreError(f"{leaving.path}: {table} has {total} rows, and {count} were read")
    if progress is not None:
        progress(table, count, total)
    return count
