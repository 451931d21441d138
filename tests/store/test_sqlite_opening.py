"""Opening an SQLite store: what is refused, with which words, and that it waits for its turn."""

from __future__ import annotations

import json
import sqlite3
import tempfile
from pathlib import Path

import pytest
from tests.store.test_sqlite import opened, put, run_python, workflow

from perdure.errors import (
    StoreBusy,
    StoreError,
    StoreNotADatabase,
    StoreUnsupported,
    StoreVersionError,
)
from perdure.store.sqlite import (
    BUSY_TIMEOUT,
    OPEN_TRIES,
    SqliteStore,
    _file_system,
    _refuse_network,
)
from perdure.store.sqlite_schema import SCHEMA_VERSION


def refused(path: Path, cls: type[StoreError], match: str) -> None:
    """Opening fails with an error that names the file and says why."""
    with pytest.raises(cls, match=match) as caught:
        opened(path)
    assert type(caught.value) is cls
    assert str(caught.value).startswith(f"{path}: ")


# --- files that cannot be used --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "match"),
    [
        (99, rf"version 99, newer than {SCHEMA_VERSION}, .*upgrade perdure"),
        (0, "version 0, which this perdure .* does not know: restore a backup"),
    ],
)
def test_another_schema_is_refused(version: int, match: str, tmp_path: Path) -> None:
    """A file of another version is named with the remedy, and not one byte of it changes."""
    path = tmp_path / "app.db"
    opened(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE perdure_config SET schema_version = ?", (version,))
    connection.close()
    before = path.read_bytes()
    refused(path, StoreVersionError, match)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["app.db"]


def test_a_file_that_is_something_else_is_left_alone(tmp_path: Path) -> None:
    """A text file is not turned into a database, nor damaged."""
    path = tmp_path / "notes.txt"
    text = b"Dear diary, this is no database at all. " * 100
    path.write_bytes(text)
    refused(path, StoreNotADatabase, "give the path of an SQLite file, or of none yet")
    assert path.read_bytes() == text
    assert [each.name for each in tmp_path.iterdir()] == ["notes.txt"]


FOREIGN = (
    "CREATE TABLE perdure_steps (a)",
    "CREATE TABLE Perdure_config (a)",
    "CREATE TABLE perdure_config (schema_version_of_somebody TEXT)",
    "CREATE TABLE t (a); CREATE INDEX perdure_workflows_wake ON t (a)",
)


@pytest.mark.parametrize("sql", FOREIGN)
def test_tables_that_are_named_like_ours_are_left_alone(sql: str, tmp_path: Path) -> None:
    """The error names what is in the way and the remedy; not one byte of the file changes."""
    path = tmp_path / "app.db"
    with sqlite3.connect(path) as connection:
        connection.executescript(sql)
    connection.close()
    before = path.read_bytes()
    refused(path, StoreError, r"named perdure_\w+, but not perdure's tables: rename")
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["app.db"]


def test_names_that_only_resemble_ours_are_no_matter(tmp_path: Path) -> None:
    """The underscore is one: perdured is the application's."""
    path = tmp_path / "app.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE perdured (a)")
    connection.close()
    opened(path).close()


def test_an_empty_file_becomes_a_database(tmp_path: Path) -> None:
    """A file that somebody has only touched will do."""
    path = tmp_path / "app.db"
    path.touch()
    store = opened(path)
    put(store, workflow("a"))
    store.close()
    assert path.read_bytes().startswith(b"SQLite format 3\0")


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    """The folder is the user's to make: a typing error must not make folders."""
    path = tmp_path / "missing" / "app.db"
    refused(path, StoreError, f"the folder '{path.parent}' does not exist: make it")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_no_store(tmp_path: Path) -> None:
    """A folder in place of a file is said to be one."""
    refused(tmp_path, StoreError, "a folder; give the path of a file")


AS_A_STRANGER = """
import json, os, sys
from perdure.store.sqlite import SqliteStore

kept, made = sys.argv[1:]
SqliteStore(":memory:").open(max_parallelism=None)  # everything is imported by now
if os.geteuid() == 0:
    os.setuid(65534)  # to root every file is writable
found = []
for path in (kept, made):
    try:
        SqliteStore(path).open(max_parallelism=None)
    except Exception as error:
        found.append([type(error).__name__, str(error)])
print(json.dumps(found))
"""


def test_a_file_without_permission_is_named() -> None:
    """A file that may not be written to, and a folder that may not, each say what to change."""
    # Not `tmp_path`: strangers cannot reach it.
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        kept, made = folder / "app.db", folder / "new.db"
        opened(kept).close()
        before = kept.read_bytes()
        kept.chmod(0o444)
        folder.chmod(0o555)
        try:
            found = json.loads(run_python(AS_A_STRANGER, str(kept), str(made)))
        finally:
            folder.chmod(0o755)
        assert [kind for kind, _ in found] == ["StoreReadOnly", "StoreReadOnly"]
        assert found[0][1].startswith(f"{kept}: ")
        assert "make the file and its folder writable" in found[0][1]
        assert found[1][1].startswith(f"{made}: ")
        assert f"the folder {str(folder)!r} cannot be written to: make it" in found[1][1]
        assert kept.read_bytes() == before
        assert not made.exists()


# --- network file systems -------------------------------------------------------------------------

MOUNTS = """\
/dev/sda1 / ext4 rw 0 0
server:/export /mnt/share nfs4 rw 0 0
/dev/sdb1 /mnt/share/local ext4 rw 0 0
//nas/my\\040files /mnt/my\\040files cifs rw 0 0
/dev/sdc1 /data ext4 rw 0 0
user@host: /data fuse.sshfs rw 0 0
none /odd
"""


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/", "ext4"),
        ("/srv/app", "ext4"),
        ("/mnt/share", "nfs4"),
        ("/mnt/share/deep/er", "nfs4"),
        ("/mnt/shared", "ext4"),
        ("/mnt/share/local/x", "ext4"),
        ("/mnt/my files/app", "cifs"),
        ("/data", "fuse.sshfs"),
    ],
)
def test_the_file_system_of_a_folder_is_found(folder: str, kind: str) -> None:
    """The nearest mount point counts, of several at one point the last; blanks are no matter."""
    assert _file_system(Path(folder), MOUNTS) == kind


def test_a_network_file_system_is_refused() -> None:
    """There WAL loses data: the error says so and what to do; unknown systems are let pass."""
    with pytest.raises(StoreUnsupported, match=r"^/mnt/share/app\.db: .*\(nfs4\).*a local disk"):
        _refuse_network("/mnt/share/app.db", MOUNTS)
    _refuse_network("/mnt/share/local/app.db", MOUNTS)
    _refuse_network("/mnt/share/app.db", "")


# --- files that somebody else holds


class Blocked:
    """A file that another connection holds; waiting for it lets it go after some tries."""

    def __init__(self, path: Path, begin: str, tries: int) -> None:
        self.connection = sqlite3.connect(path, isolation_level=None)
        self.connection.execute(begin)
        self.tries_left = tries
        self.waits: list[float] = []

    def pause(self, seconds: float) -> None:
        """What the store does between two tries."""
        self.waits.append(seconds)
        self.tries_left -= 1
        if self.tries_left == 0:
            self.connection.close()


@pytest.mark.parametrize("begin", ["BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"])
@pytest.mark.parametrize("is_new", [True, False])
def test_opening_waits_for_a_busy_file(begin: str, is_new: bool, tmp_path: Path) -> None:
    """Whoever opens a file that is being created, or written to, tries again until it is free."""
    path = tmp_path / "app.db"
    if not is_new:
        opened(path).close()
    blocked = Blocked(path, begin, tries=5)
    store = SqliteStore(str(path), busy_timeout=0, pause=blocked.pause)
    store.open(max_parallelism=None, works=True)
    assert len(blocked.waits) == 5
    put(store, workflow("a"))
    store.close()


def test_opening_gives_up_on_a_busy_file(tmp_path: Path) -> None:
    """After about 30 seconds it is `StoreBusy`, with nothing written or left open."""
    path = tmp_path / "app.db"
    blocked = Blocked(path, "BEGIN EXCLUSIVE", tries=OPEN_TRIES)
    store = SqliteStore(str(path), busy_timeout=0, pause=blocked.pause)
    with pytest.raises(StoreBusy, match=r"app\.db: .*end the other's transaction"):
        store.open(max_parallelism=None)
    assert len(blocked.waits) == OPEN_TRIES - 1
    assert 25 < OPEN_TRIES * BUSY_TIMEOUT + sum(blocked.waits) < 35
    blocked.connection.close()
    assert path.read_bytes() == b""
