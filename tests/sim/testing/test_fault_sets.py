"""The sets of faults."""

from __future__ import annotations

import pytest

from perdure_sim import (
    ACTION,
    ALL,
    BAD_RESULTS,
    CANCEL,
    CLEANUP,
    CLOCK,
    CRASH,
    DEPLOY,
    DISK,
    NETWORK,
    NONE,
    PAUSE,
    RESTART,
    SMALL,
    FaultSet,
)
from perdure_sim.faults.plan import FaultPlan
from perdure_sim.testing.fault_sets import EVERY_KIND

PARTS = (CRASH, PAUSE, DISK, NETWORK, CLOCK, ACTION, DEPLOY, SMALL)


def test_all_and_the_extra_sets_have_every_kind_once() -> None:
    """A new kind of fault must be put into one."""
    sets = (*PARTS, CANCEL, RESTART, CLEANUP, BAD_RESULTS)
    assert sum(map(len, sets)) == len(EVERY_KIND)
    assert (ALL | CANCEL | RESTART | CLEANUP | BAD_RESULTS).kinds == EVERY_KIND
    assert len(NONE) == 0


def test_kinds_are_taken_away_and_added() -> None:
    """By their names, at all sites or at one."""
    assert "raises" in ALL
    assert "raises" not in ALL - {"raises"}
    assert "turn=crash" not in CRASH - {"crash"}
    assert "commit=crash_after" in CRASH - {"crash"}
    assert list(NONE | {"attempt=slow"}) == ["attempt=slow"]
    assert (CRASH & {"turn=crash", "attempt=slow"}) == FaultSet.of("turn=crash")
    assert set(FaultSet.of(["lost_ack", "stall"])) == {
        "commit=lost_ack",
        "begin=stall",
        "read=stall",
    }


def test_a_name_that_nothing_has() -> None:
    """The message tells those that there are."""
    with pytest.raises(ValueError, match=r"no kind 'explodes'; there are: .*lost_ack"):
        ALL - {"explodes"}
    with pytest.raises(TypeError, match="give the name"):
        FaultSet.of([7])  # type: ignore[list-item]


def test_what_is_no_set_of_names() -> None:
    """None could mean none, or what is usual: the message says how to write none."""
    with pytest.raises(TypeError, match=r"faults=None: .* or \(\) for none"):
        FaultSet.of(None)  # type: ignore[arg-type]


def test_a_plan_is_cut_to_a_set() -> None:
    """Choices of time are no faults, and stay."""
    plan = FaultPlan.parse("pd1:w0/turn#1=crash;w0/turn#2=jump;client/after#1=37s")
    assert str(CRASH.cut(plan)) == "pd1:client/after#1=37s;w0/turn#1=crash"
