"""The processes that the demo starts: what each does, and a keeper that leaves none behind.

A child ends with the director, however that ended: by itself, by Ctrl-C, or by SIGKILL.
"""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

from perdure.demo import service

#: How often a child looks whether the director still lives.
PARENT_CHECK_SECONDS = 0.5
#: How long a worker may take to end after SIGTERM.
END_SECONDS_MAX = 10.0


def main(words: list[str]) -> int:
    """Be a child of the demo: ``service``, ``worker``, or ``approve WORKFLOW_ID…``."""
    be: Callable[[], None]
    match words:
        case ["service"]:
            be = service.serve
        case ["worker"]:
            be = _work
        case ["approve", *workflow_ids] if workflow_ids:
            be = functools.partial(_approve, workflow_ids)
        case _:
            told = "These are the demo's own processes; start it with: perdure demo"
            print(told, file=sys.stderr)
            return 2
    _end_with_parent()
    try:
        be()
    finally:
        # Python takes its handlers away before it ends, and without one an alarm kills.
        signal.setitimer(signal.ITIMER_REAL, 0)
    return 0


def _end_with_parent() -> None:
    # By a timer, since a SIGKILL of the director tells nobody and the system's own means for it
    # exist on Linux only.
    parent = os.getppid()

    def check(number: int, frame: object) -> None:
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)

    signal.signal(signal.SIGALRM, check)
    signal.setitimer(signal.ITIMER_REAL, PARENT_CHECK_SECONDS, PARENT_CHECK_SECONDS)


def _work() -> None:
    from perdure.demo.app import manager

    manager.run()


def _approve(workflow_ids: list[str]) -> None:
    from perdure.demo.app import approval, manager

    async def send() -> None:
        async with manager.client():
            for workflow_id in workflow_ids:
                await manager.send_event(approval, workflow_id=workflow_id, value="Grace")

    asyncio.run(send())


class Children:
    """Starts processes of the demo and, when its block ends, ends those that are left."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._running:
            process.kill()  # harmless if it has ended
        for process in self._running:
            process.wait()
            if process.stdout is not None:
                process.stdout.close()

    def start(
        self, *words: str, settings: Mapping[str, str], log: str, piped: bool = False
    ) -> subprocess.Popen[str]:
        """Start ``python -m perdure.demo WORD…``.

        Args:
            settings: environment variables beside those of this process.
            log: name of the file, in the folder, that takes what the process says.
            piped: give its stdout to the caller instead.
        """
        with (self._folder / log).open("a") as said:
            process = subprocess.Popen(
                [sys.executable, "-m", "perdure.demo", *words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if piped else said,
                stderr=said,
                text=True,
                env={**os.environ, **settings},
                # Ctrl-C in a terminal goes to a whole group: it is the director's matter alone.
                start_new_session=True,
            )
        self._running.append(process)
        return process

    def log_of(self, log: str) -> str:
        """The end of what a process has said."""
        return (self._folder / log).read_text(encoding="utf-8", errors="replace")[-2000:].strip()


def end_gently(process: subprocess.Popen[str]) -> str | None:
    """SIGTERM, and wait: what went wrong, or None."""
    process.terminate()
    try:
        code = process.wait(END_SECONDS_MAX)
    except subprocess.TimeoutExpired:
        process.kill()
        return f"did not end within {END_SECONDS_MAX:.0f} s after SIGTERM"
    return None if code == 0 else f"ended with code {code} after SIGTERM"
