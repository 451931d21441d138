"""What can go wrong, and where: each site, and the kinds of fault that happen at it.

A site is a place that a run passes: of a process (``w0/commit``), of an action
(``charge/attempt``), of a workflow (``o0/touched``) or of the whole world (``world/batch``). Sweep
and soak draw from this table; a plan that names anything else is refused before its run begins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import attrs

from .plan import DELAY, FaultPlan, PlanError

#: How long a trouble of the disk lasts where the plan does not say it, in ms.
DISK_TROUBLE_MS = 60_000

#: How many requests an impatient client sends where one would do.
STORM = 20

#: How much too fast or too slow a drifting clock runs, in percent: far more than a real one, so
#: that minutes show what would take weeks.
DRIFT_PERCENT = 10


@attrs.frozen
class Kind:
    """One thing that goes wrong.

    Attributes:
        name: as it stands in a plan.
        about: what happens, in one line.
        draws: with which (burst, duration in ms) it is tried.
        may_change: whether a workflow may end otherwise than without it.
    """

    name: str
    about: str
    draws: tuple[tuple[int, int], ...] = ((1, 0),)
    may_change: bool = False


_BORDER = (
    Kind("crash", "the process dies; in a burst again when it takes up its work", ((1, 0), (2, 0))),
    Kind("pause", "it stands still so long, and others go on", ((1, 2_000),)),
    Kind("zombie", "it stands still, is taken for dead, and comes back", ((1, 40_000),)),
)

#: By site: what can go wrong there.
SITES: dict[str, tuple[Kind, ...]] = {
    # --- of a process: its store
    "begin": (
        Kind("busy", "the write lock cannot be had", ((1, 0), (3, 0))),
        Kind("full", "the disk is full", ((2, 0),)),
        Kind("stall", "before it begins it stands still so long, and others go on", ((1, 2_000),)),
        Kind("overtaken", "the same, and it is taken for dead meanwhile", ((1, 2_000),)),
        Kind("read_only", "from here on nobody can write, for so long", ((1, DISK_TROUBLE_MS),)),
        Kind("crash", "the process dies"),
    ),
    "commit": (
        Kind("fails", "an error, and nothing is stored", ((1, 0), (3, 0))),
        Kind("lost_ack", "the same error, and all is stored", ((1, 0), (3, 0))),
        Kind("busy_ack", "the store says that it is busy, and all is stored"),
        Kind("crash_before", "the process dies, and nothing is stored"),
        Kind("crash_after", "all is stored, and the process dies before it tells anybody"),
        Kind("full", "the disk is full", ((2, 0),)),
        Kind("disk_full", "from here on no commit succeeds, for so long", ((1, DISK_TROUBLE_MS),)),
        Kind("power_loss", "all processes die, and what was stored last is lost", ((1, 50),), True),
    ),
    "read": (
        Kind("fails", "an error, and nothing is read", ((1, 0), (3, 0))),
        Kind("stall", "before it reads it stands still so long, and others go on", ((1, 2_000),)),
        Kind("crash", "the process dies"),
    ),
    # --- of a process: its life and its turns
    "boot": (Kind("crash", "it dies as soon as it has signed in", ((1, 0), (3, 0))),),
    "turn": (
        Kind("crash", "it dies; in a burst again when it takes up its work", ((1, 0), (3, 0))),
        Kind("evict", "all live handlers are dropped, and replayed when they are needed"),
        Kind("fenced", "others take it for dead, though it is well"),
        Kind("jump", "its clock jumps ahead", ((1, 60_000),)),
        Kind("jump_back", "its clock is set back, and so stands still", ((1, 30_000),)),
        Kind("runs_fast", "from here on its clock runs too fast"),
        Kind("runs_slow", "from here on its clock runs too slow"),
        Kind("drain", "it ends in good order, and is started again"),
    ),
    "deploy": (
        Kind("drain", "it ends in good order, and is started with the next code"),
        Kind("kill", "it is killed, and started with the next code"),
    ),
    "collected": _BORDER,
    "decided": _BORDER,
    "committed": _BORDER,
    "told": _BORDER,
    # Only here: before, the turn still works with the handlers that it has, and nothing of the
    # engine's drops them.
    "carried_out": (*_BORDER, Kind("evict", "all live handlers are dropped, just after a turn")),
    "wake": (
        Kind("lost", "nobody hears it: a poll finds what it was about"),
        Kind("late", "it comes later, and so after others", ((1, 50), (1, 5_000))),
        Kind("twice", "it comes again, for nothing"),
    ),
    "poll": (Kind("late", "what others have committed is noticed late", ((1, 50), (1, 5_000))),),
    # --- of a client
    "request": (
        Kind("twice", "it is asked twice"),
        Kind("elsewhere", "it is asked of a worker's process as well"),
        Kind("storm", f"it is asked {STORM} times"),
        Kind("late", "it comes later, and so after others", ((1, 3_000),)),
    ),
    # --- of an action
    "attempt": (
        Kind("raises", "it raises something that may be tried again", ((1, 0), (3, 0))),
        Kind("raises_for_good", "it raises something that may not", may_change=True),
        Kind("slow", "it takes longer, beyond its time-out perhaps", ((1, 90_000),)),
        Kind("deaf", "it takes longer, and hears no cancellation", ((1, 90_000),)),
        Kind("crash", "its process dies in the middle of it"),
        Kind("too_much", "it returns more than a value may have", may_change=True),
        Kind("wrong_type", "it returns what its annotation does not allow", may_change=True),
    ),
    "report": (
        Kind("crash", "it has done its work, and its process dies before anybody knows"),
        Kind("twice", "its outcome is told twice"),
        Kind("late", "its outcome is told later", ((1, 5_000),)),
    ),
    # --- choices of a test, within the range that it gives; no faults
    "after": (Kind(DELAY, "so long does a client wait", ()),),
    "takes": (Kind(DELAY, "so long does the attempt of a stub take", ()),),
    # --- of a workflow, at each commit that touches it
    "touched": (
        Kind("cancel", "a client cancels it", may_change=True),
        Kind("restart", "a client cancels it, and has it go on where it was", may_change=True),
        Kind(
            "rerun",
            "a client cancels it, and has it run again from its first step",
            may_change=True,
        ),
        Kind("cleanup", "a client deletes it, though it runs", may_change=True),
        Kind("evict", "its live handler is dropped after this turn, and no other"),
    ),
    # --- of the world: settings, for the whole of a run
    "batch": (Kind("one", "a turn takes one message, and takes up one workflow"),),
    "cache": (Kind("none", "no live handler outlives its turn"),),
    "permits": (Kind("one", "one action runs at a time"),),
    "commits": (Kind("apart", "what runs functions gets a commit of its own, as on PostgreSQL"),),
}

#: The settings.
KNOBS = ("batch", "cache", "permits", "commits")

#: What is drawn: site to (kind, burst, duration in ms).
KINDS: dict[str, tuple[tuple[str, int, int], ...]] = {
    site: tuple((kind.name, *draw) for kind in kinds for draw in kind.draws)
    for site, kinds in SITES.items()
}

#: Kinds that are drawn at some places only: (actor, site) to the same.
MoreKinds: TypeAlias = Mapping[tuple[str, str], Sequence[tuple[str, int, int]]]

NO_MORE: MoreKinds = {}

#: Faults that may change how a workflow ends, whatever the scenario.
CHANGING = frozenset(kind.name for kinds in SITES.values() for kind in kinds if kind.may_change)

#: Troubles of the disk that last, and befall everybody: kind to the site at which it is met.
LASTING = {"disk_full": "commit", "read_only": "begin"}


def check(plan: FaultPlan) -> None:
    """Refuse a plan that names what cannot happen.

    Raises:
        PlanError: the message says what can.
    """
    for fault in plan:
        kinds = SITES.get(fault.site)
        if kinds is None:
            raise PlanError(f"{fault}: no site {fault.site!r}; there are {', '.join(SITES)}")
        if fault.kind not in [kind.name for kind in kinds]:
            can = "; ".join(f"{kind.name} ({kind.about})" for kind in kinds)
            raise PlanError(f"{fault}: at {fault.site!r} there is no {fault.kind!r}, but {can}")
