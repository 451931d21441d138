"""The page about the command tells what the command prints.

The ``console run=yes`` blocks of docs/cli.md are typed into a shell, in their order, beside the
page's Python files. What differs from day to day (times, ids, lengths of bars) may differ.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.test_docs import ROOT, read_blocks, write_program

#: A command that has not ended by then waits for something that will not come.
SECONDS_MAX = 60

PAGE = ROOT / "docs" / "cli.md"

#: What is not the same each time, and what stands for it.
VARYING = (
    (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "DATE"),
    (r"\b\d\d:\d\d:\d\d\b", "TIME"),
    (r"\b\d+(\.\d)? m?s\b", "SPAN"),
    (r"\b[0-9a-z]{26}\b", "EVENT"),
    (r"worker \d+ ", "worker N "),
    (r"@\d+", "@N"),
    (r"[╌━┄]+", "BAR"),
    (r"(BAR)+", "BAR"),
    (r" +", " "),
)


def alike(line: str) -> str:
    """A line without what varies."""
    for pattern, word in VARYING:
        line = re.sub(pattern, word, line)
    return line.rstrip()


def test_the_page_tells_what_is_printed(tmp_path: Path) -> None:
    """Each command of the page, and under it what it printed, both streams."""
    blocks = list(read_blocks(PAGE.read_text(encoding="utf-8")))
    assert write_program(blocks, tmp_path) == ["shop.py", "changed.py"]
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "perdure").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m perdure "$@"\n')
    (programs / "perdure").chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT / "engine"),
        "PYTHONIOENCODING": "utf-8",
        "PERDURE_APP": "shop:manager",
        "COLUMNS": "110",
    }
    count = 0
    for block in blocks:
        if block.options.get("run") != "yes":
            continue
        told: list[str] = []
        for line in block.text.splitlines():
            if line.startswith("$ "):
                ran = subprocess.run(
                    ["sh", "-c", line.removeprefix("$ ")],
                    cwd=tmp_path,
                    env=environment,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    encoding="utf-8",
                    timeout=SECONDS_MAX,
                    check=False,
                )
                told += [line, *ran.stdout.splitlines()]
                count += 1
        expected = [alike(line) for line in block.text.splitlines()]
        assert [alike(line) for line in told] == expected, f"docs/cli.md:{block.line}"
    assert count > 10, "the page has commands to run"
