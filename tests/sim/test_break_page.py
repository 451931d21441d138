"""The tutorial's report is what its first program gives.

In the page the part that is wrong is a block of `py`, which tests/test_docs.py does not run: there
the mended part stands in its place, and the test passes.

Run as a program, this writes the page anew: `make report`.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

import attrs
from tests.examples.programs import environment
from tests.test_docs import Block, read_blocks, write_program

PAGE = Path(__file__).parents[2] / "docs" / "break-your-workflow.md"


#: Where the address of an object stands in the page: any will do.
ADDRESS = re.compile(r"0x[0-9a-f]+")


def test_the_report_is_the_one_that_the_page_shows(tmp_path: Path) -> None:
    """To the letter, but for the address of an object."""
    shown, report = report_of(PAGE.read_text("utf-8"), tmp_path)
    assert ADDRESS.sub("0x…", shown) == ADDRESS.sub("0x…", report)


def test_the_page_can_be_written_anew() -> None:
    """With the report that it has, it is the same page."""
    page = PAGE.read_text("utf-8")
    shown = _blocks(page)[1]
    assert written(page, shown, shown) == page
    assert "```text\nanother\n```" in written(page, shown, "another\n")


def report_of(page: str, folder: Path) -> tuple[str, str]:
    """The report that the page shows, and that which its first program gives now."""
    first, shown = _blocks(page)
    assert write_program(first, folder) == ["shop.py", "test_shop.py"]
    options = ["-q", "-p", "no:cacheprovider", *_plugin()]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "test_shop.py"],
        cwd=folder,
        env=environment(COLUMNS="100"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stdout
    begin = done.stdout.index("AssertionError: An assertion of the test does not hold.")
    end = done.stdout.index("\n", done.stdout.index("    @example(", begin)) + 1
    return shown, done.stdout[begin:end]


def written(page: str, shown: str, report: str) -> str:
    """The page with another report, but with the address that it has."""
    assert page.count(shown) == 1
    for address in ADDRESS.findall(shown)[:1]:
        report = ADDRESS.sub(address, report)
    return page.replace(shown, report)


def _blocks(page: str) -> tuple[list[Block], str]:
    """The first program, all of it run, and the report."""
    blocks = list(read_blocks(page))
    shown = next(number for number, block in enumerate(blocks) if block.language == "text")
    first = [attrs.evolve(each, language="python") for each in blocks[:shown] if each.options]
    return first, blocks[shown].text


def _plugin() -> list[str]:
    """Named where perdure is not installed, but only found."""
    from importlib.metadata import entry_points

    names = {each.name for each in entry_points(group="pytest11")}
    return [] if "perdure" in names else ["-p", "perdure_sim.plugin"]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        text = PAGE.read_text("utf-8")
        PAGE.write_text(written(text, *report_of(text, Path(folder))), "utf-8")
