"""The PostgreSQL connection that the engine and user code share, and the fence around user code.

Mutations, queries and `on_complete` run inside the engine's transaction on this very connection.
So while user code runs nothing may end the transaction, change the session for those who come
later, or turn trouble of the store into a failed step. How:

* Each call runs under a savepoint. A query's is rolled back in any case, and made read-only: within
  a savepoint PostgreSQL lets nobody take that back.
* All that user code executes goes through one place, in the protocol that takes one statement at a
  time; its first words are looked at (fence.py).
* Settings that a step has set for the rest of the transaction are taken back after it.
* The public `execute` and `cursor` are for user code alone and refuse to work outside of it. The
  engine has a `Pipeline`.

What does not belong here: the engine's own SQL, retries, and what becomes of a failed step.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn, Self, TypeVar

import psycopg
from psycopg.pq import TransactionStatus

from perdure.errors import ConnectionMisuse, StoreBusy, StoreError

from ..base import TransactionLost, UserRaisedStoreError
from . import fence
from .errors import is_lost_transaction, translate, translate_own
from .fence import READ_ONLY, SAVEPOINT_NAME, WHY_NOT
from .pipeline import BEGIN, Pipeline

T = TypeVar("T")

#: Errors after which the whole transaction is tried again, if the function did not handle them.
_AGAIN = ("40001", "40P01", "55P03")

_READ_ONLY_ERROR = "25006"
_SEVERAL_STATEMENTS = "42601"

_USED_OUTSIDE = (
    "ctx.db was used outside of the step that it was given to: read all rows before the step"
    " returns (a list, not a generator), and keep neither the connection nor its cursors"
)


def _refusal(what: str, why: str = WHY_NOT) -> ConnectionMisuse:
    return ConnectionMisuse(f"ctx.db: {what} inside a step: {why}")


class Cursor(psycopg.Cursor[Any]):
    """The cursor that user code gets: it looks at statements, explains refusals, notes trouble."""

    connection: Connection

    # Two of psycopg's own: all that it executes comes by the first, and the second would send what
    # has no parameters in the protocol that takes several statements in one text.
    def _convert_query(self, query: Any, params: Any = None) -> Any:
        converted = super()._convert_query(query, params)
        self.connection._check(bytes(converted.query).decode("utf-8", "replace"))
        return converted

    def _execute_send(self, query: Any, *, force_extended: bool = False, **kwargs: Any) -> None:
        super()._execute_send(query, force_extended=True, **kwargs)

    def execute(self, query: Any, *args: Any, **kwargs: Any) -> Self:
        """As in psycopg; raises `ConnectionMisuse` for what would harm the transaction."""
        with self.connection._noting():
            return super().execute(query, *args, **kwargs)

    def executemany(self, query: Any, *args: Any, **kwargs: Any) -> None:
        """As in psycopg; raises `ConnectionMisuse` for what would harm the transaction."""
        with self.connection._noting():
            super().executemany(query, *args, **kwargs)

    def stream(self, *_args: Any, **_kwargs: Any) -> NoReturn:
        """Refused: no verb of the context could be used meanwhile."""
        raise _refusal("stream()", "read with execute(), in pages where there are many rows")


class _Noting:
    """Tells a connection of the errors in its block."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, psycopg.Error):
            self._connection._explain(error)


class Connection(psycopg.Connection[Any]):
    """A connection in autocommit mode, whose transactions are the engine's.

    Attributes:
        text: the address, for messages.
        statements: what the engine executes with.
    """

    text = "the database"
    statements: Pipeline
    _mode = ""  # of the user code that runs: "mutation" or "query"
    _thread = 0
    _trouble: StoreError | None = None
    _failure: psycopg.Error | None = None
    _lost: str | None = None
    _is_certain = True
    _has_settings = False

    def begin(self) -> None:
        """Have a transaction begun with what is executed next."""
        self._trouble = self._failure = self._lost = None
        self.statements.clear()
        self.statements.queue(BEGIN)

    @property
    def in_transaction(self) -> bool:
        """Whether one is open, and can be gone on with."""
        return self.info.transaction_status == TransactionStatus.INTRANS

    @property
    def trouble(self) -> StoreError | None:
        """What befell the store in this transaction, also if user code made nothing of it."""
        return self._trouble

    def end_session(self) -> None:
        """Close it, whatever runs."""
        with suppress(psycopg.Error):
            super().close()

    # --- user code

    def run_user_code(self, fn: Callable[[], T], *, read_only: bool) -> T:
        """Run `fn` behind the fence, under a savepoint inside the open transaction; see
        `base.Transaction.run_user_code`.

        Raises:
            StoreError: the database was in trouble meanwhile, whatever `fn` made of it.
            TransactionLost: the transaction is gone, or cannot be committed.
            UserRaisedStoreError: `fn` raised a `StoreError` of its own making.
        """
        if self._mode:
            raise _refusal("run_user_code()")
        self.statements.queue(f"SAVEPOINT {SAVEPOINT_NAME}")
        if self.statements.prepares:
            # The engine's own plans are made without scans of whole tables; the user's need not be.
            self.statements.queue("SET LOCAL enable_seqscan = on")
        if read_only:
            self.statements.queue("SET LOCAL transaction_read_only = on")
        self._run()
        kept = self.row_factory, self.cursor_factory, self.prepare_threshold
        self._is_certain, self._has_settings, self._failure = True, False, None
        self._mode, self._thread = "query" if read_only else "mutation", threading.get_ident()
        try:
            result = fn()
        except BaseException as error:
            self._restore(kept)
            self._undo(error)
            if isinstance(error, StoreError):
                raise UserRaisedStoreError(error) from error
            raise
        self._restore(kept)
        if read_only:
            self._undo(None)
        else:
            self._keep()
        return result

    def _run(self) -> None:
        try:
            self.statements.run()
        except psycopg.Error as error:
            trouble = translate_own(error, self.text)
            if trouble is not None:
                raise trouble from error
            raise

    def _restore(self, kept: tuple[Any, Any, int | None]) -> None:
        self._mode = ""
        self.row_factory, self.cursor_factory, self.prepare_threshold = kept

    def run_engine_code(self, fn: Callable[[], T]) -> T:
        """Run engine code that user code called (a verb of `ctx`), with the fence lifted.

        Store trouble in `fn` is kept, so that the user code around it cannot swallow it.
        """
        mode, self._mode = self._mode, ""
        marks = self._is_certain, self._has_settings, self._failure
        try:
            return fn()
        except (psycopg.Error, StoreError) as error:
            trouble = error if isinstance(error, StoreError) else translate(error, self.text)
            self._trouble = self._trouble or trouble
            raise
        finally:
            self._mode = mode
            self._is_certain, self._has_settings, self._failure = marks

    def _keep(self) -> None:
        """Keep what user code did since the savepoint, if that can be done."""
        self._check_alive(self._failure)
        if not self.in_transaction:
            self._refuse_swallowed()
        self.statements.queue(f"RELEASE SAVEPOINT {SAVEPOINT_NAME}")
        self._settle()

    def _undo(self, cause: BaseException | None) -> None:
        """Undo what user code did since the savepoint, if that can be done."""
        self._check_alive(cause)
        if isinstance(cause, psycopg.Error) and cause.sqlstate in _AGAIN:
            raise translate(cause, self.text) or StoreBusy(self.text) from cause
        self.statements.queue(f"ROLLBACK TO SAVEPOINT {SAVEPOINT_NAME}")
        self.statements.queue(f"RELEASE SAVEPOINT {SAVEPOINT_NAME}")
        self._settle()

    def _check_alive(self, cause: BaseException | None) -> None:
        """Raise if the transaction is gone, or the store was in trouble."""
        for error in (cause, self._failure):
            if error is not None and is_lost_transaction(error):
                raise TransactionLost(self._lost) from error
        if self._trouble is not None:
            raise self._trouble from cause
        if self.closed:
            raise StoreError(f"{self.text}: the connection is gone; it is tried again") from cause
        # Idle: it has ended. Active: a COPY was left half done.
        if self.info.transaction_status in (TransactionStatus.IDLE, TransactionStatus.ACTIVE):
            raise TransactionLost(self._lost) from cause

    def _refuse_swallowed(self) -> NoReturn:
        """The function has swallowed an error after which PostgreSQL keeps nothing."""
        failure = self._failure
        if failure is not None and failure.sqlstate in _AGAIN:
            raise translate(failure, self.text) or StoreBusy(self.text) from failure
        self._undo(None)
        raise ConnectionMisuse(
            f"ctx.db: the function went on after an error ({failure}), but PostgreSQL keeps nothing"
            " of a transaction after one: put what may fail into `with ctx.db.transaction():`"
        ) from failure

    def _settle(self) -> None:
        if self._has_settings:
            # Back to those of the session. A role is none of `ALL`.
            self.statements.queue("RESET ALL")
            self.statements.queue("RESET ROLE")
        elif self.statements.prepares:
            self.statements.queue("SET LOCAL enable_seqscan = off")
        if self._is_certain:
            return  # it is sent with what comes next
        try:
            self._run()
        except psycopg.Error as error:
            raise TransactionLost(self._lost) from error

    # --- for our cursors

    def _noting(self) -> _Noting:
        return _Noting(self)

    def _check(self, statement: str) -> None:
        """Raise if user code may not run this statement now."""
        if not self._mode:
            raise ConnectionMisuse(_USED_OUTSIDE)
        if threading.get_ident() != self._thread:
            raise _refusal("use in another thread", "the engine uses the connection meanwhile")
        if self.info.transaction_status == TransactionStatus.IDLE:
            raise ConnectionMisuse(f"ctx.db: {TransactionLost(self._lost)}")
        why = fence.objection(statement)
        if why is not None:
            raise ConnectionMisuse(f"ctx.db: {why}")
        self._lost = statement
        self._is_certain = self._is_certain and fence.is_harmless(statement)
        self._has_settings = self._has_settings or fence.sets_something(statement)

    def _explain(self, error: psycopg.Error) -> None:
        """Note what `error` means for the transaction; raise a clearer one for a refusal."""
        self._failure = error
        if self._trouble is None and not is_lost_transaction(error):
            trouble = translate(error, self.text)
            if trouble is not None and error.sqlstate not in (*_AGAIN, _READ_ONLY_ERROR, "42501"):
                self._trouble = trouble
        if error.sqlstate == _READ_ONLY_ERROR and self._mode == "query":
            raise ConnectionMisuse(f"ctx.db: {READ_ONLY}") from error
        if error.sqlstate == _SEVERAL_STATEMENTS and "multiple commands" in str(error):
            raise ConnectionMisuse(
                "ctx.db: several statements in one text: call execute() for each"
            ) from error

    # --- what user code sees

    def cursor(self, *args: Any, **kwargs: Any) -> Any:
        """A cursor for user code; without a name: its rows are read at once."""
        if not self._mode:
            raise ConnectionMisuse(_USED_OUTSIDE)
        if args or "name" in kwargs:
            raise _refusal("cursor(name=…)", "it would outlive the step: read in pages, with LIMIT")
        if not issubclass(self.cursor_factory, Cursor):
            raise _refusal("another cursor_factory", "the engine's own looks after the transaction")
        return super().cursor(**kwargs)

    def transaction(self, *args: Any, **kwargs: Any) -> Any:
        """As in psycopg: inside a step it is a savepoint, undone if its block raises."""
        if not self._mode:
            raise ConnectionMisuse(_USED_OUTSIDE)
        if not self.in_transaction:
            raise ConnectionMisuse(f"ctx.db: {TransactionLost(self._lost)}")
        return super().transaction(*args, **kwargs)

    def commit(self) -> NoReturn:
        """Refused: the transaction is the engine's."""
        raise _refusal("commit()")

    def rollback(self) -> NoReturn:
        """Refused: the transaction is the engine's."""
        raise _refusal("rollback()", f"{WHY_NOT}; raise an exception to undo the step")

    def close(self) -> None:
        """Close it; refused inside a step."""
        if self._mode:
            raise _refusal("close()", "the connection is the engine's")
        super().close()

    def __enter__(self) -> NoReturn:
        raise _refusal("`with ctx.db:`", f"{WHY_NOT}; for a part use `with ctx.db.transaction():`")


def _engine_only(name: str, why: str) -> Callable[..., NoReturn]:
    def method(_self: Connection, *_args: Any, **_kwargs: Any) -> NoReturn:
        raise _refusal(f"{name}()", why)

    method.__name__ = name
    method.__doc__ = "Refused: the connection is the engine's."
    return method


_SETTER = "it would change the engine's connection"
for _name, _why in {
    "set_autocommit": _SETTER,
    "set_isolation_level": _SETTER,
    "set_read_only": _SETTER,
    "set_deferrable": _SETTER,
    "pipeline": "the engine needs each statement's outcome at once",
    "tpc_begin": WHY_NOT,
    "tpc_prepare": WHY_NOT,
    "tpc_commit": WHY_NOT,
    "tpc_rollback": WHY_NOT,
}.items():
    setattr(Connection, _name, _engine_only(_name, _why))
