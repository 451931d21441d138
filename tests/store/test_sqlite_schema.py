"""The tables in SQLite: an upgrade that a crash cuts off. (What all stores do: test_versions.)"""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from tests.store.places import Place, newer
from tests.store.test_sqlite import SOURCE_ROOT

from perdure.store.versions import Schema

KILLED_AT = """
import os, signal, sqlite3, sys
from pathlib import Path
from perdure.store.sqlite_schema import upgrade_tables
from perdure.store.versions import Schema

path, folder, version, last = sys.argv[1:]
connection = sqlite3.connect(path, isolation_level=None)

def execute(sql):
    if sql.startswith(last):
        os.kill(os.getpid(), signal.SIGKILL)
    return connection.execute(sql)

execute("BEGIN IMMEDIATE")
upgrade_tables(execute, Schema("sqlite", int(version), Path(folder)))
execute("COMMIT")
"""


def killed_at(statement: str, path: Path, schema: Schema) -> None:
    """Upgrade the file in a process that is killed before this statement."""
    arguments = [str(path), str(schema.folder), str(schema.version), statement]
    ran = subprocess.run(
        [sys.executable, "-c", KILLED_AT, *arguments],
        env={**os.environ, "PYTHONPATH": str(SOURCE_ROOT)},
        check=False,
        timeout=60,
    )
    assert ran.returncode == -signal.SIGKILL


def test_a_crash_on_the_way_leaves_the_older_tables(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whoever comes next finds them whole, with all rows, and goes the way again."""
    place = Place("sqlite", str(tmp_path / "app.db"))
    older = place.store()
    older.open(max_parallelism=7)
    older.close()
    before = place.tables()
    schema = newer(
        place,
        tmp_path_factory.mktemp("schema"),
        "ALTER TABLE perdure_config ADD COLUMN more INTEGER",
        "CREATE TABLE perdure_more (x INTEGER)",
    )
    for statement in ("CREATE TABLE perdure_more", "DELETE FROM perdure_workers", "COMMIT"):
        killed_at(statement, tmp_path / "app.db", schema)
        assert place.tables() == before
    store = place.store(schema=schema)
    store.open(max_parallelism=None)
    assert store.reader().config().max_parallelism == 7
    store.close()
    with sqlite3.connect(tmp_path / "app.db") as connection:
        assert connection.execute("SELECT more FROM perdure_config").fetchall() == [(None,)]
    connection.close()
