"""Faults as data: what goes wrong, where, and when, in one line of text.

A fault is addressed by site and occurrence: ``w0/commit#3=lost_ack`` is the third commit of worker
w0, and it stays that whatever happens to the other faults of its plan. So a plan can be shrunk by
leaving faults out. Nothing is drawn during a run: a plan is complete before it begins.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any

import attrs

#: The version of the notation, and its mark.
PREFIX = "pd1:"

#: The kind of what is no fault but a choice: how long something takes, within a range that a test
#: gives. It is written as the time alone: ``client/after#1=37s``.
DELAY = "delay"

#: Whose a site is where a plan does not say it: ``after#1=37s``.
CLIENT = "client"

_FAULT = re.compile(
    r"(?:(?P<actor>[^;#=\s]+)/)?(?P<site>[a-z_]+)#(?P<occurrence>[1-9][0-9]*)="
    r"(?:(?P<kind>[a-z_]+)(?:\*(?P<burst>[1-9][0-9]*))?"
    r"(?::(?P<duration>[0-9]+)(?P<unit>ms|s|m|h))?|(?P<delay>[0-9]+)(?P<delay_unit>ms|s|m|h))"
)
_ACTOR = re.compile(r"[^;#=\s]+")
_UNITS = {"h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}


class PlanError(ValueError):
    """A text is no plan."""


@attrs.frozen
class Fault:
    """One thing that goes wrong. Faults have an order, in which plans list them.

    Attributes:
        actor: to whom: a worker, a client, a function.
        site: where.
        occurrence: at which passing of that site, from 1.
        kind: what happens there.
        burst: so many passings in a row.
        duration: in ms, for the kinds that take some.
    """

    actor: str
    site: str
    occurrence: int
    kind: str
    burst: int = 1
    duration: int = 0

    def __lt__(self, other: Fault) -> bool:
        # By hand: what attrs makes takes ten times as long, and plans are made by the thousand.
        return self._rank < other._rank

    @property
    def place(self) -> tuple[str, str, int]:
        """To whom, where, and at which passing: of a plan's faults there is one at a place."""
        return self.actor, self.site, self.occurrence

    @property
    def _rank(self) -> tuple[str, str, int, str, int, int]:
        return self.actor, self.site, self.occurrence, self.kind, self.burst, self.duration

    def __str__(self) -> str:
        if self.kind == DELAY and self.burst == 1:
            time = _duration_text(self.duration)
            return f"{self.actor}/{self.site}#{self.occurrence}={time}"
        burst = f"*{self.burst}" if self.burst > 1 else ""
        duration = f":{_duration_text(self.duration)}" if self.duration else ""
        return f"{self.actor}/{self.site}#{self.occurrence}={self.kind}{burst}{duration}"


def _duration_text(ms: int) -> str:
    if ms == 0:
        return "0s"
    unit = next(unit for unit, size in _UNITS.items() if ms % size == 0)
    return f"{ms // _UNITS[unit]}{unit}"


class FaultPlan:
    """Faults, none twice at one place; equal plans have equal texts.

    Raises:
        PlanError: two faults at one place.
    """

    __slots__ = ("faults",)

    def __init__(self, faults: Iterable[Fault] = ()) -> None:
        self.faults = tuple(sorted(faults))
        for fault, other in pairwise(self.faults):
            if fault.place == other.place:
                count = sum(each.place == fault.place for each in self.faults)
                actor, site, occurrence = fault.place
                raise PlanError(f"{count} faults at {actor}/{site}#{occurrence}: one is enough")

    @staticmethod
    def parse(text: str) -> FaultPlan:
        """The plan that `text` says; an empty text is the plan in which nothing goes wrong.

        Raises:
            PlanError: the message shows the part that is no fault, and how one looks.
        """
        text = text.strip()
        if not text:
            return FaultPlan()
        if not text.startswith(PREFIX):
            raise PlanError(f"a plan begins with {PREFIX!r}, and this does not: {text[:60]!r}")
        faults = []
        for part in text.removeprefix(PREFIX).split(";"):
            if not part.strip():
                continue
            found = _FAULT.fullmatch(part.strip())
            if found is None:
                raise PlanError(
                    f"{part.strip()!r} is no fault: write actor/site#occurrence=kind, such as"
                    " w0/commit#3=lost_ack, w1/decided#2=pause:40s, charge/attempt#1=raises*3 or"
                    " client/after#1=37s"
                )
            duration = found["duration"] or found["delay"] or 0
            unit = found["unit"] or found["delay_unit"] or "ms"
            faults.append(
                Fault(
                    found["actor"] or CLIENT,
                    found["site"],
                    int(found["occurrence"]),
                    found["kind"] or DELAY,
                    int(found["burst"] or 1),
                    int(duration) * _UNITS[unit],
                )
            )
        return FaultPlan(faults)

    def without(self, fault: Fault) -> FaultPlan:
        """The plan that leaves this one out."""
        return FaultPlan(other for other in self.faults if other != fault)

    def within(self, census: Mapping[tuple[str, str], int]) -> tuple[Fault, ...]:
        """Those faults that a run comes to which passes each site as often as `census` says.

        Two plans of which these are the same give the same run: it never comes to the others.
        """
        return tuple(
            fault
            for fault in self.faults
            if fault.occurrence <= census.get((fault.actor, fault.site), 0)
        )

    def __str__(self) -> str:
        return PREFIX + ";".join(map(str, self.faults)) if self.faults else ""

    def __repr__(self) -> str:
        return f"FaultPlan({str(self)!r})"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """For Hypothesis, which else shows of what it has made the plan."""
        printer.text(repr(self))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FaultPlan) and self.faults == other.faults

    def __hash__(self) -> int:
        return hash(self.faults)

    def __len__(self) -> int:
        return len(self.faults)

    def __iter__(self) -> Iterator[Fault]:
        return iter(self.faults)


@attrs.frozen
class Attempted:
    """An attempt, for whoever says what befalls it.

    Attributes:
        is_last: of several that its step has.
    """

    workflow_id: str
    is_last: bool


class Injector:
    """Says at each passing of a site what goes wrong there, and counts the passings.

    Attributes:
        census: how often each site was passed until the heal, by (actor, site).
        fired: the faults that have happened, in order.
        is_healed: from now on nothing goes wrong any more.
        tell: called with each fault that fires, and which passing of its site that is.
        spares: whether a fault does not befall an attempt after all, which has passed its site.
    """

    def __init__(self, plan: FaultPlan) -> None:
        self.census: dict[tuple[str, str], int] = {}
        self.fired: list[Fault] = []
        self.is_healed = False
        self.tell: Callable[[Fault, int], None] | None = None
        self.spares: Callable[[Fault, Attempted], bool] | None = None
        self._ahead: dict[tuple[str, str], list[Fault]] = {}
        for fault in plan:
            self._ahead.setdefault((fault.actor, fault.site), []).append(fault)

    def at(self, actor: str, site: str, attempted: Attempted | None = None) -> Fault | None:
        """The fault of this passing, if there is one.

        Args:
            attempted: what passes, if it is an attempt.
        """
        if self.is_healed:
            return None  # not counted either: nobody should plan for what cannot happen
        place = (actor, site)
        count = self.census[place] = self.census.get(place, 0) + 1
        faults = self._ahead.get(place)
        if faults is None:
            return None
        for fault in faults:
            if fault.occurrence <= count < fault.occurrence + fault.burst:
                if attempted is not None and self.spares is not None:
                    if self.spares(fault, attempted):
                        return None
                if fault not in self.fired:
                    self.fired.append(fault)
                if self.tell is not None:
                    self.tell(fault, count)
                return fault
        return None

    def has(self, kind: str) -> bool:
        """Whether the plan has a fault of that kind, anywhere."""
        return any(fault.kind == kind for faults in self._ahead.values() for fault in faults)


def is_actor(name: str) -> bool:
    """Whether a fault can be addressed to this name."""
    return _ACTOR.fullmatch(name) is not None
