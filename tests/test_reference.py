"""docs/reference.md is what the docstrings say, and the docstrings say what a caller needs."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from docs import reference

import perdure

ROOT = Path(__file__).resolve().parent.parent

#: What a docstring may say instead of its parameters.
ELSEWHERE = re.compile(r"[Ss]ee `+[\w.]+|[Aa]s for `")


def _functions() -> Iterator[tuple[str, Any]]:
    """Every public function and method, and the classes that users make."""
    for name in perdure.__all__:
        value = getattr(perdure, name)
        if inspect.isfunction(value):
            yield name, value
        elif inspect.isclass(value):
            for member_name, member in reference.members(value):
                if not isinstance(member, property):
                    yield f"{name}.{member_name}", member
    for cls in (perdure.WorkflowManager, perdure.RetryPolicy, perdure.Limits):
        yield cls.__name__, cls


def unexplained(function: Any) -> list[str]:
    """The parameters that a docstring does not name where its parameters are listed."""
    docstring = inspect.getdoc(function) or ""
    _, _, sections = docstring.partition("\nArgs:\n")
    sections = sections or docstring.partition("\nAttributes:\n")[2]
    listed = re.findall(r"^ {4}([\w, ]+):", sections, re.MULTILINE)
    known = {name.strip() for names in listed for name in names.split(",")}
    parameters = set(inspect.signature(function).parameters) - {"self", "options"}
    return sorted(parameters - known)


def test_the_page_is_what_the_docstrings_say() -> None:
    """`make reference` was run after the last change of a docstring."""
    assert reference.PAGE.read_text(encoding="utf-8") == reference.write(), "run: make reference"


def test_every_public_name_is_on_the_page() -> None:
    """Each name of `perdure.__all__` has an entry, and none has two."""
    entries = re.findall(r"^### (\w+)$", reference.write(), re.MULTILINE)
    assert sorted(entries) == sorted(perdure.__all__)


@pytest.mark.parametrize(("name", "function"), list(_functions()))
def test_each_parameter_is_explained(name: str, function: Any) -> None:
    """A docstring names each parameter under Args, or says where they are explained."""
    if not ELSEWHERE.search(inspect.getdoc(function) or ""):
        assert unexplained(function) == []


def test_a_parameter_that_is_not_explained_is_found() -> None:
    """The check above sees a parameter without a line of its own."""

    def draw(x: int, y: int, z: int) -> None:
        """Draw something.

        Args:
            x, y: where.
        """

    assert unexplained(draw) == ["z"]


def test_the_page_of_errors_has_each_error() -> None:
    """Each public error and warning has a section on docs/errors.md, and nothing else has one."""
    page = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    sections = re.findall(r"^### (\w+)$", page, re.MULTILINE)
    assert sorted(sections) == sorted(reference.error_names())


def test_a_docstring_becomes_markdown() -> None:
    """Sections become lists, whose items may go on over several lines."""

    def draw(x: int, *, y: int | None = None) -> None:
        """Draw ``x``.

        Args:
            x: where,
                and how.
            y: how high.

        Raises:
            ValueError, TypeError
        """

    assert reference.prose(inspect.getdoc(draw) or "") == (
        "Draw `x`.\n\n**Args**\n\n- `x`: where,\n  and how.\n- `y`: how high.\n\n"
        "**Raises**\n\n- `ValueError`, `TypeError`\n"
    )
    assert reference.signature(draw, "draw") == "draw(x: int, *, y: int | None = None) -> None"
