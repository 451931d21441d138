"""House rules that a machine can check: sizes, docstrings, pairs of source and test, banned words.

Rules that ruff or mypy know are theirs (pyproject.toml); the dependency rule is in test_layers.py.
The numbers are limits, not goals: half of all functions have fewer than ten lines.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from tests.sources import parse

ROOT = Path(__file__).resolve().parent.parent

#: Folders of the project that hold code.
CODE_FOLDERS = ("engine", "sim", "tests", "property_tests", "examples", "benchmarks", "docs")
#: Text beside the code, for the checks of words.
TEXT_FOLDERS = (*CODE_FOLDERS, ".ci")
TEXT_SUFFIXES = (".py", ".pyi", ".md", ".sql", ".toml", ".json", ".html", ".sh", "")

#: Over it a file is most likely two things, each of which deserves a name.
FILE_LINES_MAX = 600
#: Over it a function no longer fits on one screen. Its docstring is not counted.
FUNCTION_LINES_MAX = 70
LINE_COLUMNS_MAX = 100

#: Source root → root of its tests.
MIRRORS = {"engine/perdure": "tests"}

#: Source files without a test file of their own: who covers them, and why that is better.
TESTED_ELSEWHERE = {
    "core/effects.py": "plain values; tests/core/test_workflow.py expects each",
    "core/messages.py": "plain values; tests/core/test_workflow.py sends each",
    "core/outcomes.py": "plain values without behaviour of their own",
    "runtime/attempts.py": "one key; tests/runtime/test_runner.py and harness.py use it",
    "runtime/batch.py": "what a turn works on; tests/runtime/test_worker.py",
    "runtime/scope.py": "what a transaction works on; tests/runtime/test_operations.py",
}

# Written in parts, so that this file passes its own check.
BANNED = {
    re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b"): "do it, or write it into an issue",
    re.compile(r"#\s*type:\s*ignore(?!\[)"): "name the error code: type: ignore[code]",
    re.compile(r"(?<![\w.~-])/(?:home|Users)/\w"): "a path of somebody's machine",
    re.compile(re.escape(f"{ROOT}/")): "a path of this machine",
    # The first releases of Python 3.12 take the other ones for names, and warn.
    re.compile(r"\?(?:[1-9]|\{len)"): "SQL's parameters are plain question marks",
}


def _files(folders: Iterable[str]) -> Iterator[Path]:
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                yield path


def _report(faults: Iterable[str]) -> None:
    listed = list(faults)
    # Joined by hand: pytest would show the first of many and cut the rest.
    assert listed == [], "\n" + "\n".join(listed)


def _relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _parse(path: Path) -> ast.Module:
    return parse(path)


PYTHON_FILES = [path for path in _files(CODE_FOLDERS) if path.suffix == ".py"]
TEXT_FILES = [
    *(path for path in _files(TEXT_FOLDERS) if path.suffix in TEXT_SUFFIXES),
    *(path for path in sorted(ROOT.glob("*")) if path.is_file() and path.name != ".git"),
]

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


def function_lines(node: FunctionNode) -> int:
    """Lines of a function from its `def` to its end, without its docstring."""
    assert node.end_lineno is not None
    count = node.end_lineno - node.lineno + 1
    if ast.get_docstring(node) is not None:
        docstring = node.body[0]
        assert docstring.end_lineno is not None
        count -= docstring.end_lineno - docstring.lineno + 1
    return count


def has_own_code(tree: ast.Module) -> bool:
    """Whether a module does more than re-export: a bare door is covered by test_exports.py."""
    return any(
        not isinstance(node, ast.Import | ast.ImportFrom | ast.Expr | ast.Assign | ast.AnnAssign)
        for node in tree.body
    )


def untested(sources: Iterable[str], tests: Iterable[str], elsewhere: Iterable[str]) -> list[str]:
    """The sources, as relative paths, without a test file at the same place."""
    known = set(tests)
    return [
        source
        for source in sources
        if source not in elsewhere
        and (Path(source).parent / f"test_{Path(source).name.lstrip('_')}").as_posix() not in known
    ]


def banned_words(text: str) -> Iterator[tuple[int, str]]:
    """Line number and reason of each banned word in `text`."""
    for number, line in enumerate(text.splitlines(), start=1):
        for pattern, reason in BANNED.items():
            if pattern.search(line):
                yield number, reason


def _tests_in(path: Path) -> Iterator[FunctionNode]:
    bodies = [_parse(path).body]
    bodies += [node.body for node in bodies[0] if isinstance(node, ast.ClassDef)]
    for body in bodies:
        for node in body:
            if isinstance(node, FunctionNode) and node.name.startswith("test_"):
                yield node


def test_files_are_short() -> None:
    """No Python file has more than 600 lines."""
    sizes = {_relative(path): len(path.read_bytes().splitlines()) for path in PYTHON_FILES}
    _report(f"{name}: {lines} lines" for name, lines in sizes.items() if lines > FILE_LINES_MAX)


def test_functions_are_short() -> None:
    """No function has more than 70 lines, its docstring aside."""
    long = [
        f"{_relative(path)}:{node.lineno} {node.name}: {function_lines(node)} lines"
        for path in PYTHON_FILES
        for node in ast.walk(_parse(path))
        if isinstance(node, FunctionNode) and function_lines(node) > FUNCTION_LINES_MAX
    ]
    _report(long)


#: What a line says to a tool at its end does not count, for ruff as well.
PRAGMA = re.compile(r"\s*# (?:type: ignore|noqa)\S*.*$")


def test_lines_are_short() -> None:
    """No line of Python or SQL has more than 100 columns."""
    long = [
        f"{_relative(path)}:{number}"
        for path in _files(CODE_FOLDERS)
        if path.suffix in (".py", ".sql")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if len(PRAGMA.sub("", line)) > LINE_COLUMNS_MAX
    ]
    _report(long)


def test_modules_have_docstrings() -> None:
    """Each Python file that is not empty begins with what it is for."""
    silent = [
        _relative(path)
        for path in PYTHON_FILES
        if path.read_bytes().strip() and not ast.get_docstring(_parse(path))
    ]
    _report(silent)


def test_tests_have_docstrings() -> None:
    """Each test states the property that it checks."""
    silent = [
        f"{_relative(path)}:{node.lineno} {node.name}"
        for path in PYTHON_FILES
        if path.name.startswith("test_")
        for node in _tests_in(path)
        if not ast.get_docstring(node)
    ]
    _report(silent)


@pytest.mark.parametrize(("source_root", "test_root"), MIRRORS.items())
def test_each_source_file_has_its_test_file(source_root: str, test_root: str) -> None:
    """engine/perdure/core/x.py is tested by tests/core/test_x.py, so nobody has to search."""
    root = ROOT / source_root
    sources = [
        path.relative_to(root).as_posix()
        for path in sorted(root.rglob("*.py"))
        if has_own_code(_parse(path))
    ]
    tests = [path.relative_to(ROOT / test_root).as_posix() for path in _files([test_root])]
    assert sources != []
    _report(untested(sources, tests, TESTED_ELSEWHERE))


def test_the_list_of_exceptions_is_current() -> None:
    """A file on the list exists and has no test file: what has changed leaves the list."""
    stale = [
        source
        for source in TESTED_ELSEWHERE
        if not (ROOT / "engine/perdure" / source).exists()
        or (ROOT / "tests" / source).with_name(f"test_{Path(source).name}").exists()
    ]
    _report(stale)


def test_no_banned_words() -> None:
    """No open ends, unnamed type ignores, paths of a machine or numbered parameters are left."""
    found = [
        f"{_relative(path)}:{number}: {reason}"
        for path in TEXT_FILES
        for number, reason in banned_words(path.read_text(encoding="utf-8"))
    ]
    _report(found)


def test_banned_words_are_found() -> None:
    """The check of words sees what it is meant to see, and nothing in innocent text."""
    text = "\n".join(
        [
            "# TO" + "DO: later",
            "x = f()  # type: " + "ignore",
            "x = f()  # type: " + "ignore[attr-defined]",
            "open('/ho" + "me/ann/app.db')",
            "see https://example.org/home/ and ~/home/ann",
            f"{ROOT}/engine",
            "SELECT min(?" + "1, 2)",
            "SELECT min(?, 2)",
        ]
    )
    assert [number for number, _ in banned_words(text)] == [1, 2, 4, 6, 7]


def test_a_missing_test_file_is_found() -> None:
    """A source without its test file is reported; one with it, or on the list, is not."""
    sources = ["a.py", "core/b.py", "core/c.py", "__main__.py"]
    tests = ["test_a.py", "test_b.py", "test_main__.py"]
    assert untested(sources, tests, {"core/c.py": "a reason"}) == ["core/b.py"]


def test_a_docstring_does_not_count_as_lines() -> None:
    """A function's length is that of its code: explaining more never breaks the limit."""
    node = ast.parse('def f(a,\n      b):\n    """One.\n\n    Two.\n    """\n    return a\n').body[
        0
    ]
    assert isinstance(node, FunctionNode)
    # `def` takes two lines, `return` one; the four of the docstring are left out.
    assert function_lines(node) == 3
