"""What the fence lets user code prepare: nothing that harms others or the engine's own tables."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from perdure.errors import ConnectionMisuse
from perdure.store.connection import Connection
from perdure.store.fence import ENGINE, MUTATION, QUERY, Fence, is_reserved, why_reserved

SCHEMA = """
    CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT, perdure_id TEXT);
    CREATE TABLE perdure_inbox (id INTEGER PRIMARY KEY, body BLOB);
    CREATE INDEX perdure_inbox_body ON perdure_inbox (body);
    CREATE VIEW perdure_view AS SELECT id FROM perdure_inbox;
    CREATE TRIGGER perdure_trigger AFTER UPDATE ON perdure_inbox BEGIN SELECT 1; END;
    CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT);
    CREATE TABLE other (workflow TEXT);
    INSERT INTO other VALUES ('neighbour');
    CREATE TABLE log (a);
    CREATE TRIGGER logging AFTER INSERT ON log BEGIN DELETE FROM perdure_inbox; END;
    INSERT INTO perdure_inbox VALUES (1, 'mail');
"""


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Connection]:
    """A connection with an open transaction, to a file with tables of both."""
    with sqlite3.connect(tmp_path / "app.db") as plain:
        plain.executescript(SCHEMA)
    plain.close()
    connection = sqlite3.connect(tmp_path / "app.db", factory=Connection)
    connection.begin()
    yield connection
    connection.rollback()
    connection.close()


def mutate(db: Connection, fn: Callable[[], Any]) -> Any:
    return db.run_user_code(fn, read_only=False)


def query(db: Connection, fn: Callable[[], Any]) -> Any:
    return db.run_user_code(fn, read_only=True)


def refused(fn: Callable[[], Any], match: str) -> None:
    with pytest.raises(ConnectionMisuse, match=match):
        fn()


def schema(db: Connection) -> list[Any]:
    return db.engine_execute("SELECT type, name, sql FROM sqlite_master ORDER BY name").fetchall()


@pytest.mark.parametrize("sql", ["PRAGMA table_info(item)", "PRAGMA foreign_keys"])
@pytest.mark.parametrize("run", [mutate, query])
def test_pragmas_that_only_show_are_allowed(db: Connection, sql: str, run: Any) -> None:
    """Looking at schema and settings harms nobody."""
    assert run(db, lambda: db.execute(sql).fetchall())


HARMFUL = (
    "COMMIT | END | ROLLBACK | BEGIN | BEGIN IMMEDIATE | SAVEPOINT perdure_user_code"
    " | RELEASE perdure_user_code | ROLLBACK TO Perdure_User_Code | ATTACH ':memory:' AS x"
    " | DETACH main | PRAGMA journal_mode = DELETE | PRAGMA synchronous = OFF"
    " | PRAGMA locking_mode = EXCLUSIVE | PRAGMA query_only = ON | PRAGMA foreign_keys = OFF"
    " | PRAGMA defer_foreign_keys = ON | PRAGMA writable_schema = ON | PRAGMA wal_checkpoint"
    " | PRAGMA user_version = 3 | CREATE TEMP TABLE item (a)"
    " | CREATE TEMP VIEW other AS SELECT 1"
    " | CREATE TEMP TRIGGER t AFTER INSERT ON other BEGIN SELECT 1; END"
)


@pytest.mark.parametrize("sql", HARMFUL.split(" | "))
def test_statements_that_would_harm_others_are_refused(db: Connection, sql: str) -> None:
    """Refused with an error of ours, also where the engine ran the very same text before."""
    refused(lambda: mutate(db, lambda: db.execute(sql)), r"ctx\.db")
    assert db.in_transaction
    assert db.engine_execute("SELECT * FROM other").fetchall() == [("neighbour",)]


WRITES = (
    "INSERT INTO item (name) VALUES ('a') | UPDATE item SET name = 'x' WHERE id = 99"
    " | DELETE FROM item | WITH x AS (SELECT 1) INSERT INTO item (id) SELECT * FROM x"
    " | CREATE TABLE made (a) | DROP TABLE item | ALTER TABLE item ADD COLUMN more | ANALYZE"
)


@pytest.mark.parametrize("sql", WRITES.split(" | "))
def test_a_query_cannot_write(db: Connection, sql: str) -> None:
    """Also a statement which a mutation ran before (and left in the cache) is refused."""
    with pytest.raises(ZeroDivisionError):
        mutate(db, lambda: (db.execute(sql), 1 / 0))
    refused(lambda: query(db, lambda: db.execute(sql)), "make it a mutation")
    assert db.engine_execute("SELECT count(*) FROM item").fetchone() == (0,)


MATCH = "SELECT count(*) FROM v WHERE v MATCH 'one'"
RTREE = ("rtree (id, low, high)", "(1, 2, 3)", "SELECT id FROM v")
FTS5, FTS4 = [(f"{module} (body)", "('one two')", MATCH) for module in ("fts5", "fts4")]


@pytest.mark.parametrize(("table", "rows", "select"), [RTREE, FTS5, FTS4])
def test_a_query_may_be_the_first_to_read_a_virtual_table(
    tmp_path: Path, table: str, rows: str, select: str
) -> None:
    """R*Tree prepares its writes when first read, and each module declares itself as a write."""
    path = tmp_path / "virtual.db"
    plain = sqlite3.connect(path)
    plain.execute(f"CREATE VIRTUAL TABLE v USING {table}")
    plain.execute(f"INSERT INTO v VALUES {rows}")
    plain.commit()
    plain.close()
    db = sqlite3.connect(path, factory=Connection)
    db.begin()
    assert query(db, lambda: db.execute(select).fetchall()) == [(1,)]
    refused(lambda: query(db, lambda: db.execute("DELETE FROM v")), "make it a mutation")
    # Named like a part of an R*Tree: found out by what it changed, and undone.
    db.engine_execute("CREATE TABLE my_node (a)")
    refused(
        lambda: query(db, lambda: db.execute("INSERT INTO my_node VALUES (1)")),
        "make it a mutation",
    )
    assert db.engine_execute("SELECT count(*) FROM my_node").fetchone() == (0,)
    db.rollback()
    db.close()


OURS = (
    "INSERT INTO perdure_inbox VALUES (2, 'forged') | UPDATE perdure_inbox SET body = 'forged'"
    " | DELETE FROM perdure_inbox | DELETE FROM Perdure_Inbox WHERE id = 1"
    " | REPLACE INTO PERDURE_INBOX VALUES (1, 'x') | DROP TABLE perdure_inbox"
    " | WITH x AS (SELECT 3) INSERT INTO perdure_inbox (id) SELECT * FROM x"
    " | ALTER TABLE perdure_inbox ADD COLUMN more | ALTER TABLE perdure_inbox RENAME TO mine"
    " | CREATE INDEX mine ON perdure_inbox (id) | CREATE INDEX perdure_mine ON users (name)"
    " | DROP INDEX perdure_inbox_body | DROP TRIGGER perdure_trigger | DROP VIEW perdure_view"
    " | CREATE TRIGGER mine AFTER INSERT ON perdure_inbox BEGIN SELECT 1; END"
    " | CREATE TRIGGER perdure_mine AFTER INSERT ON users BEGIN SELECT 1; END"
    " | CREATE TABLE perdure_mine (a) | CREATE TABLE Perdure_mine AS SELECT 1"
    " | CREATE VIEW perdure_mine AS SELECT 1 | CREATE VIRTUAL TABLE perdure_mine USING fts5 (a)"
    " | INSERT INTO log VALUES (1)"
)


@pytest.mark.parametrize("sql", OURS.split(" | "))
@pytest.mark.parametrize("read_only", [False, True])
def test_the_engines_tables_are_not_written_to(db: Connection, sql: str, read_only: bool) -> None:
    """A write by any way, in any case of letters, names the table and the remedy; nothing changes.

    So does making something that would be taken for the engine's.
    """
    before = schema(db)
    why = r"(?i)ctx\.db: perdure_\w+ .*ctx\.send_event"
    if read_only:  # some of it is refused there already for being a write
        why += "|make it a mutation"
    refused(lambda: db.run_user_code(lambda: db.execute(sql), read_only=read_only), why)
    assert db.in_transaction
    assert schema(db) == before
    assert db.engine_execute("SELECT * FROM perdure_inbox").fetchall() == [(1, "mail")]


ALLOWED = (
    "SELECT body FROM perdure_inbox | SELECT * FROM perdure_view"
    " | CREATE TABLE copy AS SELECT * FROM perdure_inbox"
    " | INSERT INTO users (name) SELECT body FROM perdure_inbox"
    " | UPDATE users SET perdure_id = (SELECT max(id) FROM perdure_inbox)"
    " | CREATE TABLE perdured (a) | CREATE VIEW seen AS SELECT * FROM perdure_inbox"
    " | ALTER TABLE users ADD COLUMN perdure_more | CREATE INDEX by_id ON users (perdure_id)"
)


@pytest.mark.parametrize("sql", ALLOWED.split(" | "))
def test_the_engines_tables_may_be_read(db: Connection, sql: str) -> None:
    """Reading them, and columns of the user's that are named like them, are no matter."""
    mutate(db, lambda: db.execute(sql).fetchall())
    db.commit()


def test_a_blob_of_the_engines_is_read_only(db: Connection) -> None:
    """SQLite asks no authorizer about blobs."""
    write = partial(db.blobopen, "Perdure_inbox", "body", 1)
    refused(lambda: mutate(db, write), r"Perdure_inbox .*ctx\.send_event")
    got = mutate(db, lambda: db.blobopen("perdure_inbox", "body", 1, readonly=True).read())
    assert got == b"mail"


def test_the_engine_writes_from_inside_a_step(db: Connection) -> None:
    """A verb of `ctx` writes to them with the fence lifted."""
    sql = "INSERT INTO perdure_inbox VALUES (2, 'by verb')"
    mutate(db, lambda: db.run_engine_code(lambda: db.engine_execute(sql)))
    assert db.engine_execute("SELECT count(*) FROM perdure_inbox").fetchone() == (2,)


@pytest.mark.parametrize(
    ("name", "reserved"),
    [("perdure_steps", True), ("PERDURE_x", True), ("perdure", False), ("my_perdure_", False)],
)
def test_names_of_the_engines(name: str, reserved: bool) -> None:
    """All that begin with perdure_ are the engine's, and no others."""
    assert is_reserved(name) is reserved
    assert why_reserved(name).startswith(f"{name} is the engine's own")


def test_the_mode_decides() -> None:
    """The same statement is the engine's to run, a mutation's, or nobody's."""
    fence = Fence()
    asked = (sqlite3.SQLITE_INSERT, "users", None, "main", None)
    answers = {}
    for fence.mode in (ENGINE, MUTATION, QUERY):
        answers[fence.mode] = fence.authorize(*asked)
    allowed, denied = sqlite3.SQLITE_OK, sqlite3.SQLITE_DENY
    assert answers == {ENGINE: allowed, MUTATION: allowed, QUERY: denied}
    assert fence.denied == "a query must not write: make it a mutation"
