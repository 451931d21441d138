"""What a replay in the process that wrote the journal cannot show: clocks and dice that a handler
reads, which give nearly the same at once, and the order of sets, which is that of the process.

Each journal of a new shape is replayed twice more: here, with an eye on what the code calls, and in
another process, where strings hash otherwise and the time zone is another.
"""

from __future__ import annotations

import atexit
import sys
from collections.abc import Iterable, Iterator
from typing import Any
from weakref import WeakKeyDictionary

import attrs

from perdure.clockwatch import Watch
from perdure.core.outcomes import Canceled
from perdure.definitions import Definer, Workflow
from perdure.store.base import Loaded

from ..laws import replay_process
from ..laws.known import Known
from ..laws.replay_process import ReplayProcess, recorded
from ..laws.replaying import ReplayDiffers, Shape, check_whole, shape_of
from ..laws.violations import Violation
from ..world.world import World
from .manager_settings import rules_of

#: Names of the module that was started as a program; another process has its own.
_MAIN = frozenset(["__main__", "__mp_main__"])


#: What is said of code that does not repeat itself, and reads nothing that is watched.
UNSEEN = (
    "It is the same code: it is run again from the journal, as after each crash. So it depends on"
    " something that is not in the journal: a global or an object that runs share, the order of a"
    " set, an id(). Give it as an argument, or have a query or an action return it."
)


class NotRepeatable(Violation):
    """A workflow reads a clock, chance or the environment, which a replay finds otherwise."""


def check_repeatable(
    manager: Definer, world: World, seen: set[Shape], *, waits: bool = True
) -> list[Shape]:
    """Replay the journals of a run once more, where a replay differs that depends on the process.

    Args:
        seen: what was replayed so before: it is not again.
        waits: also for the other process to start.

    Returns:
        What that process, which is only starting, has been asked: see `differ_elsewhere`.

    Raises:
        NotRepeatable: the code of a workflow reads what is not the same each time.
        ReplayDiffers: in another process it asks for something else than what is recorded.
    """
    asked: list[Shape] = []
    for loaded in recorded(world.history):
        shape = ("repeatable", shape_of(loaded))
        if shape in seen or _is_of_another_end(world.history.workflows[loaded.state.workflow_id]):
            continue
        _check_reads(manager, loaded)
        if not _elsewhere.check(manager, loaded, waits=waits):
            asked.append(shape)
        seen.add(shape)  # not before: what failed must fail again while it is shrunk
    return asked


def _is_of_another_end(known: Known) -> bool:
    return bool(known.past) and isinstance(known.state.outcome, Canceled)


def why_differs(manager: Definer, world: World, differs: ReplayDiffers) -> Violation:
    """What to raise where a journal was replayed otherwise by the very code that wrote it."""
    for loaded in recorded(world.history):
        try:
            _check_reads(manager, loaded)
        except NotRepeatable as found:
            return found
        except ReplayDiffers:
            continue  # nothing was read; the next one perhaps
    return ReplayDiffers(f"{differs}\n{UNSEEN}")


def _check_reads(manager: Definer, loaded: Loaded) -> None:
    watch = Watch()  # a new one, which tells of the same place again
    differs: ReplayDiffers | None = None
    with watch:
        try:
            check_whole(rules_of(manager), loaded)
        except ReplayDiffers as error:
            differs = error
    if watch.uses:
        lines = "\n".join(
            f"{use.what} in {use.filename}:{use.line}; instead: {use.remedy}" for use in watch.uses
        )
        raise NotRepeatable(
            f"{loaded.state.workflow_id}: {loaded.state.header.name} reads what another replay"
            f" finds otherwise:\n{lines}"
        ) from differs
    if differs is not None:
        raise differs


@attrs.define
class _Elsewhere:
    """The other process, started when it is first needed; one for all tests.

    Attributes:
        strangers: managers that it cannot import, and why.
    """

    process: ReplayProcess | None = None
    strangers: WeakKeyDictionary[Definer, str] = attrs.field(factory=WeakKeyDictionary)

    def check(self, manager: Definer, loaded: Loaded, *, waits: bool) -> bool:
        """Replay it there, if the other process can import what belongs to it; whether that is
        done."""
        if manager in self.strangers or replay_process.IS_CHILD:
            return True  # a module that calls its tests when imported would start them for ever
        definer, modules = _place_of(manager)
        if definer is None:
            self.strangers[manager] = "the manager is no name of a module"
            return True
        if self.process is None or not self.process.is_alive:
            self.process = ReplayProcess()
            atexit.register(self.process.close)
        if not (waits or self.process.has_answered):
            self.process.send(definer, [loaded], modules=modules, is_brief=True)
            return False
        try:
            self.process.check(definer, [loaded], modules=modules, is_brief=True)
        except RuntimeError as error:  # it cannot be imported there, or has died of it
            self.strangers[manager] = str(error)
        return True

    def answers(self, manager: Definer, asked: Iterable[Shape]) -> Iterator[Shape]:
        """What of that it replays otherwise, which it was asked while it started."""
        for shape in asked:
            if self.process is None or manager in self.strangers:
                return
            try:
                self.process.receive(f"the journals of {manager!r}")
            except ReplayDiffers:
                yield shape
            except RuntimeError as error:
                self.strangers[manager] = str(error)


_elsewhere = _Elsewhere()


def differ_elsewhere(manager: Definer, asked: Iterable[Shape]) -> set[Shape]:
    """What of all that `check_repeatable` has asked, in turn, is replayed otherwise there."""
    return set(_elsewhere.answers(manager, asked))


def forget_asked() -> None:
    """Nobody will call `differ_elsewhere` for what was asked until now."""
    if _elsewhere.process is not None:
        _elsewhere.process.forget()


def why_not_elsewhere(manager: Definer) -> str | None:
    """Why a manager's journals were not replayed in another process; None if they were."""
    return _elsewhere.strangers.get(manager)


def _place_of(manager: Definer) -> tuple[str | None, list[str]]:
    """``module:name`` of a manager, and the modules of its workflows; None if it has no name."""
    modules = list(dict.fromkeys(each.fn.__module__ for each in _workflows(manager)))
    for name in dict.fromkeys([*modules, *sys.modules]):
        if name in _MAIN:
            continue
        held: dict[str, Any] = getattr(sys.modules.get(name), "__dict__", {})
        for attribute, value in list(held.items()):
            if value is manager:
                return f"{name}:{attribute}", [] if not _MAIN.isdisjoint(modules) else modules
    return None, []


def _workflows(manager: Definer) -> Iterator[Workflow[..., Any]]:
    for definition in manager.registry:
        if isinstance(definition, Workflow):
            yield definition
