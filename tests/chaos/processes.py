"""Worker processes of the ledger, and the file of their effects, as a test sees them.

Not here: what to do to them, and when (kill.py and the tests).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import monotonic, sleep  # noqa: TID251 - real processes need real time
from types import TracebackType
from typing import Any, Self

import attrs
from tests.chaos.databases import Database

ROOT = Path(__file__).resolve().parent.parent.parent

#: A process that has not ended by then hangs, in seconds.
SECONDS_MAX = 120


@attrs.frozen
class Effect:
    """One line that an action appended."""

    workflow: str
    number: int
    attempt: int
    key: str
    function: str
    phase: str
    pid: int
    at: float


class Effects:
    """The file of effects."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0
        self._count = 0

    def count(self) -> int:
        """How many lines there are; reads only what is new."""
        with self.path.open("rb") as file:
            file.seek(self._offset)
            new = file.read()
        self._offset += len(new)
        self._count += new.count(b"\n")
        return self._count

    def read(self) -> list[Effect]:
        """All effects, in the order in which they happened."""
        text = self.path.read_text(encoding="utf-8")
        return [Effect(**json.loads(line)) for line in text.splitlines()]


class Worker:
    """A worker process; as a context manager it is killed at the end if it still runs."""

    def __init__(self, database: Database, effects: Path, *options: str) -> None:
        python_path = [str(ROOT / "engine"), str(ROOT)]
        self.log = database.folder / "workers.log"
        with self.log.open("ab") as log:
            self._process: subprocess.Popen[bytes] = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "tests.chaos.ledger",
                    database.address,
                    str(effects),
                    *options,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(python_path)},
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        """SIGKILL, also when it is stopped; when this returns the process is gone."""
        self._process.kill()
        self._process.wait()

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self) -> int:
        """The exit code of a worker that ends by itself."""
        return self._process.wait(timeout=SECONDS_MAX)

    def told(self) -> str:
        """The end of what all workers of this database have logged."""
        return self.log.read_text(encoding="utf-8", errors="replace")[-4_000:]


def wait_until(condition: Callable[[], Any], seconds: float = 30) -> bool:
    """Look every millisecond, for so many seconds; whether the condition has come true."""
    end = monotonic() + seconds
    while not condition():
        if monotonic() > end:
            return False
        sleep(0.001)
    return True


def pause(seconds: float) -> None:
    """Let the processes run on."""
    sleep(seconds)
