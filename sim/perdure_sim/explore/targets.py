"""Scenarios by name: ``module:NAME`` or ``path/to/file.py:NAME``, as the command line takes them.

A test of `simulate` is one as well.

A process that works for another finds its scenarios by the same texts, since a scenario holds
functions, which cannot be sent.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import attrs

from .explorer import Scenario


class TargetError(Exception):
    """A target does not lead to a scenario; the message says what was found instead."""


@attrs.frozen
class Place:
    """Where a scenario is.

    Attributes:
        target: ``module:NAME`` or ``path/to/file.py:NAME``.
        index: which of those that the name holds; None if it holds one alone.
    """

    target: str
    index: int | None = None

    def find(self) -> Scenario:
        """The scenario.

        Raises:
            TargetError: there is none.
        """
        return _scenarios(self.target)[self.index or 0][1]


def load(targets: Iterable[str], names: Iterable[str] = ()) -> dict[Place, Scenario]:
    """All scenarios that the targets name, each once, in their order.

    Args:
        names: only the scenarios of these names; without any, all.

    Raises:
        TargetError: a target leads to none, two have one name, or one of `names` is not there.
    """
    found: dict[Place, Scenario] = {}
    for target in targets:
        for place, scenario in _scenarios(target):
            if any(scenario is other for other in found.values()):
                continue
            for earlier, other in found.items():
                if other.name == scenario.name:
                    raise TargetError(
                        f"{earlier.target} and {target}: two scenarios have the name"
                        f" {scenario.name!r}; a report could not tell which one failed"
                    )
            found[place] = scenario
    wanted = list(names)
    there = [scenario.name for scenario in found.values()]
    for name in wanted:
        if name not in there:
            raise TargetError(f"there is no scenario {name!r}; there are: {', '.join(there)}")
    return {
        place: scenario
        for place, scenario in found.items()
        if not wanted or scenario.name in wanted
    }


def _scenarios(target: str) -> list[tuple[Place, Scenario]]:
    where, colon, path = target.rpartition(":")
    if not colon or not where or not path:
        raise TargetError(
            f"{target}: give module:NAME or path/to/file.py:NAME, such as tests.scenes:TRANSFER"
        )
    module = _module(target, where)
    found: Any = module
    for name in path.split("."):
        if not hasattr(found, name):
            there = ", ".join(_names(module)) or "none"
            raise TargetError(f"{target}: {where} has no {name}; scenarios in it: {there}")
        found = getattr(found, name)
    is_many = isinstance(found, tuple | list)
    scenarios = [_scenario_of(each) for each in (found if is_many else [found])]
    wrong = [each for each in scenarios if not isinstance(each, Scenario)]
    if wrong or not scenarios:
        what = f"that is {_described(found)}"
        if is_many:
            what += f", and in it is {_described(wrong[0])}" if wrong else ", and it is empty"
        raise TargetError(
            f"{target}: {what}; expected a Scenario, a test of @simulate,"
            " or a tuple or list of them"
        )
    return [
        (Place(target, number if is_many else None), scenario)
        for number, scenario in enumerate(scenarios)
    ]


def _scenario_of(found: Any) -> Any:
    """What was found; of a test of `simulate` its scenario."""
    trial = getattr(found, "simulation", None)
    return found if trial is None or isinstance(found, Scenario) else trial.scenario()


def _described(value: object) -> str:
    text = repr(value)
    return f"a {type(value).__name__}: {text if len(text) <= 80 else f'{text[:79]}…'}"


def _names(module: ModuleType) -> Iterator[str]:
    for name, value in vars(module).items():
        items = value if isinstance(value, tuple | list) else [value]
        if len(items) > 0 and all(isinstance(item, Scenario) for item in items):
            yield name


def _module(target: str, where: str) -> ModuleType:
    if (folder := os.getcwd()) not in sys.path:
        sys.path.insert(0, folder)  # the script of a virtual environment does not look here
    if where.endswith(".py") or os.sep in where:
        return _module_of_file(target, Path(where))
    try:
        return importlib.import_module(where)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{where}.".startswith(f"{error.name}."):
            raise  # found, but something that it imports is not: the traceback tells
        raise TargetError(f"{target}: there is no module {error.name}") from None


def _module_of_file(target: str, path: Path) -> ModuleType:
    """The module, under the name by which other files of the current folder import it."""
    path = path.resolve()
    if not path.is_file():
        raise TargetError(f"{target}: there is no file {path}")
    try:
        name = ".".join(path.relative_to(Path.cwd()).with_suffix("").parts)
    except ValueError:
        name = path.stem
    known = sys.modules.get(name)
    if known is not None and Path(getattr(known, "__file__", None) or "").resolve() == path:
        return known
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise TargetError(f"{target}: {path} is no Python file")
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # for its neighbours, as `python path/to/file.py` has it
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
