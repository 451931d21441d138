"""Reports of failed runs: that each says what is wrong, and how to see it again."""

from __future__ import annotations

import logging
import re

import pytest
from tests.sim.failing import failed, run_of

from perdure.step import Step
from perdure_sim.explore.explorer import Explorer, Scenario, run
from perdure_sim.faults.plan import FaultPlan
from perdure_sim.laws.violations import HotSpin
from perdure_sim.report.report import explain, report_of
from perdure_sim.world.disks import memory_disk
from perdure_sim.world.world import World

from ..scenes import d, order

#: Scenario, plan, planted bug, and what the report has to say about it.
TOLD: dict[str, tuple[str, str, str, tuple[str, ...]]] = {
    "attempts of a lost commit": (
        "reference",
        "pd1:w0/commit#3=lost_ack*3",
        "attempts of a commit that was stored",
        (
            "Stuck: Nothing can move any more",
            "attempt 1 of step 0 charge does not run in w0, though it is recorded: it never began",
            "is stored, but w0 is told that it failed",
        ),
    ),
    "messages forgotten": (
        "reference",
        "pd1:w0/commit#6=fails",
        "messages of a failed turn",
        (
            "though it is recorded: its code has run, and the outcome was lost",
            "o0: step 0, attempt 1: charge returned 0",
            "w0/commit#6=fails: the 6th commit of w0 fails, and nothing of it is stored",
        ),
    ),
    "timers forgotten": (
        "reference",
        "pd1:charge/attempt#4=raises*3",
        "timers are not derived",
        ("has no timer for step 1 charge", "charge/attempt#4=raises*3 again, 3 of 3"),
    ),
    "no wake time": (
        "reference",
        "",
        "a parked workflow",
        (
            "No fault is needed for it: it fails by itself.",
            "→ nobody owns it, and nobody will take it up: it is due at +15.020s, but the time at",
            "asks for step 4: sleep until +15.020s; is put aside until something comes for it",
        ),
    ),
    "one attempt too many": (
        "race",
        "pd1:once/attempt#1=raises",
        "one attempt too many",
        (
            "TooManyAttempts: More attempts were recorded than the policy allows",
            "② r: step 3 once: attempt 2 is to run in w0",
            "■ here TooManyAttempts is broken",
        ),
    ),
    "key changes": (
        "reference",
        "pd1:w0/carried_out#1=zombie:40s",
        "the idempotency key",
        (
            "KeyChanged:",
            "✗ the others take w0 for dead, though it lives",
            "o0: its owner w0 is dead; anybody may take it up now",
            "② o0: step 0, attempt 2: charge(0) begins to run",
        ),
    ),
    "the dead": (
        "reference",
        "pd1:w0/carried_out#1=crash",
        "the dead are not buried",
        (
            "→ its owner is dead, and no other worker has noticed: so nobody takes it up",
            "╳ w0 dies, and all that was only in its memory is lost",
            "owner an earlier life of w0",
        ),
    ),
    "order of events": (
        "events",
        "",
        "of two events the later one",
        (
            "c0.1.5 was consumed before c0.1.1, sent earlier",
            "① +5.000s c0 l: event word is sent (1) as c0.1.1",
            "l: step 0 (wait for word) gets event c0.1.5: 5",
        ),
    ),
    "actors kept": (
        "reference",
        "pd1:w0/commit#8=fails*3",
        "after a failed commit",
        (
            "FailedByEngine: A workflow failed by a fault of the engine's own.",
            "o0: perdure itself failed 2 times over this workflow: see its log",
            "≡ logs: workflow o0: a fault of perdure's; please report it",
        ),
    ),
    "open steps": (
        "trees",
        "",
        "open steps stay open",
        (
            "felled has ended, but not its step StepRecord(number=0, command=RunChild(name='leaf',",
            "② +16m 40s c0 felled: epoch 2011; it ends: it was canceled",
            "felled/0@2003: is started as leaf(seconds=10000), a child of felled; owned by w0",
        ),
    ),
}


def flat(text: str) -> str:
    """The words, without the lanes left of them and the ends of lines between them."""
    return re.sub(r"[\s│╎]+", " ", text)


@pytest.mark.parametrize("name", sorted(TOLD))
def test_a_planted_bug_can_be_read_from_its_report(name: str) -> None:
    """The law, the facts, the fault and the end of the story; in 100 columns and some 40 rows."""
    scenario, plan, mutant, expected = TOLD[name]
    text = explain(failed(scenario, plan, mutant), target="a.b:C")
    for words in expected:
        assert words in flat(text), f"{words!r} is missing in\n{text}"
    assert f"perdure-sim replay a.b:C '{plan}'" in text
    rows = text.splitlines()
    assert max(map(len, rows)) <= 100
    assert "20000000" not in text


def test_the_printed_plan_does_it_again() -> None:
    """What did not fire is left out of it, and is named."""
    plan = "pd1:once/attempt#1=raises;w0/commit#400=fails;w1/turn#77=evict"
    found = failed("race", plan, "one attempt too many")
    report = report_of(found)
    assert str(report.plan) == "pd1:once/attempt#1=raises"
    assert [str(fault) for fault in report.idle] == ["w0/commit#400=fails", "w1/turn#77=evict"]
    assert "left out  w0/commit#400=fails, w1/turn#77=evict: did not fire" in explain(found)
    again = failed("race", str(report.plan), "one attempt too many")
    assert again.world.trace.digest() == found.world.trace.digest()


def test_a_run_without_detail_is_told_as_well() -> None:
    """With fewer lines, for nobody had asked for more."""
    plan, mutant = "pd1:once/attempt#1=raises", "one attempt too many"
    text = explain(failed("race", plan, mutant, detail=False))
    assert "② r: step 3 once: attempt 2 is to run in w0" in text
    assert "once/attempt#1=raises: the 1st attempt of once raises" in text
    assert "its code is to look" not in text


@d.workflow
async def restless(step: Step) -> None:
    while True:
        await step.sleep(0.01)


def test_a_run_that_runs_hot_is_told_by_what_it_repeats() -> None:
    """Once, and how often."""

    def stop() -> None:
        raise HotSpin("enough")

    def script(world: World) -> None:
        world.start(restless(), id="hot")
        world.start(order(1), id="o")
        world.after(2_000, stop)

    found = run(Scenario(name="h", definer=d, script=script), FaultPlan(), memory_disk, detail=True)
    text = explain(found)
    assert text.startswith("HotSpin: Events follow each other without end.\n\n    enough\n")
    assert "those that have to do with hot" in text
    rows = text.splitlines()
    assert len(rows) < 30
    assert any(re.search(r"… the last one again, [1-9][0-9]+ times more", row) for row in rows)


def test_a_run_that_did_not_fail_has_nothing_to_tell() -> None:
    """It says so."""
    with pytest.raises(ValueError, match="the run of race did not fail"):
        report_of(run_of("race"))


def test_a_check_of_the_scenario_is_told_as_one() -> None:
    """It is no law of the engine's."""

    def check(world: World) -> None:
        assert world.now < 0, "time has passed"

    scenario = Scenario(name="c", definer=d, script=lambda world: None, check=check)
    text = explain(run(scenario, FaultPlan(), memory_disk, detail=True))
    assert text.startswith(
        "AssertionError: The check of the scenario found something else than it expects.\n"
    )
    assert "time has passed" in text
    assert "here the run ends: AssertionError" in text


def test_an_exception_out_of_the_engine_is_told_with_its_place() -> None:
    """The innermost lines of code."""

    def script(world: World) -> None:
        world.start(order(1), id="x" * 1_000)

    found = run(Scenario(name="c", definer=d, script=script), FaultPlan(), memory_disk, detail=True)
    assert found.failure is None  # the client is told, and that is all

    def worse(world: World) -> None:
        world.client.engine.store.inner.reader().load(7)  # type: ignore[attr-defined]

    found = run(Scenario(name="c", definer=d, script=worse), FaultPlan(), memory_disk, detail=True)
    text = explain(found)
    assert text.startswith("TypeError: An exception that nobody expected")


def test_looking_at_a_run_leaves_no_trace_in_logging() -> None:
    """What listens to the engine is taken away again."""
    before = list(logging.getLogger("perdure").handlers)
    Explorer(Scenario(name="c", definer=d, script=lambda world: None), memory_disk).try_plan(
        FaultPlan(), detail=True
    )
    assert logging.getLogger("perdure").handlers == before
