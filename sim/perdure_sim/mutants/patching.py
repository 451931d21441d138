"""Planted bugs: how we know that the simulator works.

Each mutant changes one place in the source of one engine function, in this process only, while it
is planted. A mutant that no run finds is a missing check. Production code knows nothing of them.
They are listed in the package `planted`.
"""

from __future__ import annotations

import importlib
import inspect
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from types import FunctionType
from typing import Any

import attrs


@attrs.frozen
class Mutant:
    """One planted bug.

    Attributes:
        name: what is wrong, in a few words.
        sort: what kind of bug it is.
        target: ``module:function`` or ``module:Class.method``, below ``perdure``.
        old: a piece of the function's source that occurs once in it.
        new: what stands there instead.
        found_by: how the tests find it: a scenario of theirs, a plan, and the law that is broken.
    """

    name: str
    sort: str
    target: str
    old: str
    new: str
    found_by: tuple[str, str, str] = ("", "", "")


class MutantError(Exception):
    """A mutant no longer fits the source that it changes."""


def _function(mutant: Mutant) -> FunctionType:
    module_name, _, path = mutant.target.partition(":")
    owner: Any = importlib.import_module(f"perdure.{module_name}")
    *classes, name = path.split(".")
    for each in classes:
        owner = getattr(owner, each)
    found = inspect.getattr_static(owner, name)
    function = _bare(found)
    if not isinstance(function, FunctionType):
        raise MutantError(f"{mutant.name}: {mutant.target} is no plain function")
    return function


def _bare(found: Any) -> Any:
    """The function in a static method, a property or a decorator."""
    if isinstance(found, staticmethod):
        found = found.__func__
    if isinstance(found, property):
        found = found.fget
    assert callable(found)
    return inspect.unwrap(found)


def changed(mutant: Mutant) -> FunctionType:
    """The function with the bug in it.

    Raises:
        MutantError: the piece of source does not occur, or more than once.
    """
    function = _function(mutant)
    source = textwrap.dedent(inspect.getsource(function))
    if source.count(mutant.old) != 1:
        raise MutantError(
            f"{mutant.name}: {mutant.old!r} occurs {source.count(mutant.old)} times in"
            f" {mutant.target}: the source has changed, change the mutant too"
        )
    source = source.replace(mutant.old, mutant.new)
    code = compile("from __future__ import annotations\n" + source, mutant.target, "exec")
    names: dict[str, Any] = {}
    exec(code, function.__globals__, names)
    made = _bare(names[function.__name__])
    assert isinstance(made, FunctionType)
    return made


@contextmanager
def planted(mutant: Mutant) -> Iterator[None]:
    """Plant a bug for the length of a block: the function stays itself, wherever it is known, and
    gets other code."""
    function = _function(mutant)
    bad = changed(mutant)
    before = _body(function)
    try:
        _become(function, _body(bad))
        yield
    finally:
        _become(function, before)


def _body(function: FunctionType) -> tuple[Any, ...]:
    return function.__code__, function.__defaults__, function.__kwdefaults__


def _become(function: FunctionType, body: tuple[Any, ...]) -> None:
    function.__code__, function.__defaults__, function.__kwdefaults__ = body
