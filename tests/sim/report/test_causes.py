"""What led to a failure: which lines are kept, which are left out, and that it is said."""

from __future__ import annotations

import pytest
from tests.sim.failing import failed, run_of

from perdure_sim.explore.explorer import Run
from perdure_sim.laws.violations import HotSpin, StaleWrite, TooManyAttempts, Violation
from perdure_sim.report.causes import Causes, Gap, Subject, causes_of, subject_of
from perdure_sim.report.commits import NO_NEWS, Part
from perdure_sim.report.telling import Line, tell
from perdure_sim.world.clock import START_MS
from perdure_sim.world.trace import EventKind


def causes(run: Run, failure: BaseException | None = None, most: int = 40) -> Causes:
    error = failure or run.failure
    assert error is not None
    return causes_of(tell(run.world.trace.events), error, most=most)


def shown(found: Causes) -> list[Line]:
    return [row for row in found.rows if isinstance(row, Line)]


def line(index: int, text: str, workflow_id: str | None = "a", kind: EventKind = "commit") -> Line:
    part = Part(workflow_id=workflow_id, text=text, steps=(0,))
    return Line(index=index, at=START_MS + index, lane="w0", kind=kind, parts=(part,))


# --- what a failure is about ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failure", "workflows", "step"),
    [
        (TooManyAttempts("o1 step 3: 2 of 1"), ("o1",), 3),
        (StaleWrite("expected epoch 1, stored 2: of o0"), ("o0",), None),
        (Violation("o0 has ended, but not its step StepRecord(number=2, …)"), ("o0",), 2),
        (AssertionError("o1 and o0 differ"), ("o1", "o0"), None),
        (AssertionError("xo1, o10, o1@7, o1/2 are others"), ("o0", "o1"), None),
        (ValueError("nothing"), ("o0", "o1"), None),
    ],
)
def test_a_message_says_whom_it_is_about(
    failure: BaseException, workflows: tuple[str, ...], step: int | None
) -> None:
    """A law is about the workflow that it names first; a check about all that it names, or all."""
    lines = tell(run_of("reference").world.trace.events)
    assert subject_of(lines, failure) == Subject(workflows=workflows, step=step)


def test_a_law_may_say_itself_whom_it_is_about() -> None:
    """Then its message is not looked at."""
    failure = Violation("o0 is named, but it is about another one")
    failure.workflow_id, failure.step = "o1", 4
    lines = tell(run_of("reference").world.trace.events)
    assert subject_of(lines, failure) == Subject(workflows=("o1",), step=4)


def test_a_law_that_names_no_workflow_is_about_what_was_written() -> None:
    """Events are named by ids of their own; the commit that breaks the law says whose they are."""
    run = failed("events", "", "of two events")
    assert str(run.failure) == "c0.1.5 was consumed before c0.1.1, sent earlier"
    assert causes(run).subject == Subject(workflows=("l",))


def test_a_run_that_runs_hot_is_about_who_is_busy_at_its_end() -> None:
    """The workflow of most of the last lines."""
    lines = [line(n, "x", "b" if n < 300 else "a") for n in range(450)]
    assert subject_of(lines, HotSpin("hot")).workflows == ("a",)


# --- the two facts --------------------------------------------------------------------------------


def test_the_two_facts_are_the_last_ones_about_the_same_step() -> None:
    """One attempt was all that is allowed; then there is a second one."""
    facts = causes(failed("race", "pd1:once/attempt#1=raises", "one attempt too")).facts
    assert [each.text for each in facts] == [
        "r: step 3 once: attempt 1 is over without success, the next one is due at +7.580s",
        "r: step 3 once: attempt 2 is to run in w0",
    ]


def test_the_earlier_fact_is_where_what_the_message_names_came_from() -> None:
    """The event that should have been consumed first, when it was sent."""
    first, last = causes(failed("events", "", "of two events")).facts
    assert "event word is sent (1) as c0.1.1" in first.text
    assert "gets event c0.1.5: 5" in last.text


def test_what_is_found_at_the_end_has_no_two_facts() -> None:
    """Nothing was written at the moment at which it is found."""
    assert causes(failed("reference", "", "a parked workflow")).facts == ()


# --- which lines ----------------------------------------------------------------------------------


def test_events_of_other_workflows_are_left_out_and_counted() -> None:
    """Of two orders that have nothing to do with each other, one is shown."""
    run = failed("reference", "pd1:w0/commit#6=fails", "messages of a failed")
    found = causes(run, Violation("o1 is wrong"))
    assert {each for row in shown(found) for each in row.workflows} == {"o1"}
    assert found.related == ("o1",)
    assert found.shown == len(shown(found)) < found.total
    kinds = {row.kind for row in shown(found)}
    assert "fault" in kinds
    assert not kinds & {"turn", "border", "wake", "timer"}


def test_a_long_gap_says_how_much_is_missing() -> None:
    """Of its own, and of others; a short one says nothing."""
    lines = [
        line(0, "begins"),
        *(line(n, "x", "b") for n in range(1, 5)),
        line(5, "goes on"),
        line(6, "x", "b"),
        line(7, "ends"),
    ]
    rows = causes_of(lines, Violation("a is wrong")).rows
    assert [row.index if isinstance(row, Line) else row.text for row in rows] == [
        *(0, "… 4 events of other workflows", 5, 7)
    ]


def test_no_more_rows_than_asked_for() -> None:
    """The begin, the faults and the end stay; the middle goes."""
    run = failed("fans", "pd1:w0/carried_out#1=crash", "ready steps")
    everything = shown(causes(run))
    for most in (12, 6, 3):
        found = causes(run, most=most)
        assert len(found.rows) <= most
        assert shown(found)[-1].index == everything[-1].index
    kinds = [row.kind for row in shown(causes(run, most=12))]
    assert {"fault", "crash", "boot"} <= set(kinds)
    gaps = [row for row in causes(run, most=12).rows if isinstance(row, Gap)]
    assert sum(gap.own for gap in gaps) > 0


def test_parents_and_children_belong_to_it() -> None:
    """From a leaf up to its tree, from a tree down to its leaves; not to the other tree."""
    run = run_of("trees")
    leaf = causes(run, Violation("kept/1@2004 is wrong"))
    assert leaf.related == ("kept/1@2004", "kept")
    tree = causes(run, Violation("felled is wrong"))
    assert tree.related == ("felled", *(f"felled/{n}@2003" for n in range(3)))
    assert not any(row.touches("kept") for row in shown(tree))


def test_who_has_meddled_belongs_to_it() -> None:
    """A follower was sent an event by another workflow's mutation."""
    assert "leader" in causes(run_of("leaders"), Violation("f is wrong")).related


def test_a_commit_without_news_is_left_out() -> None:
    """A row is often written again as it was; unless that is what runs hot."""
    lines = [line(0, "begins"), line(1, NO_NEWS), line(2, "ends")]
    assert [row.index for row in shown(causes_of(lines, Violation("a")))] == [0, 2]
    assert [row.index for row in shown(causes_of(lines, HotSpin("hot")))] == [0, 1, 2]


def test_what_repeats_is_shown_once() -> None:
    """With how often it comes again; times and epochs may differ."""
    cycle = [("w0 takes it up (epoch {})", "is put aside until +{}s")[n % 2] for n in range(2_000)]
    lines = [
        line(0, "begins"),
        *(line(n, text.format(n), "a") for n, text in enumerate(cycle, start=1)),
        line(2_001, "ends"),
    ]
    rows = causes_of(lines, HotSpin("hot")).rows
    assert [row.index if isinstance(row, Line) else row.text for row in rows] == [
        *(0, 1, 2, "… the last 2 again, 999 times more", 2_001)
    ]


def test_of_many_faults_those_are_shown_that_befell_it() -> None:
    """A plan that was not shrunk: the others fired where something else was done."""
    near = [line(n, "fault", None, "fault") for n in range(1, 3)]
    far = [
        Line(index=n, at=START_MS, lane="w1", kind="fault", parts=line(n, "fault", None).parts)
        for n in range(3, 20)
    ]
    lines = [line(1, "begins"), *near[:1], *far, line(30, "ends")]
    kept = [row.index for row in shown(causes_of(lines, Violation("a is wrong")))]
    assert kept.count(1) == 2
    assert not set(kept) & set(range(3, 20))
