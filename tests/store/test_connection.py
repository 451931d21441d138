"""The fence around user code on the engine's SQLite connection, and the facts it rests on."""

from __future__ import annotations

import contextlib
import functools
import gc
import pathlib
import sqlite3
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from tests.store.fenced import add, amid_others, connect, items, mutate, neighbours, query, refused

from perdure import errors
from perdure.store import connection as guarded
from perdure.store.base import TransactionLost, UserRaisedStoreError
from perdure.store.connection import Connection, Cursor


@pytest.fixture
def db(tmp_path: pathlib.Path) -> Iterator[Connection]:
    with amid_others(tmp_path) as connection:
        yield connection


def test_writes_of_a_step_are_committed_with_the_engines(db: Connection) -> None:
    """A mutation's result is handed back; queries see its writes, which share the commit."""

    def step() -> str:
        add(db, "a")
        return "done"

    assert mutate(db, step) == "done"
    assert query(db, lambda: db.execute("SELECT name FROM item").fetchall()) == [("a",)]
    assert mutate(db, lambda: (db.in_transaction, db.total_changes)) == (True, 2)
    db.commit()
    assert (items(db), neighbours(db)) == (["a"], 1)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_a_failed_step_leaves_nothing(db: Connection, error: type[BaseException]) -> None:
    """Whatever user code raises is passed on as the same object; only its own writes are undone."""
    raised = error("no")

    def step() -> None:
        add(db, "a")
        db.execute("CREATE TABLE made (a)")
        raise raised

    with pytest.raises(error) as caught:
        mutate(db, step)
    assert caught.value is raised
    assert (items(db), neighbours(db), db.in_transaction) == ([], 1, True)
    assert not db.engine_execute("PRAGMA table_info(made)").fetchall()


def test_an_ordinary_sql_error_is_the_users(db: Connection) -> None:
    """A constraint or syntax error comes through as sqlite3 raises it and can be handled."""

    def step() -> None:
        db.execute("INSERT INTO item VALUES (1, 'a')")
        with pytest.raises(sqlite3.IntegrityError):
            db.execute("INSERT INTO item VALUES (1, 'b')")
        db.execute("SELEC 1")

    with pytest.raises(sqlite3.OperationalError, match="near"):
        mutate(db, step)
    assert db.in_transaction


def test_users_may_have_savepoints_of_their_own(db: Connection) -> None:
    """SAVEPOINT, ROLLBACK TO and RELEASE work under any other name; one left open is released."""

    def step() -> None:
        add(db, "a")
        db.execute("SAVEPOINT mine")
        add(db, "b")
        db.execute("ROLLBACK TO mine")
        db.execute("RELEASE mine")
        db.execute("SAVEPOINT forgotten")

    mutate(db, step)
    db.commit()
    assert items(db) == ["a"]


def test_transaction_methods_name_themselves_and_the_reason(db: Connection) -> None:
    """commit, rollback, `with ctx.db:` and executescript say why they are refused."""

    def with_block() -> None:
        with db:
            add(db, "a")

    calls = {"commit()": db.commit, "rollback()": db.rollback, "with ctx.db": with_block}
    for named, call in calls.items():
        error = refused(functools.partial(mutate, db, call), "together with the step")
        assert named in str(error)
    # sqlite3's `__exit__` commits without calling `commit`: the authorizer refuses its COMMIT.
    with pytest.raises(sqlite3.DatabaseError, match="not authorized"):
        mutate(db, lambda: db.__exit__(None, None, None))
    refused(lambda: mutate(db, lambda: db.executescript("SELECT 1")), "commits first")
    refused(lambda: mutate(db, lambda: db.cursor().executescript("")), "commits first")
    assert (neighbours(db), db.in_transaction) == (1, True)


REFUSED = "close backup deserialize interrupt set_authorizer set_trace_callback setlimit"


@pytest.mark.parametrize("name", [*REFUSED.split(), "set_progress_handler"])
def test_methods_that_change_the_connection_are_refused(db: Connection, name: str) -> None:
    """What would stay on the connection after the step is the engine's to call."""
    refused(lambda: mutate(db, getattr(db, name)), name)
    assert neighbours(db) == 1


def test_the_transaction_mode_cannot_be_set(db: Connection) -> None:
    """Setting isolation_level to None commits at once, past `commit`; so it is refused."""
    plain = sqlite3.connect(":memory:")
    plain.execute("CREATE TABLE t (a)")
    plain.execute("INSERT INTO t VALUES (1)")
    plain.isolation_level = None
    assert not plain.in_transaction
    plain.close()

    for name in ("isolation_level", *(["autocommit"] if sys.version_info >= (3, 12) else [])):
        setting = functools.partial(setattr, db, name, None)
        refused(functools.partial(mutate, db, setting), name)
    assert (db.isolation_level, db.in_transaction) == ("", True)
    with pytest.raises(ValueError, match="legacy"):
        sqlite3.connect(":memory:", factory=Connection, isolation_level=None)
    if sys.version_info >= (3, 12):
        with pytest.raises(ValueError, match="legacy"):
            sqlite3.connect(":memory:", factory=Connection, autocommit=False)


def test_a_cached_statement_passes_an_authorizer() -> None:
    """The fact behind marking: sqlite3 asks the authorizer only when a statement is prepared."""
    plain = sqlite3.connect(":memory:", isolation_level=None)
    refusing = False
    plain.set_authorizer(lambda action, *_: int(refusing and action == sqlite3.SQLITE_TRANSACTION))
    for sql in ("BEGIN", "COMMIT", "BEGIN"):
        plain.execute(sql)
    refusing = True
    with pytest.raises(sqlite3.DatabaseError, match="not authorized"):
        plain.execute("COMMIT ")
    plain.execute("COMMIT")
    assert not plain.in_transaction
    plain.close()


def test_factories_are_put_back(db: Connection) -> None:
    """A user's row_factory and text_factory hold for the step alone, also when it fails."""

    def step() -> Any:
        db.row_factory, db.text_factory = sqlite3.Row, bytes
        return db.execute("SELECT 'x' AS name").fetchone()["name"]

    assert mutate(db, step) == b"x"
    assert (db.row_factory, db.text_factory) == (None, str)
    with pytest.raises(ZeroDivisionError):
        mutate(db, lambda: (step(), 1 / 0))
    assert db.engine_execute("SELECT 'x'").fetchone() == ("x",)


def test_a_dump_reads_all(db: Connection) -> None:
    """`iterdump` only reads; the engine's tables are in it as well."""
    dump = query(db, lambda: "\n".join(db.iterdump()))
    assert "neighbour" in dump
    assert mutate(db, lambda: list(db.iterdump()))
    assert (neighbours(db), db.in_transaction) == (1, True)


def test_engine_code_inside_a_step_is_outside_of_the_fence(db: Connection) -> None:
    """A verb of `ctx` sees plain rows whatever factories the user set."""

    def verb() -> Any:
        db.engine_execute("INSERT INTO other VALUES ('by verb')")
        return db.engine_execute("SELECT 'x'").fetchone()

    def step() -> Any:
        db.row_factory, db.text_factory = sqlite3.Row, bytes
        got = db.run_engine_code(verb)
        refused(lambda: db.execute("COMMIT"), "COMMIT")
        return got, db.execute("SELECT 'x' AS a").fetchone()["a"]

    assert mutate(db, step) == (("x",), b"x")
    assert neighbours(db) == 2


def test_user_code_nests_within_engine_code(db: Connection) -> None:
    """An inner step (`on_complete` of a cancelled child) is undone alone; the outer one goes on."""

    def inner() -> None:
        add(db, "inner")
        raise ValueError("inner")

    def verb() -> None:
        with pytest.raises(ValueError, match="inner"):
            mutate(db, inner)

    def outer() -> Any:
        cursor = db.execute("SELECT 1 UNION ALL SELECT 2")
        add(db, "outer")
        db.run_engine_code(verb)
        return cursor.fetchall()

    assert mutate(db, outer) == [(1,), (2,)]
    assert items(db) == ["outer"]
    refused(lambda: mutate(db, lambda: mutate(db, inner)), "run_user_code")


def test_a_kept_connection_is_refused(db: Connection) -> None:
    """Outside of a step ``ctx.db`` runs nothing: a write would open a transaction of its own."""
    db.commit()
    sql = "INSERT INTO item (name) VALUES (?)"
    refused(lambda: db.execute(sql, ("late",)), "outside of the step")
    refused(lambda: db.executemany(sql, [("late",)]), "outside of the step")
    refused(db.cursor, "outside of the step")
    refused(lambda: db.blobopen("item", "name", 1), "outside of the step")
    assert not db.in_transaction


def test_kept_cursors_and_generators_are_refused(db: Connection) -> None:
    """A cursor that outlives its step is closed; one of a foreign class is not made at all."""

    def step() -> tuple[Any, Any]:
        cursor = db.execute("SELECT 1 UNION ALL SELECT 2")
        return cursor, (row for row in db.execute("SELECT 1"))

    refused(lambda: mutate(db, lambda: db.cursor(sqlite3.Cursor)), "factory")
    cursor, rows = mutate(db, step)
    assert type(cursor) is Cursor
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        cursor.fetchone()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        next(rows)
    refused(lambda: cursor.execute("SELECT 1"), "outside of the step")
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        mutate(db, lambda: cursor.execute("SELECT 1"))


@pytest.mark.parametrize("fails", [False, True])
def test_a_half_done_write_does_not_block_the_commit(db: Connection, fails: bool) -> None:
    """INSERT … RETURNING that is not read to its end blocks RELEASE and COMMIT: it is closed."""
    kept: list[Any] = []

    def step() -> None:
        cursor = db.execute("INSERT INTO item (name) VALUES ('a'), ('b') RETURNING id")
        kept.append((cursor, cursor.fetchone()))
        with pytest.raises(sqlite3.OperationalError, match="statements in progress"):
            db.execute("SAVEPOINT s") and db.execute("RELEASE s")
        if fails:
            raise ValueError("no")

    with pytest.raises(ValueError, match="no") if fails else contextlib.nullcontext():
        mutate(db, step)
    db.commit()
    assert (items(db), kept[0][1]) == ([] if fails else ["a", "b"], (1,))


def test_a_half_done_write_out_of_sight_is_a_lost_transaction(db: Connection) -> None:
    """A bare sqlite3.Cursor gets around the fence; that it blocks the commit is seen at once."""
    kept: list[sqlite3.Cursor] = []

    def step() -> None:
        kept.append(sqlite3.Cursor(db))
        sql = "INSERT INTO item (name) VALUES ('a'), ('b') RETURNING id"
        kept[0].execute(sql).fetchone()

    with pytest.raises(TransactionLost):
        mutate(db, step)
    with pytest.raises(sqlite3.OperationalError, match="in progress") as caught:
        db.commit()
    assert guarded.is_commit_poisoned(caught.value)
    db.rollback()
    assert items(db) == []


def test_blobs_are_closed_with_the_step(db: Connection) -> None:
    """An open blob would hold a statement open; in a query it must be read-only."""

    def step() -> sqlite3.Blob:
        db.execute("INSERT INTO item VALUES (1, 'abc')")
        blob = db.blobopen("item", "name", 1)
        blob.write(b"x")
        return blob

    blob = mutate(db, step)
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        blob.read()
    refused(lambda: query(db, lambda: db.blobopen("item", "name", 1)), "readonly=True")
    got = query(db, lambda: db.blobopen("item", "name", 1, readonly=True).read())
    assert got == b"xbc"


LOSING = ["INSERT OR ROLLBACK INTO item VALUES (1, 'a')", "INSERT INTO other VALUES ('trigger')"]


@pytest.mark.parametrize("sql", LOSING)
@pytest.mark.parametrize("swallowed", [(), (sqlite3.IntegrityError,)])
def test_a_lost_transaction_is_seen(db: Connection, sql: str, swallowed: Any) -> None:
    """OR ROLLBACK and RAISE(ROLLBACK) end transaction and savepoint; the statement is named."""
    db.engine_execute(
        "CREATE TRIGGER losing BEFORE INSERT ON other BEGIN SELECT RAISE(ROLLBACK, 'no'); END"
    )

    def step() -> None:
        db.execute("INSERT INTO item VALUES (1, 'a')")
        with contextlib.suppress(*swallowed):
            db.execute(sql)

    with pytest.raises(TransactionLost) as caught:
        mutate(db, step)
    assert caught.value.statement == sql
    assert sql in str(caught.value)
    with pytest.raises(TransactionLost):
        db.commit()
    db.rollback()
    db.begin()
    assert (items(db), neighbours(db)) == ([], 0)


ALONE = (
    "INSERT INTO item (name) VALUES ('alone') | CREATE TABLE alone (a) | SAVEPOINT s | SELECT 1"
    " | WITH x AS (SELECT 'alone') INSERT INTO item (name) SELECT * FROM x"
)


@pytest.mark.parametrize("sql", ALONE.split(" | "))
def test_nothing_runs_after_the_transaction_vanished(db: Connection, sql: str) -> None:
    """In legacy mode DDL and WITH … INSERT would be committed at once, alone; so all is refused."""

    def step() -> None:
        db.execute("INSERT INTO item VALUES (1, 'a')")
        with pytest.raises(sqlite3.IntegrityError):
            db.execute("INSERT OR ROLLBACK INTO item VALUES (1, 'a')")
        refused(lambda: db.execute(sql), "OR ROLLBACK")

    with pytest.raises(TransactionLost):
        mutate(db, step)
    tables = db.engine_execute("SELECT name FROM sqlite_master WHERE name = 'alone'")
    assert (items(db), tables.fetchall(), db.in_transaction) == ([], [], False)


def test_a_deferred_foreign_key_poisons_the_commit(db: Connection) -> None:
    """RELEASE does not check it; COMMIT fails with the transaction open, and can be told apart.

    The violation of a failed step is taken back with its write.
    """
    with pytest.raises(ZeroDivisionError):
        mutate(db, lambda: (db.execute("INSERT INTO child VALUES (7)"), 1 / 0))
    db.commit()
    db.begin()
    mutate(db, lambda: db.execute("INSERT INTO child VALUES (7)"))
    with pytest.raises(sqlite3.IntegrityError, match="FOREIGN KEY") as caught:
        db.commit()
    assert guarded.is_commit_poisoned(caught.value)
    assert db.in_transaction
    db.rollback()
    assert not guarded.is_commit_poisoned(errors.StoreFull("full"))


FILL = "INSERT INTO item (name) VALUES (zeroblob(1000000))"
# This one runs under a statement journal: SQLITE_FULL then leaves the transaction open.
FILL_MANY = "INSERT INTO item (name) SELECT zeroblob(1000000) UNION ALL SELECT 1"


@pytest.mark.parametrize(("sql", "open_after"), [(FILL, False), (FILL_MANY, True)])
@pytest.mark.parametrize("reaction", ["raise", "swallow", "replace"])
def test_a_full_disk_is_never_a_failed_step(
    db: Connection, sql: str, open_after: bool, reaction: str
) -> None:
    """Whatever user code makes of SQLITE_FULL, and whether the transaction survived it or not."""
    db.engine_execute("PRAGMA max_page_count = 20")

    def step() -> None:
        try:
            db.execute(sql)
        except sqlite3.OperationalError as error:
            if reaction != "swallow":
                raise (ValueError("payment failed") if reaction == "replace" else error) from None

    with pytest.raises(errors.StoreFull, match=r"store\.db.*SQLITE_FULL"):
        mutate(db, step)
    assert db.in_transaction is open_after
    with pytest.raises(errors.StoreFull):
        db.commit()
    db.rollback()
    db.begin()
    mutate(db, lambda: add(db, "small"))
    db.commit()
    assert items(db) == ["small"]


def test_trouble_in_engine_code_inside_a_step_cannot_be_swallowed(db: Connection) -> None:
    """A verb of `ctx` that met a full disk makes the whole call a store error."""
    db.engine_execute("PRAGMA max_page_count = 20")

    def step() -> None:
        with contextlib.suppress(sqlite3.OperationalError):
            db.run_engine_code(lambda: db.engine_execute(FILL_MANY))

    with pytest.raises(errors.StoreFull):
        mutate(db, step)


@pytest.mark.parametrize(
    "read", [list, Cursor.fetchall, lambda c: c.fetchmany(99), lambda c: [*iter(c.fetchone, 0)]]
)
def test_trouble_while_fetching_is_noted(tmp_path: pathlib.Path, read: Any) -> None:
    """A damaged page met by a fetch, not by execute, and swallowed there, is still the store's."""
    path = tmp_path / "damaged.db"
    plain = sqlite3.connect(path)
    plain.execute("CREATE TABLE t (a)")
    plain.executemany("INSERT INTO t VALUES (?)", [("x" * 3000,)] * 20)
    plain.commit()
    plain.close()
    path.write_bytes(path.read_bytes()[: -3 * 4096] + b"\xff" * (3 * 4096))
    db = connect(path)
    db.begin()

    def step() -> None:
        cursor = db.execute("SELECT a FROM t")
        with pytest.raises(sqlite3.DatabaseError, match="malformed"):
            read(cursor)

    with pytest.raises(errors.StoreCorrupt, match="backup"):
        query(db, step)
    db.rollback()
    db.close()


def test_trouble_that_a_step_makes_for_itself_is_the_users(
    db: Connection, tmp_path: pathlib.Path
) -> None:
    """Another database's error, and a DROP under an open SELECT: retrying would never help."""
    (tmp_path / "text.db").write_bytes(b"no database at all" * 100)
    foreign = sqlite3.connect(tmp_path / "text.db")
    with pytest.raises(sqlite3.DatabaseError, match="not a database"):
        mutate(db, lambda: foreign.execute("SELECT * FROM t"))
    foreign.close()

    def step() -> None:
        cursor = db.execute("SELECT 1 FROM other UNION ALL SELECT 2 FROM other")
        cursor.fetchone()
        db.execute("DROP TABLE other")

    with pytest.raises(sqlite3.OperationalError, match="locked") as caught:
        mutate(db, step)
    assert caught.value.sqlite_errorcode == sqlite3.SQLITE_LOCKED
    assert neighbours(db) == 1


@pytest.mark.parametrize("cls", [errors.StoreError, errors.StoreBusy, errors.StoreFull])
def test_a_store_error_that_a_step_raises_is_the_users(
    db: Connection, cls: type[errors.StoreError]
) -> None:
    """Nothing was wrong with this store: the step is undone and fails, nobody tries it again."""
    raised = cls("the other store: locked")

    def step() -> None:
        add(db, "a")
        raise raised

    with pytest.raises(UserRaisedStoreError) as caught:
        mutate(db, step)
    assert caught.value.__cause__ is raised
    assert str(caught.value) == f"{cls.__name__}: the other store: locked"
    assert (items(db), neighbours(db), db.in_transaction) == ([], 1, True)
    # If the store is in trouble as well, then that is what counts.
    db.engine_execute("PRAGMA max_page_count = 20")

    def full() -> None:
        with contextlib.suppress(sqlite3.OperationalError):
            db.execute(FILL_MANY)
        raise raised

    with pytest.raises(errors.StoreFull, match="SQLITE_FULL"):
        mutate(db, full)


def test_begin_is_busy_while_another_writes(db: Connection, tmp_path: pathlib.Path) -> None:
    """The message names the database and what to do; afterwards there is no transaction."""
    other = connect(tmp_path / "store.db")
    with pytest.raises(errors.StoreBusy, match=r"store\.db.*busy_timeout"):
        other.begin()
    assert not other.in_transaction
    other.close()


CODES: dict[type[Any], str] = {
    errors.StoreBusy: "BUSY BUSY_SNAPSHOT LOCKED_SHAREDCACHE",
    errors.StoreFull: "FULL",
    errors.StoreReadOnly: "READONLY READONLY_DIRECTORY",
    errors.StoreCorrupt: "CORRUPT",
    errors.StoreNotADatabase: "NOTADB",
    errors.StoreError: "IOERR IOERR_FSYNC NOMEM CANTOPEN",
    type(None): "LOCKED CORRUPT_VTAB ERROR CONSTRAINT_UNIQUE AUTH",
}


@pytest.mark.parametrize("expected", CODES)
def test_translate_by_code(expected: type[Any]) -> None:
    """Each SQLite code, extended or not, has its one store error, or is the SQL's fault."""
    for name in CODES[expected].split():
        error = sqlite3.OperationalError("text")
        error.sqlite_errorcode = getattr(sqlite3, f"SQLITE_{name}")
        error.sqlite_errorname = name
        found = guarded.translate(error, "/data/store.db")
        assert type(found) is expected
        assert found is None or f"/data/store.db: text ({name}): " in str(found)
    # Lack of memory arrives as MemoryError; what carries no code is not the store's.
    assert type(guarded.translate(MemoryError())) is errors.StoreError
    assert guarded.translate(sqlite3.ProgrammingError("closed")) is None


def test_no_statement_of_the_engines_leaves_anything_in_memory(db: Connection) -> None:
    """A connection keeps a weak reference to each cursor: those of dead cursors go again."""
    for _ in range(2_000):
        db.engine_execute("SELECT 1").fetchone()
    kept = [len(each) for each in gc.get_referents(db) if isinstance(each, list)]
    assert kept and max(kept) < 1_000
