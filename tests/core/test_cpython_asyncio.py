"""CPython's own tests of asyncio pass on the handlers' loop, as docs/asyncio.md says.

They run in a process of their own: they replace the event loops of the whole process.
"""

from __future__ import annotations

import importlib.util
import json
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "asyncio.md"

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("test.test_asyncio") is None,
    reason="this Python was installed without its test package (test.test_asyncio)",
)


def run(*options: str) -> Any:
    """What the command finds."""
    command = [sys.executable, "tests/core/cpython_asyncio.py", "--json", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def published() -> dict[str, dict[str, list[int]]]:
    """The table of the page: passed, failed, not applicable, by version and module."""
    rows = re.findall(r"^\| (.+) \|$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    cells = [row.split(" | ") for row in rows]
    head = next(row for row in cells if row[0] == "module")
    table: dict[str, dict[str, list[int]]] = {version: {} for version in head[1:]}
    for row in cells:
        if row[0].startswith("`test_"):
            for version, cell in zip(head[1:], row[1:], strict=True):
                table[version][row[0].strip("`")] = [int(number) for number in cell.split(" / ")]
    return table


def test_cpythons_own_tests_pass() -> None:
    """None fails; and where this very version is in the page's table, the numbers are those."""
    found = run()
    assert found["failures"] == {}
    numbers = published().get(platform.python_version())
    if numbers is not None:
        assert found["counts"] == numbers


def test_what_is_left_out_one_by_one_would_fail() -> None:
    """A test on the list of those that are not applicable fails: one that passes leaves it."""
    found = run("--listed")
    passed = {module: row[0] for module, row in found["counts"].items() if row[0]}
    assert found["failures"] != {}
    assert passed == {}


def test_the_page_has_numbers_for_each_python_that_is_supported() -> None:
    """One version each of 3.11, 3.12 and 3.13, without a failed test."""
    table = published()
    assert [version.rsplit(".", 1)[0] for version in table] == ["3.11", "3.12", "3.13"]
    assert {row[1] for rows in table.values() for row in rows.values()} == {0}
