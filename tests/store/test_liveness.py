"""Liveness by lock files: who holds its lock lives, who does not is dead, in doubt it lives."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import perdure
from perdure.errors import StoreError
from perdure.store.liveness import LockFiles

SOURCE_ROOT = Path(perdure.__file__).parent.parent

HOLD = """
import sys
from pathlib import Path
from perdure.store.liveness import LockFiles

locks = LockFiles(Path(sys.argv[1]))
locks.hold("other")
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def locks(tmp_path: Path) -> Iterator[LockFiles]:
    """The lock files of this process."""
    locks = LockFiles(tmp_path / "workers")
    yield locks
    locks.close()


def test_a_held_worker_lives(locks: LockFiles, tmp_path: Path) -> None:
    """It lives for its own process and for others; the folder is made when it is needed."""
    others = LockFiles(tmp_path / "workers")
    locks.hold("w")
    assert not locks.is_dead("w")
    assert not others.is_dead("w")
    assert [path.name for path in (tmp_path / "workers").iterdir()] == ["w"]


def test_a_released_worker_is_dead(locks: LockFiles, tmp_path: Path) -> None:
    """Who ends in good order leaves no file behind."""
    locks.hold("w")
    locks.hold("x")
    locks.release("w")
    assert locks.is_dead("w")
    assert not LockFiles(tmp_path / "workers").is_dead("x")
    assert [path.name for path in (tmp_path / "workers").iterdir()] == ["x"]


def test_what_is_not_held_can_be_released(locks: LockFiles) -> None:
    """A second release, or one of an unknown worker, does nothing."""
    locks.hold("w")
    locks.release("x")
    locks.release("w")
    locks.release("w")
    assert locks.is_dead("w")


def test_closing_gives_up_all(locks: LockFiles, tmp_path: Path) -> None:
    """After `close` no worker of this process lives, and new ones can be held."""
    locks.hold("w")
    locks.hold("x")
    locks.close()
    assert locks.is_dead("w")
    assert locks.is_dead("x")
    assert list((tmp_path / "workers").iterdir()) == []
    locks.hold("y")
    assert not locks.is_dead("y")


def test_a_removed_file_is_a_dead_worker(locks: LockFiles, tmp_path: Path) -> None:
    """Without its file a worker cannot be told from one that has signed off."""
    assert locks.is_dead("never seen")
    locks.hold("w")
    (tmp_path / "workers" / "w").unlink()
    assert LockFiles(tmp_path / "workers").is_dead("w")
    assert not locks.is_dead("w"), "its own process knows better"


def test_a_lock_is_held_once(locks: LockFiles, tmp_path: Path) -> None:
    """Two lives with one id, as after a copied state, are an error that names the file."""
    locks.hold("w")
    with pytest.raises(StoreError, match=r"workers/w: locked by another process"):
        LockFiles(tmp_path / "workers").hold("w")


def test_a_folder_that_cannot_be_is_named(tmp_path: Path) -> None:
    """The error says what the folder is for and what to do."""
    (tmp_path / "workers").write_text("a file")
    with pytest.raises(StoreError, match=r"workers/w: .*the workers' locks: make it writable"):
        LockFiles(tmp_path / "workers").hold("w")


def test_in_doubt_a_worker_lives(tmp_path: Path) -> None:
    """A lock that cannot be looked at proves no death: taking over a living worker is worse."""
    folder = tmp_path / "workers"
    (folder / "w").mkdir(parents=True)
    assert not LockFiles(folder).is_dead("w")


def test_a_killed_process_is_dead_at_once(locks: LockFiles, tmp_path: Path) -> None:
    """The system drops the lock with the process; the file of the dead worker is cleared away."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "workers")],
        env={**os.environ, "PYTHONPATH": str(SOURCE_ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        assert not locks.is_dead("other")
        process.kill()
        process.wait()
        assert locks.is_dead("other")
    assert list((tmp_path / "workers").iterdir()) == []
