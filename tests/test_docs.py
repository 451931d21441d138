"""The documentation works: its Python runs, its commands exist, its links lead somewhere.

How pages are read, for those who write them:

* The ```` ```python ```` blocks of a page are one program, in their order, run with
  ``python -W error`` in an empty folder; it must end by itself. Line numbers in a traceback are
  those of the page. If the program holds functions named ``test_…``, pytest runs it as well.
* ```` ```python file=app.py ```` is a file of that name in the folder: it is imported, not run as a
  program, and later blocks of the page may import it too.
* ```` ```python from=examples/script.py ```` shows a part of that file, line by line as it is
  there. It is not run here (the file is run by its own test), unless it has a `file=` as well.
* In ```` ```sh ```` blocks each line is a command, in ```` ```console ```` blocks those after a
  dollar sign. They are not run, but must exist: targets of make, commands of perdure, extras,
  files.
* A page that reads ``DATABASE_URL`` from the environment gets a PostgreSQL database of its own.
* What is not to be run (signatures, output) is a ```` ```text ```` block.
* A link leads to a file of the tree, and to a heading in it if it names one. Every page can be
  reached from README.md.
"""

from __future__ import annotations

import functools
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

import attrs
import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
#: Pages whose Python is run: the others tell, they do not teach.
TAUGHT = [page for page in PAGES if page.name == "README.md" or page.parent != ROOT]

#: A page that has not ended by then waits for something that will not come.
PAGE_SECONDS_MAX = 120

#: Not what is there for other tests: pytest-asyncio warns where it is not set up.
PLUGINS = ("-p", "no:cacheprovider", "-p", "no:asyncio", "-p", "no:randomly")

SHELL_LANGUAGES = ("sh", "bash", "shell", "console")
#: Programs that are known without a look, because every machine of a developer has them.
COMMON_PROGRAMS = frozenset(
    ["cat", "cd", "cp", "curl", "df", "du", "echo", "kill", "ls", "mkdir", "mv", "rm", "sqlite3"]
)
#: Our own programs, and what python calls them.
PROGRAMS = {"perdure": "perdure", "perdure-sim": "perdure_sim"}
#: Programs of others: the page that names one is about those who have it.
FOREIGN_PROGRAMS = frozenset(["gunicorn", "journalctl", "systemctl", "uvicorn"])
#: Options of `perdure` before its command that take a value.
PERDURE_OPTIONS = ("--app", "--store")

FENCE = re.compile(r"^(?P<indent> *)(?P<fence>`{3,}|~{3,})(?P<info>[^`]*)$")
LINK = re.compile(r"\]\((?!https?:|mailto:)(?P<path>[^)#\s]*)(?:#(?P<anchor>[^)\s]*))?\)")
HEADING = re.compile(r"^#{1,6} +(?P<text>.+?)(?: +#+)?$", re.MULTILINE)


@attrs.frozen
class Block:
    """A fenced block: the words after its fence, its text, and the line where the text begins."""

    language: str
    options: dict[str, str]
    text: str
    line: int


def read_blocks(text: str) -> Iterator[Block]:
    """The fenced code blocks of a page of Markdown."""
    lines = text.splitlines()
    number = 0
    while number < len(lines):
        opening = FENCE.match(lines[number])
        number += 1
        if opening is None:
            continue
        start = number
        while number < len(lines) and lines[number].strip() != opening["fence"]:
            number += 1
        indent = len(opening["indent"])
        body = "".join(f"{line[indent:]}\n" for line in lines[start:number])
        language, *words = opening["info"].split() or [""]
        yield Block(language, dict(word.split("=", 1) for word in words), body, start + 1)
        number += 1


def _at_its_line(blocks: Iterable[Block]) -> str:
    """The blocks as one file, each at the line that it has in its page."""
    text = ""
    for block in blocks:
        text += "\n" * (block.line - 1 - text.count("\n")) + block.text
    return text


def write_program(blocks: Iterable[Block], folder: Path) -> list[str]:
    """Write the Python of a page into `folder`; give the modules to import and run, in order."""
    files: dict[str, list[Block]] = {}
    for block in blocks:
        if block.language == "python" and ("from" not in block.options or "file" in block.options):
            files.setdefault(block.options.get("file", "page.py"), []).append(block)
    for name, parts in files.items():
        (folder / name).write_text(_at_its_line(parts), encoding="utf-8")
    return list(files)


def _run(arguments: list[str], folder: Path, database: str = "") -> None:
    python_path = os.pathsep.join([str(ROOT / "engine"), str(ROOT / "sim")])
    done = subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": python_path, "DATABASE_URL": database},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PAGE_SECONDS_MAX,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(arguments)}\n{done.stdout}{done.stderr}"


def commands_of(block: Block) -> Iterator[list[str]]:
    """The commands of a shell block, each as its words; comments and output are left out."""
    text = block.text.replace("\\\n", " ")
    for line in text.splitlines():
        stripped = line.strip()
        if block.language == "console":
            if not stripped.startswith("$ "):
                continue
            stripped = stripped.removeprefix("$ ")
        for part in re.split(r"\s(?:&&|\|\||\||;|&)(?:\s|$)", stripped):
            words = shlex.split(part, comments=True)
            while words and re.fullmatch(r"\w+=.*", words[0]):
                words.pop(0)  # a variable for this command only
            if words:
                yield words


@functools.cache
def _make_targets() -> frozenset[str]:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    return frozenset(re.findall(r"^([a-z][a-z-]*):", text, re.MULTILINE))


@functools.cache
def _extras() -> frozenset[str]:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    return frozenset(tomllib.loads(text)["project"]["optional-dependencies"])


@functools.cache
def _knows(program: str, command: str) -> bool:
    # Asked of the program itself: a list here would be one more thing to forget.
    python_path = os.pathsep.join([str(ROOT / "engine"), str(ROOT / "sim")])
    done = subprocess.run(
        [sys.executable, "-m", PROGRAMS[program], command, "--help"],
        env={**os.environ, "PYTHONPATH": python_path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    return done.returncode == 0


def _own_fault(program: str, words: list[str]) -> str | None:
    rest = iter(words)
    for word in rest:
        if word in PERDURE_OPTIONS:
            next(rest, None)
        elif not word.startswith("-"):
            return None if _knows(program, word) else f"{program} has no command {word!r}"
    return None


def _pip_fault(words: list[str]) -> str | None:
    named = re.findall(r"(?:perdure|\.)\[([\w,-]+)\]", " ".join(words))
    unknown = {extra for names in named for extra in names.split(",")} - _extras()
    return f"no extra {sorted(unknown)}" if unknown else None


def _python_fault(words: list[str]) -> str | None:
    if words[:1] == ["-m"]:
        return command_fault(words[1:]) if len(words) > 1 else "python -m without a module"
    scripts = [word for word in words if word.endswith(".py")]
    missing = [word for word in scripts if "/" in word and not (ROOT / word).exists()]
    return f"no file {missing}" if missing else None


def command_fault(words: list[str]) -> str | None:
    """What is wrong with a command of the docs, or None."""
    program, rest = Path(words[0]).name, words[1:]
    if program == "make":
        unknown = [word for word in rest if "=" not in word and word not in _make_targets()]
        return f"the Makefile has no target {unknown}" if unknown else None
    if program in PROGRAMS:
        return _own_fault(program, rest)
    if program == "pip":
        return _pip_fault(rest)
    if program in ("python", "python3"):
        return _python_fault(rest)
    if program == "pytest":
        paths = [word for word in rest if word.split("/")[0] in ("tests", "property_tests")]
        missing = [path for path in paths if not (ROOT / path.split("::")[0]).exists()]
        return f"no file {missing}" if missing else None
    if program == "git":
        return (
            None if rest[:1] in (["clone"], ["switch"], ["commit"], ["tag"], ["push"]) else rest[0]
        )
    is_known = program in COMMON_PROGRAMS | FOREIGN_PROGRAMS
    return None if is_known else f"unknown program {program!r}"


def prose_of(text: str) -> str:
    """A page without what stands in its fenced blocks."""
    lines = text.splitlines()
    for block in read_blocks(text):
        start, count = block.line - 1, block.text.count("\n")
        lines[start : start + count] = [""] * count
    return "\n".join(lines)


def anchors_of(text: str) -> list[str]:
    """The anchors that forges give to the headings of a page."""
    anchors: list[str] = []
    seen: dict[str, int] = {}
    for heading in HEADING.finditer(prose_of(text)):
        words = re.sub(r"\]\([^)]*\)", "]", heading["text"]).lower()
        anchor = re.sub(r"[^\w\- ]", "", words).strip().replace(" ", "-")
        count = seen[anchor] = seen.get(anchor, -1) + 1
        anchors.append(f"{anchor}-{count}" if count else anchor)
    return anchors


def _targets(page: Path) -> Iterator[tuple[str, Path, str | None]]:
    """The links of a page to files of the tree: as written, as a path, and the anchor."""
    for link in LINK.finditer(prose_of(page.read_text(encoding="utf-8"))):
        target = (page.parent / link["path"]).resolve() if link["path"] else page
        yield link[0], target, link["anchor"]


def _page_id(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def _blocks(page: Path) -> list[Block]:
    return list(read_blocks(page.read_text(encoding="utf-8")))


def test_the_pages_are_found() -> None:
    """README.md is among the pages and teaches some Python: the tests below have work to do."""
    assert ROOT / "README.md" in TAUGHT
    assert "python" in [block.language for block in _blocks(ROOT / "README.md")]


@pytest.mark.parametrize("page", TAUGHT, ids=_page_id)
def test_the_python_of_a_page_runs(
    page: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """The Python blocks of a page, one after the other, are a program that ends without error."""
    blocks = _blocks(page)
    database = ""
    if "DATABASE_URL" in page.read_text(encoding="utf-8"):
        database = request.getfixturevalue("postgres_url")
    for name in write_program(blocks, tmp_path):
        program = (tmp_path / name).read_text(encoding="utf-8")
        run = [name] if name == "page.py" else ["-c", f"import {Path(name).stem}"]
        _run(run, tmp_path, database)
        if re.search(r"^(async )?def test_", program, re.MULTILINE):
            _run(["-m", "pytest", "-q", *PLUGINS, name], tmp_path, database)


@pytest.mark.parametrize("page", PAGES, ids=_page_id)
def test_the_commands_of_a_page_exist(page: Path) -> None:
    """Each command in a shell block is one that the reader can give."""
    faults = [
        f"{_page_id(page)}:{block.line}: {' '.join(words)}: {fault}"
        for block in _blocks(page)
        if block.language in SHELL_LANGUAGES
        for words in commands_of(block)
        if (fault := command_fault(words)) is not None
    ]
    assert faults == [], "\n" + "\n".join(faults)


@pytest.mark.parametrize("page", PAGES, ids=_page_id)
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    """Each link to a file of the tree leads to one that exists, and to a heading that it has."""
    dead = [
        written
        for written, target, anchor in _targets(page)
        if not target.exists()
        or (anchor is not None and anchor not in anchors_of(target.read_text(encoding="utf-8")))
    ]
    assert dead == []


def test_every_page_can_be_reached() -> None:
    """From README.md one comes, link by link, to every page."""
    reached, ahead = set[Path](), [ROOT / "README.md"]
    while ahead:
        page = ahead.pop()
        if page not in reached:
            reached.add(page)
            ahead += [target for _, target, _ in _targets(page) if target in PAGES]
    assert [_page_id(page) for page in PAGES if page not in reached] == []


@pytest.mark.parametrize("page", TAUGHT, ids=_page_id)
def test_what_a_page_shows_of_a_file_is_in_it(page: Path) -> None:
    """A block with `from=` is found in its file, line by line."""
    different = [
        f"{_page_id(page)}:{block.line}: not in {block.options['from']}"
        for block in _blocks(page)
        if "from" in block.options
        and f"\n{block.text}" not in "\n" + (ROOT / block.options["from"]).read_text("utf-8")
    ]
    assert different == []


def test_headings_have_the_anchors_that_forges_give() -> None:
    """Lower case, dashes for blanks, no punctuation, numbered when they repeat; no comments of
    code are taken for headings."""
    page = "# A `b`: c!\n## With [a link](x.md)\n```sh\n# not this\n```\n## A b c\n"
    assert anchors_of(page) == ["a-b-c", "with-a-link", "a-b-c-1"]


def test_blocks_are_read_with_their_lines() -> None:
    """A block has its language, its options, its text without indent, and its line in the page."""
    page = "text\n\n```python file=a.py\nx = 1\n```\n- item\n  ```sh\n  make test\n  ```\n"
    assert list(read_blocks(page)) == [
        Block("python", {"file": "a.py"}, "x = 1\n", 4),
        Block("sh", {}, "make test\n", 8),
    ]


def test_a_page_keeps_its_line_numbers(tmp_path: Path) -> None:
    """The program made of a page has each block at the page's line, and other files apart."""
    page = (
        "# T\n```python\na = 1\n```\n\n```python file=app.py\nb = 2\n```\n```python\nc = 3\n```\n"
    )
    assert write_program(read_blocks(page), tmp_path) == ["page.py", "app.py"]
    assert (tmp_path / "page.py").read_text() == "\n\na = 1\n\n\n\n\n\n\nc = 3\n"
    assert (tmp_path / "app.py").read_text() == "\n" * 6 + "b = 2\n"


def test_commands_are_told_from_comments_and_output() -> None:
    """Only commands are checked: prompts, variables, comments, pipes and output are split off."""
    shell = Block("sh", {}, "# first\nA=1 make test | cat\nmake \\\n  lint && ls  # x\n", 1)
    assert list(commands_of(shell)) == [["make", "test"], ["cat"], ["make", "lint"], ["ls"]]
    console = Block("console", {}, "$ make demo\nmake: output\n", 1)
    assert list(commands_of(console)) == [["make", "demo"]]


@pytest.mark.parametrize(
    "command",
    [
        "make tset",
        "pip install 'perdure[simm]'",
        "python examples/no_such_example.py",
        "pytest tests/no_such_test.py::test_x",
        "perdrue list",
        "perdure-sim swep x:Y",
    ],
)
def test_a_command_that_does_not_exist_is_found(command: str) -> None:
    """A misspelt target, extra, file or program is reported."""
    assert command_fault(shlex.split(command)) is not None


@pytest.mark.parametrize(
    "command",
    [
        "make test",
        "make PYTHON=python3.12 setup",
        "python -m pip install -e '.[dev]'",
        "git clone x",
        "perdure-sim sweep x:Y",
    ],
)
def test_a_command_that_exists_passes(command: str) -> None:
    """The check of commands lets through what is there."""
    assert command_fault(shlex.split(command)) is None
