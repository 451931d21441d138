"""The engine's statements on one connection: queued, sent together, answered together.

What psycopg's cursors do is for user code; here nothing is adapted, since all parameters are
texts, numbers and lists of them, and several statements share one round trip. Statements are
prepared by the server at their first use, once for each connection.

What does not belong here: what the statements mean, transactions, and user code.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import psycopg
from psycopg.abc import PQGen
from psycopg.errors import error_from_result
from psycopg.generators import execute
from psycopg.pq import ConnStatus, ExecStatus, TransactionStatus
from psycopg.pq.abc import PGresult
from psycopg.waiting import Ready, Wait

logger = logging.getLogger("perdure.store")

#: Begins a transaction of the engine's, whatever the database, the user or a pooler sets.
BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED"

_BOOL = 16
_INTEGERS = (20, 21, 23)

#: Looks at what a statement that was queued has done; it may raise.
Check = Callable[["Rows"], None]


class Rows:
    """What a statement gave: all its rows, how many it returned or changed, and what the server
    says that it has done."""

    __slots__ = ("_rows", "count", "tag")

    def __init__(self, rows: list[Any], count: int, tag: bytes | None) -> None:
        self._rows = rows
        self.count = count
        self.tag = tag

    def __iter__(self) -> Iterator[Any]:
        return iter(self._rows)

    def fetchone(self) -> Any:
        """The first row, or None."""
        return self._rows[0] if self._rows else None

    def fetchall(self) -> list[Any]:
        """All rows, as tuples."""
        return self._rows


class Pipeline:
    """Sends statements over a connection that nobody else uses meanwhile.

    Args:
        connection: open; it may be in a transaction.
        prepares: whether statements may be prepared for the life of the session.
    """

    def __init__(self, connection: psycopg.Connection[Any], *, prepares: bool) -> None:
        self._connection = connection
        self.prepares = prepares
        self._prepared: dict[str, bytes] = {}
        self._numbers = itertools.count()
        self._queue: list[tuple[str, Sequence[Any], Check | None]] = []

    @property
    def begins(self) -> bool:
        """Whether what is queued begins with `BEGIN`."""
        return bool(self._queue) and self._queue[0][0] == BEGIN

    @property
    def is_only_begun(self) -> bool:
        """Whether nothing but `BEGIN` is queued."""
        return self.begins and len(self._queue) == 1

    @property
    def has_checks(self) -> bool:
        """Whether what is queued has to be looked at when it was run."""
        return any(check is not None for _, _, check in self._queue)

    def queue(self, sql: str, parameters: Sequence[Any] = (), check: Check | None = None) -> None:
        """Have a statement sent with the next ones.

        Args:
            sql: with ``$1`` and so on for parameters.
            check: called with what it did; what it raises is raised by `run`.
        """
        self._queue.append((sql, parameters, check))

    def clear(self) -> None:
        """Forget what is queued."""
        self._queue.clear()

    def ask(self, sql: str, parameters: Sequence[Any] = ()) -> Rows:
        """Run a statement after those that are queued; what it gave.

        Raises:
            psycopg.Error: see `run`.
        """
        self.queue(sql, parameters)
        return self.run()[-1]

    def run(self, *, last_may_fail: bool = False) -> list[Rows]:
        """Send what is queued, in one round trip; what each gave.

        Args:
            last_may_fail: if only the last one fails, it is left out, and its error is logged.

        Raises:
            psycopg.Error: of the first that failed; none after it was run.
        """
        queued, self._queue = self._queue, []
        if not queued:
            return []
        with self._connection.lock:
            name = self._prepared.get(queued[0][0]) if len(queued) == 1 else None
            if name is not None:
                results = self._send_one(name, queued[0][1])
            else:
                statements = [(sql, parameters) for sql, parameters, _ in queued]
                results = self._send(statements, len(queued) - last_may_fail)
        found = [self._rows(result) for result in results]
        for rows, (_, _, check) in zip(found, queued, strict=not last_may_fail):
            if check is not None:
                check(rows)
        return found

    def _send_one(self, name: bytes, values: Sequence[Any]) -> list[PGresult]:
        """Run a statement that is prepared, outside of pipeline mode, which costs more."""
        pgconn = self._connection.pgconn
        if pgconn.transaction_status == TransactionStatus.ACTIVE:
            raise _still_copying()
        # Most are numbers, and in a step's commit there are many.
        encoded = [b"%d" % each if type(each) is int else _encoded(each) for each in values]
        pgconn.send_query_prepared(name, encoded)
        results: list[PGresult] = self._connection.wait(execute(pgconn))
        for result in results:
            if result.status == ExecStatus.FATAL_ERROR:
                raise error_from_result(result, encoding="utf-8")
        return results

    def _send(self, statements: list[tuple[str, Sequence[Any]]], needed: int) -> list[PGresult]:
        pgconn = self._connection.pgconn
        is_answer: list[bool] = []  # and not what preparing gave
        fresh: dict[str, bytes] = {}
        encoded = [(sql, [_encoded(value) for value in values]) for sql, values in statements]
        if pgconn.transaction_status == TransactionStatus.ACTIVE:
            raise _still_copying()
        pgconn.enter_pipeline_mode()
        try:
            for sql, values in encoded:
                if not self.prepares:
                    pgconn.send_query_params(sql.encode(), values)
                else:
                    name = self._prepared.get(sql) or fresh.get(sql)
                    if name is None:
                        name = fresh[sql] = b"perdure_%d" % next(self._numbers)
                        pgconn.send_prepare(name, sql.encode())
                        is_answer.append(False)
                    pgconn.send_query_prepared(name, values)
                is_answer.append(True)
            pgconn.pipeline_sync()
            results = self._connection.wait(_results(pgconn))
        finally:
            if pgconn.status == ConnStatus.OK:
                pgconn.exit_pipeline_mode()
        for index, result in enumerate(results):
            if result.status == ExecStatus.FATAL_ERROR:
                # What was prepared before it stays so; it is only not known, and named anew.
                error = error_from_result(result, encoding="utf-8")
                if sum(is_answer[:index]) < needed:
                    raise error
                logger.warning("%s: %s", statements[-1][0], error)
                # It may be that of the end, which comes after the last one's answer.
                return list(itertools.compress(results[:index], is_answer))[:needed]
        self._prepared |= fresh
        return [result for result, wanted in zip(results, is_answer, strict=True) if wanted]

    def _rows(self, result: PGresult) -> Rows:
        if result.status != ExecStatus.TUPLES_OK:
            return Rows([], result.command_tuples or 0, result.command_status)
        columns = range(result.nfields)
        if not columns:
            return Rows([()] * result.ntuples, result.ntuples, result.command_status)
        decoders = [_decoder(result.ftype(column)) for column in columns]
        value = result.get_value
        rows = []
        for row in range(result.ntuples):
            values = [value(row, column) for column in columns]
            rows.append(
                tuple(
                    None if each is None else decode(each)
                    for each, decode in zip(values, decoders, strict=True)
                )
            )
        return Rows(rows, result.ntuples, result.command_status)


def _still_copying() -> psycopg.Error:
    return psycopg.ProgrammingError("a COPY is still under way on this connection")


def _results(pgconn: Any) -> PQGen[list[PGresult]]:
    """Send what libpq holds, and read until it has answered all of it."""
    while pgconn.flush() != 0:
        ready = yield Wait.RW
        if ready & Ready.R:
            pgconn.consume_input()
    found: list[PGresult] = []
    nones = 0  # one stands between two statements, two stand for a connection that is ended
    while True:
        if nones == 2 or pgconn.is_busy():
            yield Wait.R
            try:
                pgconn.consume_input()
            except psycopg.OperationalError:
                if found and found[-1].status == ExecStatus.FATAL_ERROR:
                    return found  # which says why
                raise
            nones = 0
            continue
        result = pgconn.get_result()
        if result is None:
            if pgconn.status == ConnStatus.BAD:
                raise psycopg.OperationalError(pgconn.get_error_message())
            nones += 1
            continue
        nones = 0
        if result.status == ExecStatus.PIPELINE_SYNC:
            return found
        found.append(result)
        if result.status == ExecStatus.FATAL_ERROR and pgconn.status == ConnStatus.BAD:
            return found


def _encoded(value: Any) -> bytes | None:
    if value is None:
        return None
    if isinstance(value, list):
        return ("{" + ",".join(map(_element, value)) + "}").encode()
    return _text(value).encode()


def _text(value: Any) -> str:
    if isinstance(value, str):
        if "\0" in value:  # libpq would cut it off there
            raise psycopg.DataError("PostgreSQL cannot store a text with a NUL (0x00) in it")
        return value
    if isinstance(value, bool):
        return "t" if value else "f"
    assert isinstance(value, int | float), value
    return str(value)


def _element(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, str):
        return '"' + _text(value).replace("\\", "\\\\").replace('"', '\\"') + '"'
    return _text(value)


def _decoder(kind: int) -> Callable[[Any], Any]:
    if kind in _INTEGERS:
        return int
    if kind == _BOOL:
        return _is_true
    return _decoded


def _is_true(value: bytes) -> bool:
    return value == b"t"


def _decoded(value: bytes) -> str:
    return value.decode()
