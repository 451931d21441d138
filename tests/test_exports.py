"""The public door: what `perdure` exports is sorted, complete, documented, and as promised.

The names in `PROMISED` are the documented surface. Taking one away breaks users' code, so it
wants an entry under "Removed" in CHANGELOG.md; a new name is added here and in the docs.
"""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from tests.sources import parse

import perdure
import perdure.errors

#: Each package with a public door.
DOORS = ("perdure", "perdure_sim")

PROMISED = frozenset(
    """
    WorkflowManager RetryPolicy Limits define_event Event Call
    Step QueryContext MutationContext ActionContext
    Status InProgress Outcome Succeeded Failed Canceled
    WorkflowInfo StepInfo Page ErrorInfo
    PerdureError DefinitionError ValidationError LimitExceeded
    WorkflowNotFound WorkflowNotRunning WorkflowRunning WorkflowIdConflict
    WorkflowFailed WorkflowCanceled StepFailed StepCanceled StepNotFound NonRetryableError
    EventNotFound EventAlreadySent DeterminismError DeterminismWarning
    StoreError StoreBusy StoreVersionError InternalError
    """.split()  # noqa: SIM905 - a list of forty names reads better as words
)


def _door(name: str) -> tuple[ModuleType, list[str]]:
    module = importlib.import_module(name)
    return module, list(getattr(module, "__all__", ()))


def _imported_names(module: ModuleType) -> set[str]:
    """The names that the file of `module` itself imports from its own package, at once or, for
    type checkers, where it says later what they are."""
    tree = parse(Path(str(module.__file__)))
    later = [node for block in tree.body if isinstance(block, ast.If) for node in block.body]
    return {
        alias.asname or alias.name
        for node in [*tree.body, *later]
        if isinstance(node, ast.ImportFrom)
        and (node.level or (node.module or "").split(".")[0] == module.__name__)
        for alias in node.names
    }


def _public_members(owner: type) -> Iterator[tuple[str, object]]:
    for name, member in vars(owner).items():
        if name.startswith("_"):
            continue
        if isinstance(member, classmethod | staticmethod):
            yield name, member.__func__
        elif inspect.isfunction(member) or isinstance(member, property):
            yield name, member


def _undocumented(name: str, value: object) -> Iterator[str]:
    """`name` and the public methods of its class, where they have no docstring of their own."""
    if not (inspect.isclass(value) or inspect.isroutine(value)):
        return  # a union or a constant: it has no docstring to give
    if not value.__doc__:
        yield name
    if inspect.isclass(value):
        for member_name, member in _public_members(value):
            # An override may rely on what the class above it says.
            if not inspect.getdoc(getattr(value, member_name, member)):
                yield f"{name}.{member_name}"


@pytest.mark.parametrize("name", DOORS)
def test_all_is_sorted_and_has_no_double(name: str) -> None:
    """`__all__` is in order (constants, classes, functions) and without doubles, so that two
    changes to it seldom clash."""
    _, exported = _door(name)
    ordered = sorted(set(exported), key=lambda each: (not each.isupper(), each))
    assert exported == ordered


@pytest.mark.parametrize("name", DOORS)
def test_every_exported_name_is_there(name: str) -> None:
    """Each name of `__all__` can be imported."""
    module, exported = _door(name)
    assert [entry for entry in exported if not hasattr(module, entry)] == []


@pytest.mark.parametrize("name", DOORS)
def test_what_the_door_imports_it_exports(name: str) -> None:
    """The door imports from its package just what it exports: no name is public by accident."""
    module, exported = _door(name)
    assert _imported_names(module) == set(exported)


@pytest.mark.parametrize("name", DOORS)
def test_exported_names_are_public(name: str) -> None:
    """No name with a leading underscore is exported."""
    _, exported = _door(name)
    assert [entry for entry in exported if entry.startswith("_")] == []


@pytest.mark.parametrize("name", DOORS)
def test_every_exported_object_is_documented(name: str) -> None:
    """Each public class, method, property and function has a docstring."""
    module, exported = _door(name)
    values = [(entry, getattr(module, entry, None)) for entry in exported]
    assert [fault for entry, value in values for fault in _undocumented(entry, value)] == []


def test_the_promised_names_are_exported() -> None:
    """All of the documented surface is at the door."""
    assert PROMISED - set(_door("perdure")[1]) == set()


def test_every_error_is_exported() -> None:
    """Whatever perdure raises on purpose can be caught by a name of the door."""
    errors = {
        name
        for name, value in vars(perdure.errors).items()
        if inspect.isclass(value)
        and issubclass(value, perdure.errors.PerdureError | Warning)
        and value.__module__ == perdure.errors.__name__
        and not name.startswith("_")
    }
    assert "PerdureError" in errors
    assert errors - set(_door("perdure")[1]) == set()
