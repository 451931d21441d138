"""The demo's processes end when they should, and none is left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from perdure.demo.children import Children, end_gently, main

#: So that the processes find the package where it is not installed.
SETTINGS = {"PYTHONPATH": str(Path(__file__).resolve().parents[2] / "engine")}

#: A director that starts the service, tells its port, and waits until it is killed.
DIRECTOR = """
import sys
from pathlib import Path
from perdure.demo.children import Children

with Children(Path(sys.argv[1])) as children:
    service = children.start("service", settings={}, log="service.log", piped=True)
    print(service.stdout.readline(), end="", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("words", [[], ["dance"], ["approve"], ["worker", "twice"]])
def test_unknown_words_are_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever starts the demo's processes by hand is told the command."""
    assert main(words) == 2
    assert "perdure demo" in capsys.readouterr().err


@pytest.mark.chaos
def test_none_is_left_when_the_block_ends(tmp_path: Path) -> None:
    """Leaving the block kills and awaits what still runs."""
    with Children(tmp_path) as children:
        process = children.start("service", settings=SETTINGS, log="log", piped=True)
        assert process.stdout is not None and process.stdout.readline()
    assert process.returncode == -signal.SIGKILL


@pytest.mark.chaos
def test_children_end_with_a_director_that_was_killed(tmp_path: Path) -> None:
    """After SIGKILL of the director its service ends: the connection to it is closed."""
    director = subprocess.Popen(
        [sys.executable, "-c", DIRECTOR, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **SETTINGS},
    )
    with director:
        assert director.stdout is not None
        port = int(director.stdout.readline())
        with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
            director.kill()
            assert connection.recv(1) == b""


@pytest.mark.chaos
def test_what_a_process_says_is_kept(tmp_path: Path) -> None:
    """What a process writes to stdout and stderr can be read when it has ended."""
    with Children(tmp_path) as children:
        process = children.start("dance", settings=SETTINGS, log="log")
        assert process.wait(60) == 2
        assert "perdure demo" in children.log_of("log")


@pytest.mark.chaos
def test_a_process_that_does_not_drain_is_a_fault(tmp_path: Path) -> None:
    """SIGTERM should end a process with code 0; one that dies of the signal is told."""
    with Children(tmp_path) as children:
        process = children.start("service", settings=SETTINGS, log="log", piped=True)
        assert process.stdout is not None and process.stdout.readline()
        assert end_gently(process) == f"ended with code {-signal.SIGTERM} after SIGTERM"
