"""Liveness by operating-system locks: who holds its lock file lives.

The lock goes with the process, within a millisecond after SIGKILL, and stays while the process is
stopped. So death is a fact here, not a guess by a clock.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]
    import msvcrt

from perdure.errors import StoreError


def _try_lock(fd: int) -> bool:
    try:
        if fcntl is not None:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined, unused-ignore]
    except OSError:
        return False
    return True


def _close_all(held: dict[str, int]) -> None:
    """In a forked child: a lock is shared with its copy, which would outlive the worker."""
    for fd in held.values():
        with contextlib.suppress(OSError):
            os.close(fd)
    held.clear()


class LockFiles:
    """A folder with one lock file for each living worker."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: dict[str, int] = {}
        if hasattr(os, "register_at_fork"):
            held = self._held  # not `self`: the hook stays for the life of the process
            os.register_at_fork(after_in_child=lambda: _close_all(held))

    def hold(self, worker_id: str) -> None:
        """Take the lock of a worker of this process, for as long as the process lives.

        Raises:
            StoreError: the folder cannot be written to.
        """
        path = self._folder / worker_id
        try:
            self._folder.mkdir(exist_ok=True)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise StoreError(
                f"{path}: {error.strerror}; the folder holds the workers' locks: make it writable"
            ) from error
        if not _try_lock(fd):
            os.close(fd)
            raise StoreError(f"{path}: locked by another process")
        self._held[worker_id] = fd

    def release(self, worker_id: str) -> None:
        """Give up a lock and remove its file."""
        fd = self._held.pop(worker_id, None)
        if fd is None:
            return
        with contextlib.suppress(OSError):
            (self._folder / worker_id).unlink()
        os.close(fd)

    def is_dead(self, worker_id: str) -> bool:
        """Whether the worker's process is gone: its file is free to lock, or was removed."""
        if worker_id in self._held:
            return False
        path = self._folder / worker_id
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return True
        except OSError:
            return False  # in doubt it lives
        try:
            if not _try_lock(fd):
                return False
            with contextlib.suppress(OSError):
                path.unlink()
            return True
        finally:
            os.close(fd)

    def close(self) -> None:
        """Give up all locks."""
        for worker_id in list(self._held):
            self.release(worker_id)
