"""``perdure migrate``: what it tells, and its exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.migrated import go_on, make_file


def test_the_command_moves(tmp_path: Path, postgres_url: str) -> None:
    """It tells what has moved and what has not, for people or for programs."""

    path = tmp_path / "app.db"
    make_file(path)

    def perdure(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "perdure", "migrate", *arguments],
            capture_output=True,
            text=True,
            check=False,
        )

    done = perdure(str(path), postgres_url, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["workflows"], told["other_tables"]) == (5, ["notes"])
    again = perdure(str(path), postgres_url)
    assert again.stdout == f"the workflows of {path} had moved already\n"
    late = perdure(str(path), postgres_url, "--abandon")
    assert (late.returncode, "StoreMoved" in late.stderr) == (1, True)
    wrong = perdure(str(path), "elsewhere.db")
    assert wrong.returncode == 2
    assert "target='elsewhere.db'" in wrong.stderr
    go_on(postgres_url)
