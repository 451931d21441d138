"""Sets of faults by name: what reality does to a workflow, and what only a test would.

`ALL` is what any application meets sooner or later: processes that die or stand still, a store in
trouble, messages that are late or come twice, clocks that are wrong, actions that fail. What is not
in it is what would have to be somebody's deed: a client that cancels, restarts or deletes
(`CANCEL`, `RESTART`, `CLEANUP`), an action that breaks its own promise (`BAD_RESULTS`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import attrs

from ..faults.plan import DELAY, FaultPlan, PlanError
from ..faults.sites import SITES

#: All that can be drawn, as ``site=kind``.
EVERY_KIND = frozenset(
    f"{site}={kind.name}" for site, kinds in SITES.items() for kind in kinds if kind.name != DELAY
)


@attrs.frozen(repr=False)
class FaultSet:
    """Kinds of fault, each as ``site=kind``; `ALL`, `CRASH` and so on are such sets.

    ``ALL - {"raises"}`` leaves a kind out at all its sites, ``CRASH | {"attempt=slow"}`` adds one
    at one site; sets are joined and cut with ``|``, ``&`` and ``-``.
    """

    kinds: frozenset[str]

    @staticmethod
    def of(faults: FaultSet | Iterable[str] | str) -> FaultSet:
        """A set of what is named: kinds (``"raises"``), or ``"site=kind"``.

        Raises:
            TypeError: it is no set of names.
            ValueError: a name that nothing has; the message tells those that there are.
        """
        if isinstance(faults, FaultSet):
            return faults
        if not isinstance(faults, Iterable):
            raise TypeError(f"faults={faults!r}: give names of faults, or () for none")
        names = [faults] if isinstance(faults, str) else list(faults)
        found: set[str] = set()
        for name in names:
            found |= _kinds_of(name)
        return FaultSet(frozenset(found))

    def __or__(self, other: FaultSet | Iterable[str]) -> FaultSet:
        return FaultSet(self.kinds | FaultSet.of(other).kinds)

    def __and__(self, other: FaultSet | Iterable[str]) -> FaultSet:
        return FaultSet(self.kinds & FaultSet.of(other).kinds)

    def __sub__(self, other: FaultSet | Iterable[str]) -> FaultSet:
        return FaultSet(self.kinds - FaultSet.of(other).kinds)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and _kinds_of(name) <= self.kinds

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self.kinds))

    def __len__(self) -> int:
        return len(self.kinds)

    def __repr__(self) -> str:
        return f"FaultSet({sorted(self.kinds)})"

    @property
    def without(self) -> frozenset[str]:
        """What is not in it."""
        return EVERY_KIND - self.kinds

    def cut(self, plan: FaultPlan) -> FaultPlan:
        """What of a plan is in this set, and its delays, which are no faults."""
        return FaultPlan(
            fault
            for fault in plan
            if fault.kind == DELAY or f"{fault.site}={fault.kind}" in self.kinds
        )


def _kinds_of(name: str) -> frozenset[str]:
    if not isinstance(name, str):
        raise TypeError(f"faults: {name!r}: give the name of a kind, such as 'raises'")
    if name in EVERY_KIND:
        return frozenset([name])
    found = frozenset(each for each in EVERY_KIND if each.partition("=")[2] == name)
    if not found:
        there = ", ".join(sorted({each.partition("=")[2] for each in EVERY_KIND}))
        raise PlanError(f"faults: there is no kind {name!r}; there are: {there}; or give site=kind")
    return found


def _set(text: str) -> FaultSet:
    return FaultSet.of(text.split())


#: Processes die, at each place where it matters, or all at once.
CRASH = _set(
    "begin=crash commit=crash_before commit=crash_after commit=power_loss read=crash boot=crash"
    " turn=crash collected=crash decided=crash committed=crash told=crash carried_out=crash"
    " attempt=crash report=crash"
)

#: Processes stand still, and are taken for dead though they live.
PAUSE = _set("pause zombie stall overtaken turn=fenced")

#: The disk is full, or nobody may write, or the lock cannot be had.
DISK = _set("begin=busy begin=full begin=read_only commit=busy_ack commit=full commit=disk_full")

#: Between processes, store and clients: errors, answers and wake-ups that are lost, late, double.
NETWORK = _set(
    "commit=fails commit=lost_ack read=fails wake=lost wake=late wake=twice poll=late"
    " request=twice request=elsewhere request=storm request=late report=twice report=late"
)

#: Clocks jump, or run too fast or too slow.
CLOCK = _set("jump jump_back runs_fast runs_slow")

#: Actions fail, for now or for good, take long, and hear no cancellation.
ACTION = _set("attempt=raises attempt=raises_for_good attempt=slow attempt=deaf")

#: Workers are stopped in good order and started again.
DEPLOY = _set("turn=drain deploy=drain deploy=kill")

#: The engine has little room: nothing in its cache, one message, action or function at a time.
SMALL = _set("evict batch=one cache=none permits=one commits=apart")

#: What reality can do to any workflow.
ALL = CRASH | PAUSE | DISK | NETWORK | CLOCK | ACTION | DEPLOY | SMALL

#: A client cancels a workflow, at any point. Not in `ALL`: somebody would have to do it.
CANCEL = _set("touched=cancel")

#: A client cancels a workflow and has it go on, or run again. Not in `ALL`.
RESTART = _set("touched=restart touched=rerun")

#: A client deletes a workflow, though it runs. Not in `ALL`.
CLEANUP = _set("touched=cleanup")

#: An action returns more than a value may have, or another type than it says. Not in `ALL`.
BAD_RESULTS = _set("attempt=too_much attempt=wrong_type")

#: Nothing goes wrong.
NONE = FaultSet(frozenset())
