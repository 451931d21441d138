"""Planted bugs: how we know that the simulator works.

Each mutant changes one place in the source of one engine function, in this process only, while it
is planted. A mutant that no run finds is a missing check. Production code knows nothing of them.
They are listed in the package `planted`.
"""

from __future__ import annotations

import importlib
import inspect
import sys
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


def _function(mutant: Mutant) -> tuple[Any, str, FunctionType]:
    module_name, _, path = mutant.target.partition(":")
    owner: Any = importlib.import_module(f"perdure.{module_name}")
    *classes, name = path.split(".")
    for each in classes:
        owner = getattr(owner, each)
    found = inspect.getattr_static(owner, name)
    function = _bare(found)
    if not isinstance(function, FunctionType):
        raise MutantError(f"{mutant.name}: {mutant.target} is no plain function")
    return owner, name, function


def _bare(found: Any) -> Any:
    """The function in a static method or a property."""
    if isinstance(found, staticmethod):
        return found.__func__
    return found.fget if isinstance(found, property) else found


def changed(mutant: Mutant) -> FunctionType:
    """The function with the bug in it.

    Raises:
        MutantError: the piece of source does not occur, or more than once.
    """
    _, name, function = _function(mutant)
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
    made = _bare(names[name])
    assert isinstance(made, FunctionType)
    return made


def _as_it_is(function: FunctionType) -> FunctionType:
    return function


@contextmanager
def planted(mutant: Mutant) -> Iterator[None]:
    """Plant a bug for the length of a block, wherever its function is known."""
    owner, name, function = _function(mutant)
    bad = changed(mutant)
    places = [(owner, name)]
    if inspect.ismodule(owner):
        for module in list(sys.modules.values()):
            if module is not None and module.__name__.startswith(("perdure.", "perdure_sim.")):
                for known, value in list(vars(module).items()):  # under another name, too
                    if value is function and (module, known) not in places:
                        places.append((module, known))
    found = inspect.getattr_static(owner, name)
    wrap = type(found) if isinstance(found, staticmethod | property) else _as_it_is
    before = [(place, known, inspect.getattr_static(place, known)) for place, known in places]
    try:
        for place, known in places:
            setattr(place, known, wrap(bad))
        yield
    finally:
        for place, known, old in before:
            setattr(place, known, old)
