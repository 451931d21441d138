"""The demo for real: processes, kills, the proof and its exit code."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

pytestmark = pytest.mark.chaos

#: The demo gives up by itself long before.
SECONDS_MAX = 120
ENGINE = Path(__file__).resolve().parents[2] / "engine"


def _start(tmp_path: Path, *options: str) -> subprocess.Popen[str]:
    folder = tmp_path / "temporary"
    folder.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "perdure", "demo", "--day", "0.2", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ENGINE), "TMPDIR": str(folder)},
    )


def _left_behind(tmp_path: Path) -> list[str]:
    return os.listdir(tmp_path / "temporary")


def _lines_until(process: subprocess.Popen[str], text: str) -> Iterator[str]:
    assert process.stdout is not None
    for line in process.stdout:
        yield line
        if text in line:
            return
    raise AssertionError(f"the demo ended before it said {text!r}")


def test_it_proves_that_kills_cost_nothing(tmp_path: Path) -> None:
    """With two kills each e-mail is written once and each workflow ends; nothing is left behind."""
    process = _start(tmp_path, "--users", "3", "--kills", "2", "--json")
    out, _ = process.communicate(timeout=SECONDS_MAX)
    assert process.returncode == 0, out
    result = json.loads(out)
    assert result["faults"] == []
    assert result["kills"] == 2
    assert result["proof"]["ended"] == 3
    assert result["proof"]["emails_written"] == result["proof"]["emails_expected"] == 9
    assert result["counts"]["keys"] == 3
    assert _left_behind(tmp_path) == []


def test_without_kills_each_call_takes_three_attempts(tmp_path: Path) -> None:
    """Undisturbed, the service is asked three times for each user, always with the same key."""
    process = _start(tmp_path, "--users", "2", "--kills", "0", "--store", "kept.db")
    out, _ = process.communicate(timeout=SECONDS_MAX)
    assert process.returncode == 0, out
    assert re.search(r"requests at the HTTP service\W+6\b", out)
    assert re.search(r"idempotency keys\W+2\b", out)
    assert "each of the 6 e-mails was written exactly once" in out
    assert re.search(r"look up ×3 .*━", out), "a timeline of one of them"
    assert "\x1b" not in out  # no cursor control into a pipe
    with closing(sqlite3.connect(tmp_path / "kept.db")) as db:
        assert db.execute("select count(*) from emails").fetchone() == (6,)


def test_an_email_too_many_makes_it_fail(tmp_path: Path) -> None:
    """A second e-mail, written by other hands, is found: exit code 1, and the folder is kept."""
    store = tmp_path / "doctored.db"
    process = _start(tmp_path, "--users", "1", "--kills", "0", "--store", str(store))
    with process:
        list(_lines_until(process, "sends the approvals"))
        with closing(sqlite3.connect(store, timeout=30)) as db, db:
            db.execute("insert into emails (user, kind) values ('Ada', 'welcome')")
        out, _ = process.communicate(timeout=SECONDS_MAX)
    assert process.returncode == 1
    assert "e-mail welcome to Ada: written 2 times, not 1" in out
    assert len(_left_behind(tmp_path)) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_and_all_its_processes(tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C, or SIGTERM, in the middle: exit code 128 + signal, no process and no file is left."""
    process = _start(tmp_path, "--users", "2", "--kills", "0")
    with process:
        lines = list(_lines_until(process, "welcome"))
        process.send_signal(number)
        out, _ = process.communicate(timeout=SECONDS_MAX)
    assert process.returncode == 128 + number, out
    pids = [int(pid) for pid in re.findall(r"pid (\d+)", "".join(lines))]
    assert len(pids) == 2  # the service and a worker
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    assert _left_behind(tmp_path) == []
