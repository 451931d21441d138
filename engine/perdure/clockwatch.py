"""Sees a handler read a clock, roll dice or look into the environment, while it runs.

`determinism.uses` reads code and sees what stands in it; what a helper function does it cannot see.
This watches the calls themselves, with a profile function on the thread that advances a handler:
several times slower, so not for production, but for `check`. Nothing of the standard library is
replaced, and nothing is refused: the handler goes on, and what it did is on the list.

Not seen: clocks that are read by compiled code of others. A profiler that is on already keeps its
place; then only the guard's half (sockets, processes, files) is seen.
"""

from __future__ import annotations

import datetime as dt
import os
import random
import sys
import types
from types import FrameType
from typing import Any, Final, Self

from perdure.determinism import REMEDY, Use, watched_objects
from perdure.guard import enter, install, is_housekeeping, leave, refuse_in_handler

#: Clocks with an argument are none, and a profile function does not see arguments.
_ARGUMENTS_DECIDE: Final = frozenset(
    {"time.localtime", "time.gmtime", "time.ctime", "time.asctime"}
)

#: Class methods: bound anew at each call, so known by class and name.
_NOW: Final = frozenset(("now", "utcnow", "today"))

#: The generator behind the functions of the module `random`.
_SHARED_DICE: Final = random.random.__self__  # type: ignore[attr-defined]  # noqa: TID251
_SEEDING: Final = random.Random.__init__.__code__


class Watch:
    """``with watch: ...``: what this thread reads in such blocks is added to `uses`.

    Attributes:
        uses: each place once for each subject, in order of appearance.
        subject: whose code runs now: what two workflows share is told of both.
        is_blind: a profiler was on already, so that clocks were not seen.
    """

    def __init__(self) -> None:
        self.uses: list[Use] = []
        self.is_blind = False
        self.subject = ""
        self._places: set[tuple[str, str, int]] = set()
        # The objects are kept, so that nothing else comes to lie where they do.
        self._kept = watched_objects()
        self._calls = {
            key: name
            for key, (value, name) in self._kept.items()
            if isinstance(value, types.BuiltinFunctionType) and name not in _ARGUMENTS_DECIDE
        }
        self._codes = {
            value.__code__: name
            for value, name in self._kept.values()
            if isinstance(value, types.FunctionType)
        }
        for name in ("__getitem__", "__iter__", "__len__"):
            self._codes[getattr(type(os.environ), name).__code__] = "os.environ"

    def __enter__(self) -> Self:
        install()
        self._token = enter(self._refuse)
        self._has_profile = sys.getprofile() is None
        self.is_blind = self.is_blind or not self._has_profile
        if self._has_profile:
            sys.setprofile(self._look)
        return self

    def __exit__(self, *_: object) -> None:
        if self._has_profile:
            sys.setprofile(None)
        leave(self._token)

    def _look(self, frame: FrameType, event: str, called: Any) -> None:
        if event == "c_call":
            name = self._calls.get(id(called)) or _by_owner(called, frame)
            if name is not None:
                self._note(name, REMEDY.get(name), frame)
        elif event == "call":
            code = frame.f_code
            name = self._codes.get(code)
            if name is None and code is _SEEDING and frame.f_locals.get("x") is None:
                name = "random.Random"
            if name is not None and frame.f_back is not None:
                self._note(name, REMEDY.get(name), frame.f_back)

    def _refuse(self, event: str, call: str) -> Exception | None:
        error = refuse_in_handler(event, call)
        _, _, remedy = str(error).rpartition("Instead: ")
        self._note(call, remedy, sys._getframe(2))  # past the audit hook
        return error

    def _note(self, what: str, remedy: str | None, frame: FrameType | None) -> None:
        if is_housekeeping(frame):
            return
        place = _place(frame)
        if place is not None:
            use = Use(what, remedy or REMEDY["random.random"], *place)
            if self.is_new(use):
                self.uses.append(use)

    def is_new(self, use: Use) -> bool:
        """Whether nothing was seen at that place yet. From now on something was."""
        place = (self.subject, use.filename, use.line)
        if place in self._places:
            return False
        self._places.add(place)
        return True


def _by_owner(called: Any, frame: FrameType) -> str | None:
    owner = getattr(called, "__self__", None)
    if owner is _SHARED_DICE:
        # Most are a Python function of that module over one in C: it is the name that users know.
        name = called.__name__
        while frame.f_globals is vars(random) and frame.f_back is not None:
            name, frame = frame.f_code.co_name, frame.f_back
        return f"random.{name}"
    if isinstance(owner, type) and called.__name__ in _NOW and issubclass(owner, dt.date):
        known = "date" if called.__name__ == "today" else "datetime"
        return f"datetime.{known}.{called.__name__}"
    return None


def _place(frame: FrameType | None) -> tuple[str, int] | None:
    """The innermost line that is not the standard library's; None if it is the engine's."""
    package = __name__.partition(".")[0]
    while frame is not None:
        module = str(frame.f_globals.get("__name__")).partition(".")[0]
        if module == package:
            return None
        if module == "__main__" or module not in sys.stdlib_module_names:
            return frame.f_code.co_filename, frame.f_lineno
        frame = frame.f_back
    return None
