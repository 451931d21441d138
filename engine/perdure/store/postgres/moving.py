"""The rows of another store move into an empty one here, in one transaction.

Not here: what becomes of the other store (`perdure.migrating`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Self

import psycopg
from psycopg import sql

from perdure.errors import StoreError

from .address import parse

#: A worker that has moved is dead: whoever works here buries it and takes over, as after a crash.
_LEASE = "lease_until"

_NOTE = "CREATE TABLE IF NOT EXISTS perdure_moved (token text PRIMARY KEY)"


class MovingIn:
    """The transaction in which rows arrive; a context manager, which commits at the end.

    Args:
        address: of a database whose tables are made.
        token: of this move.

    Attributes:
        is_done: an earlier try has brought all rows; there is nothing to do.

    Raises:
        StoreError: the database is in trouble, or not empty.
    """

    def __init__(self, address: str, token: str) -> None:
        self._address = parse(address)
        self._token = token
        self.is_done = False

    def __enter__(self) -> Self:
        try:
            self._db = psycopg.connect(**self._address.connection_parameters())
            try:
                self._begin()
            except BaseException:
                self._db.close()
                raise
        except psycopg.Error as error:
            raise self._trouble(error) from error
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        try:
            if error is None:
                self._db.commit()
        except psycopg.Error as trouble:
            raise self._trouble(trouble) from trouble
        finally:
            self._db.close()
        if isinstance(error, psycopg.Error):
            raise self._trouble(error) from error

    def _trouble(self, error: psycopg.Error) -> StoreError:
        return StoreError(f"{self._address.text}: {str(error).strip() or type(error).__name__}")

    def _begin(self) -> None:
        execute = self._db.execute
        execute("SET LOCAL lock_timeout = '30s'")
        # Whoever else moves in here waits, and then finds that it is not empty.
        execute("SELECT 1 FROM perdure_config FOR UPDATE")
        execute(_NOTE)
        found = execute("SELECT 1 FROM perdure_moved WHERE token = %s", (self._token,)).fetchone()
        if found is not None:
            self.is_done = True
            return
        _refuse_full(self._db, self._address.text)
        execute("INSERT INTO perdure_moved VALUES (%s)", (self._token,))

    def copy(
        self, table: str, columns: Sequence[str], rows: Iterable[tuple[Any, ...]]
    ) -> Iterator[int]:
        """Bring in the rows of a table; how many so far, after each.

        Raises:
            StoreError: a row cannot be stored here.
        """
        names = [sql.Identifier(each) for each in columns]
        statement = sql.SQL("COPY {} ({}) FROM STDIN").format(
            sql.Identifier(table), sql.SQL(", ").join(names)
        )
        lease = columns.index(_LEASE) if _LEASE in columns else None
        count = 0
        with self._db.cursor().copy(statement) as copy:
            for row in rows:
                if lease is not None:
                    row = (*row[:lease], "-infinity", *row[lease + 1 :])
                try:
                    copy.write_row(row)
                except psycopg.DataError as error:  # a text with a zero byte in it
                    raise StoreError(
                        f"{self._address.text}: {table}: the row {row[:2]!r}: {error}"
                    ) from error
                count += 1
                yield count

    def set_settings(self, *, max_parallelism: int, next_epoch: int, next_event: int) -> None:
        """What the other store's settings were, and where its sequences stood."""
        execute = self._db.execute
        execute("UPDATE perdure_config SET max_parallelism = %s", (max_parallelism,))
        for name, value in (("perdure_epochs", next_epoch), ("perdure_event_order", next_event)):
            execute(
                sql.SQL("ALTER SEQUENCE {} RESTART WITH {}").format(
                    sql.Identifier(name), sql.Literal(value)
                )
            )


def _refuse_full(db: psycopg.Connection[Any], text: str) -> None:
    found = db.execute("SELECT id FROM perdure_workflows ORDER BY seq LIMIT 1").fetchone()
    if found is not None:
        raise StoreError(
            f"{text}: it holds workflows already, such as {found[0]!r}: move into a database"
            " without any"
        )


def check_empty(address: str) -> None:
    """Raise `StoreError` if there are workflows in this database, whose tables are made."""
    where = parse(address)
    try:
        with psycopg.connect(**where.connection_parameters()) as db:
            _refuse_full(db, where.text)
    except psycopg.Error as error:
        raise StoreError(f"{where.text}: {str(error).strip()}") from error


def has_moved_in(address: str, token: str) -> bool:
    """Whether a move has been completed here. The tables need not be there.

    Raises:
        StoreError: the database cannot be asked.
    """
    where = parse(address)
    try:
        with psycopg.connect(**where.connection_parameters()) as db:
            ((table,),) = db.execute("SELECT to_regclass('perdure_moved')").fetchall()
            if table is None:
                return False
            found = db.execute("SELECT 1 FROM perdure_moved WHERE token = %s", (token,))
            return found.fetchone() is not None
    except psycopg.Error as error:
        raise StoreError(f"{where.text}: {str(error).strip()}") from error
