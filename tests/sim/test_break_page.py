"""The tutorial's report is what its first program gives.

In the page the part that is wrong is a block of `py`, which tests/test_docs.py does not run: there
the mended part stands in its place, and the test passes.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import attrs
from tests.examples.programs import environment
from tests.test_docs import read_blocks, write_program

PAGE = Path(__file__).parents[2] / "docs" / "break-your-workflow.md"


def test_the_report_is_the_one_that_the_page_shows(tmp_path: Path) -> None:
    """To the letter, but for the address of an object."""
    blocks = list(read_blocks(PAGE.read_text("utf-8")))
    shown = next(number for number, block in enumerate(blocks) if block.language == "text")
    first = [attrs.evolve(each, language="python") for each in blocks[:shown] if each.options]
    assert write_program(first, tmp_path) == ["shop.py", "test_shop.py"]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            *_plugin(),
            "test_shop.py",
        ],
        cwd=tmp_path,
        env=environment(COLUMNS="100"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert _plain(blocks[shown].text) in _plain(done.stdout)


def _plugin() -> list[str]:
    """Named where perdure is not installed, but only found."""
    from importlib.metadata import entry_points

    names = {each.name for each in entry_points(group="pytest11")}
    return [] if "perdure" in names else ["-p", "perdure_sim.plugin"]


def _plain(text: str) -> str:
    return re.sub(r"0x[0-9a-f]+", "0x…", text)
