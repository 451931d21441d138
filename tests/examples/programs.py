"""Run the programs of examples/ as their users do: in a folder of their own, and killed.

Not here: what each of them must have done.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep  # noqa: TID251 - real processes need real time

ROOT = Path(__file__).resolve().parent.parent.parent
EXAMPLES = ROOT / "examples"

#: A program that has not ended by then hangs, in seconds.
SECONDS_MAX = 60


def environment(**more: str) -> dict[str, str]:
    """So that a program finds perdure, and the other examples."""
    paths = [str(ROOT / "engine"), str(ROOT / "sim"), str(EXAMPLES)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **more}


def run(folder: Path, *arguments: str) -> str:
    """Run a Python program to its end; what it printed.

    Args:
        arguments: of the interpreter: a file of examples/, or `-m` and a module, and so on.
    """
    done = subprocess.run(
        _command(arguments),
        cwd=folder,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
        check=False,
    )
    assert done.returncode == 0, f"{arguments}\n{done.stdout}{done.stderr}"
    return done.stdout


def kill_when(folder: Path, condition: Callable[[], bool], *arguments: str) -> None:
    """Run a program until the condition is true, and kill it with SIGKILL."""
    with running(folder, *arguments) as process:
        wait_until(condition, process)
        process.kill()
        assert process.wait() == -signal.SIGKILL


@contextmanager
def running(folder: Path, *arguments: str, **more: str) -> Iterator[subprocess.Popen[bytes]]:
    """A program in the background, with `more` in its environment; it is killed at the end."""
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            _command(arguments),
            cwd=folder,
            env=environment(**more),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    """Look until the condition is true; fail if the process ends before, or it takes too long."""
    end = monotonic() + SECONDS_MAX
    while not condition():
        assert process.poll() is None, "the program ended too early"
        assert monotonic() < end, "it took too long"
        sleep(0.005)


def lines_of(path: Path) -> list[str]:
    """The lines of a file; none if there is no file."""
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def free_port() -> int:
    """A port of this machine that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _command(arguments: Sequence[str]) -> list[str]:
    first, *rest = arguments
    program = str(EXAMPLES / first) if first.endswith(".py") else first
    return [sys.executable, "-W", "error", program, *rest]
