"""Opening a database that must be there, and one that is only to be read."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.store.test_sqlite import opened, put, run_python, workflow

from perdure.errors import StoreNotADatabase, StoreNotFound
from perdure.store.base import Access, WorkflowFilter
from perdure.store.sqlite import SqliteStore

PATHS = ["app.db", "a b#?%.db"]


def reading(path: Path) -> SqliteStore:
    """A store on the file, opened to be read."""
    store = SqliteStore(str(path), access="read")
    store.open(max_parallelism=None)
    return store


def names_of(store: SqliteStore) -> list[str]:
    """The ids of all workflows that its reader sees."""
    return [state.workflow_id for _, state in store.reader().list_workflows(WorkflowFilter())]


@pytest.mark.parametrize("access", ["write", "read"])
def test_a_missing_file_is_not_made(access: Access, tmp_path: Path) -> None:
    """A mistyped path is told, and nothing lies there afterwards."""
    store = SqliteStore(str(tmp_path / "ap.db"), access=access)
    with pytest.raises(StoreNotFound, match=r"ap\.db: there is no such file: give the path"):
        store.open(max_parallelism=None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("access", ["write", "read"])
def test_a_database_without_our_tables_is_left_alone(access: Access, tmp_path: Path) -> None:
    """An application's own database does not get tables by being looked at."""
    path = tmp_path / "app.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE mine (x)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(StoreNotFound, match="perdure has no tables in it"):
        SqliteStore(str(path), access=access).open(max_parallelism=None)
    assert path.read_bytes() == before


@pytest.mark.parametrize("access", ["write", "read"])
def test_a_file_that_is_no_database_is_told(access: Access, tmp_path: Path) -> None:
    """As an error of ours, whatever was asked of it first."""
    path = tmp_path / "app.db"
    path.write_text("Dear diary")
    with pytest.raises(StoreNotADatabase, match="give the path of an SQLite file"):
        SqliteStore(str(path), access=access).open(max_parallelism=None)
    assert path.read_text() == "Dear diary"


def test_what_must_be_there_can_be_written_to(tmp_path: Path) -> None:
    """With "write" a database that is there serves as with "create"."""
    path = tmp_path / "app.db"
    opened(path).close()
    store = SqliteStore(str(path), access="write")
    store.open(max_parallelism=None)
    put(store, workflow("one"))
    assert names_of(store) == ["one"]
    store.close()


@pytest.mark.parametrize("name", PATHS)
def test_a_worker_goes_on_while_its_database_is_read(name: str, tmp_path: Path) -> None:
    """Whoever only reads sees each commit, and cannot write."""
    path = tmp_path / name
    writer = opened(path)
    put(writer, workflow("one"))
    store = reading(path)
    assert names_of(store) == ["one"]
    put(writer, workflow("two"))
    assert names_of(store) == ["one", "two"]
    with pytest.raises(Exception, match="readonly database"):
        put(store, workflow("three"))
    store.close()
    writer.close()


def test_reading_changes_nothing(tmp_path: Path) -> None:
    """Neither the file nor what workers keep beside it; SQLite's own two files may appear."""
    path = tmp_path / "app.db"
    store = opened(path)
    put(store, workflow("one"))
    store.close()
    before = path.read_bytes()
    store = reading(path)
    assert names_of(store) == ["one"]
    store.close()
    assert path.read_bytes() == before
    assert {each.name for each in tmp_path.iterdir()} <= {"app.db", "app.db-shm", "app.db-wal"}


@pytest.fixture
def locked() -> Iterator[Path]:
    """A folder that nobody but root may write to, with a database in it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = opened(folder / "app.db")
        put(store, workflow("one"))
        yield folder
        store.close()
        folder.chmod(0o700)


#: As somebody who may not write there, opens the file of its argument, and prints the ids in it.
READ = """
import os, sys
import urllib.parse  # Path.as_uri imports it late, from Python 3.13 on
from perdure.store.base import WorkflowFilter
from perdure.store.sqlite import SqliteStore

SqliteStore(":memory:").open(max_parallelism=None)  # everything is imported by now
if os.geteuid() == 0:
    os.seteuid(65534)
store = SqliteStore(sys.argv[1], access="read")
try:
    store.open(max_parallelism=None)
    print([state.workflow_id for _, state in store.reader().list_workflows(WorkflowFilter())])
except Exception as error:
    print(f"{type(error).__name__}: {error}")
"""


def test_a_copy_in_a_folder_that_cannot_be_written_to_is_read(locked: Path) -> None:
    """A backup on a read-only disk can be looked at, where SQLite by itself would refuse."""
    copy = locked / "copy"
    copy.mkdir()
    with sqlite3.connect(locked / "app.db") as source, sqlite3.connect(copy / "app.db") as target:
        source.backup(target)
    source.close()
    target.close()
    for folder in (copy, locked):
        folder.chmod(0o555)
    assert run_python(READ, str(copy / "app.db")) == "['one']\n"
    copy.chmod(0o700)


def test_a_log_that_cannot_be_read_is_not_passed_over(locked: Path) -> None:
    """Commits that only the log has are not silently left out: that they are missing is told."""
    copy = locked / "copy"
    copy.mkdir()
    for name in ("app.db", "app.db-wal"):
        (copy / name).write_bytes((locked / name).read_bytes())
    for folder in (copy, locked):
        folder.chmod(0o555)
    said = run_python(READ, str(copy / "app.db"))
    assert said.startswith("StoreReadOnly: ")
    assert "'app.db-wal' has commits that are not in the file yet" in said
    copy.chmod(0o700)
