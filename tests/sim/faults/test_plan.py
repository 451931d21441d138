"""Plans: their text, and what the injector makes of them."""

from __future__ import annotations

import pytest

from perdure_sim.faults.plan import Fault, FaultPlan, Injector, PlanError, is_actor

TEXT = "pd1:charge/attempt#1=raises*3;w0/commit#3=lost_ack;w1/decided#2=pause:40s"


def test_a_plan_is_read_from_its_text_and_written_again() -> None:
    """Sorted by place; an occurrence, a burst and a duration where there is one."""
    plan = FaultPlan.parse(TEXT)
    assert plan.faults == (
        Fault("charge", "attempt", 1, "raises", burst=3),
        Fault("w0", "commit", 3, "lost_ack"),
        Fault("w1", "decided", 2, "pause", duration=40_000),
    )
    assert str(plan) == TEXT
    assert FaultPlan(reversed(plan.faults)) == plan


def test_a_fault_may_be_addressed_to_a_child() -> None:
    """Whose id has a slash in it."""
    (fault,) = FaultPlan.parse("pd1:kept/1/touched#2=cancel")
    assert fault == Fault("kept/1", "touched", 2, "cancel")
    assert [is_actor(name) for name in ("kept/1", "a b", "a;b", "a#1", "a=b", "")] == [
        True,
        *[False] * 5,
    ]


@pytest.mark.parametrize("text", ["", "  ", "pd1:", "pd1:;"])
def test_an_empty_plan_is_the_run_in_which_nothing_goes_wrong(text: str) -> None:
    """Its text is empty."""
    plan = FaultPlan.parse(text)
    assert (len(plan), str(plan)) == (0, "")


@pytest.mark.parametrize(
    ("ms", "shown"), [(1, "1ms"), (1_500, "1500ms"), (60_000, "1m"), (7_200_000, "2h")]
)
def test_a_duration_is_shown_in_its_largest_whole_unit(ms: int, shown: str) -> None:
    """And read again as the same number."""
    text = f"pd1:w0/told#1=pause:{shown}"
    assert str(FaultPlan([Fault("w0", "told", 1, "pause", duration=ms)])) == text
    assert FaultPlan.parse(text).faults[0].duration == ms


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("w0/commit#3=lost_ack", "begins with 'pd1:'"),
        ("pd1:w0/commit=lost_ack", "'w0/commit=lost_ack' is no fault"),
        ("pd1:w0/commit#0=lost_ack", "'w0/commit#0=lost_ack' is no fault"),
        ("pd1:w0/commit#1=lost_ack*0", "is no fault"),
        ("pd1:w0/commit#1=pause:4y", "is no fault"),
        ("pd1:w0/commit#1=fails;w0/commit#1=full", "2 faults at w0/commit#1"),
    ],
)
def test_what_is_no_plan_is_refused(text: str, shown: str) -> None:
    """The message shows the part that is wrong."""
    with pytest.raises(PlanError) as caught:
        FaultPlan.parse(text)
    assert shown in str(caught.value)


def test_a_fault_happens_at_its_occurrence_and_for_its_burst() -> None:
    """At no other passing, and to nobody else."""
    injector = Injector(FaultPlan.parse("pd1:w0/commit#2=fails*2"))
    kinds = [fault and fault.kind for fault in (injector.at("w0", "commit") for _ in range(5))]
    assert kinds == [None, "fails", "fails", None, None]
    assert injector.at("w1", "commit") is None
    assert [str(fault) for fault in injector.fired] == ["w0/commit#2=fails*2"]
    assert injector.census == {("w0", "commit"): 5, ("w1", "commit"): 1}


def test_when_all_is_healed_nothing_goes_wrong() -> None:
    """The passings are not counted any more, and what did not happen has not fired."""
    injector = Injector(FaultPlan.parse("pd1:w0/commit#1=fails"))
    injector.is_healed = True
    assert injector.at("w0", "commit") is None
    assert (injector.fired, injector.census) == ([], {})


def test_a_plan_without_one_fault_keeps_the_others() -> None:
    """What is left means what it meant."""
    plan = FaultPlan.parse(TEXT)
    assert str(plan.without(plan.faults[1])) == (
        "pd1:charge/attempt#1=raises*3;w1/decided#2=pause:40s"
    )
