"""A check: what it finds in changed code, that it sees clocks, and that it changes nothing.

Orders are run by `recorded.first_release` up to their decision; then other code meets them.
"""

# Clocks and dice stand here to be found; what is polled is another process's.
# ruff: noqa: ASYNC110, TID251

from __future__ import annotations

import asyncio
import sqlite3
import sys
import time
import uuid
import warnings
from pathlib import Path
from typing import Any

import pytest
from tests.recorded import (
    Define,
    check,
    decision,
    first_release,
    functions,
    journal_of,
    manager_of,
    nothing,
    only,
    record,
    waits_first,
)

from perdure import (
    ActionContext,
    CheckedWorkflow,
    CheckReport,
    MutationContext,
    Step,
    Workflow,
    WorkflowManager,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "app.db"


# --- releases


def asks_for_more(manager: WorkflowManager) -> None:
    """What is recorded is as it was; what comes after it has changed."""
    note, price = functions(manager)

    @manager.workflow
    async def order(step: Step, user: str, count: int = 1) -> str:
        await step.run_mutation(note(user))
        await step.run_action(price(count))
        thanks = step.run_mutation(note("thanks"))
        answer = await step.await_event(decision)
        await thanks
        return answer


def other_price(manager: WorkflowManager) -> None:
    """The action gives another type."""

    @manager.mutation
    def note(ctx: MutationContext, text: str) -> str:
        return text

    @manager.action
    async def price(ctx: ActionContext, count: int) -> str:
        return str(count)

    @manager.workflow
    async def order(step: Step, user: str, count: int = 1) -> str:
        await step.run_mutation(note(user))
        await step.run_action(price(count))
        return await step.await_event(decision)


def other_arguments(manager: WorkflowManager) -> None:
    """The workflow takes a number for a user."""

    @manager.workflow
    async def order(step: Step, user: int, count: int = 1) -> str:
        return await step.await_event(decision)


def ends_early(manager: WorkflowManager) -> None:
    """The handler returns before the journal ends."""
    note, _ = functions(manager)

    @manager.workflow
    async def order(step: Step, user: str, count: int = 1) -> str:
        await step.run_mutation(note(user))
        return "done"


def spins(manager: WorkflowManager) -> None:
    """The handler does not come to rest."""

    @manager.workflow
    async def order(step: Step, user: str, count: int = 1) -> str:
        while True:
            await asyncio.sleep(0)


# --- what it finds


def test_code_that_fits_is_told_with_what_it_does_next(path: Path) -> None:
    """All unfinished workflows are replayed, and each is told to the caller as it comes."""
    record(path, "ann", "bob")
    seen: list[CheckedWorkflow] = []
    report = check(first_release, path, progress=seen.append)
    assert report == CheckReport(checked={"order": 2}, violations=())
    assert report.is_ok
    assert [each.workflow_id for each in seen] == ["ann", "bob"]
    assert seen[0].facts == 3
    assert seen[0].next == ("waits for step 2: event decision",)


def test_new_steps_at_the_end_fit(path: Path) -> None:
    """What the journal does not have yet may change; it is told."""
    record(path, "ann")
    seen: list[CheckedWorkflow] = []
    assert check(asks_for_more, path, progress=seen.append).is_ok
    assert seen[0].next[0].startswith("asks for mutation note ")


def test_a_step_before_recorded_ones_is_told_with_both_sides(path: Path) -> None:
    """The report names the workflow, the step, and what stands on either side."""
    record(path, "ann")
    violation = only(check(waits_first, path))
    assert (violation.kind, violation.workflow_id, violation.name) == ("differs", "ann", "order")
    assert (violation.step, violation.step_name, violation.position) == (0, "note", 0)
    assert violation.recorded == ('step 0: mutation note {"text":"ann"}',)
    assert violation.asked == ('mutation note {"text":"new"}',)
    assert "recorded, not asked for: step 0" in violation.message


@pytest.mark.parametrize(
    ("define", "kind", "step", "text"),
    [
        (other_price, "value", 1, "no longer fits its type"),
        (other_arguments, "value", None, "user"),
        (nothing, "undefined", None, "no workflow 'order' here"),
        (ends_early, "differs", 1, "the handler ended, but the journal goes on"),
        (spins, "stuck", None, "100000"),
    ],
)
def test_each_way_not_to_fit_has_its_kind(
    define: Define, kind: str, step: int | None, text: str, path: Path
) -> None:
    """A value, a name, an end: each is told apart."""
    record(path, "ann")
    violation = only(check(define, path))
    assert (violation.kind, violation.step) == (kind, step)
    assert text in violation.message


def test_what_has_not_begun_is_begun_in_the_check_only(path: Path) -> None:
    """A workflow that waits for its first turn is run up to its first steps, in memory."""
    manager = manager_of(first_release, path)
    order = manager.registry.get("order")
    assert isinstance(order, Workflow)

    async def start() -> None:
        async with manager.client():
            await manager.start(order("ann"), id="ann")

    asyncio.run(start())
    seen: list[CheckedWorkflow] = []
    assert check(first_release, path, progress=seen.append).is_ok
    assert seen[0].next == ('asks for mutation note {"text":"ann"}',)
    assert only(check(other_arguments, path)).kind == "value"
    assert len(list(journal_of(path, "ann").lines())) == 1


def test_a_function_that_is_still_to_run_must_be_defined(path: Path) -> None:
    """A step that was asked for and not run waits for a function that nobody has any more."""

    def with_child(manager: WorkflowManager) -> None:
        @manager.workflow
        async def child(step: Step) -> str:
            return await step.await_event(decision)

        @manager.mutation
        def ended(ctx: MutationContext, workflow_id: str, outcome: Any) -> None: ...

        parent(manager, child, ended)

    def parent(manager: WorkflowManager, child: Any, ended: Any) -> None:
        @manager.workflow
        async def order(step: Step, user: str) -> Any:
            waiting = step.await_event(decision)
            await step.run_workflow(child())
            return await waiting

    def without(manager: WorkflowManager) -> None:
        gone = WorkflowManager(":memory:")
        with_child(gone)
        parent(manager, gone.registry.get("child"), None)

    manager = manager_of(with_child, path)

    async def start() -> None:
        async with manager:
            order: Any = manager.registry.get("order")
            ended: Any = manager.registry.get("ended")
            await manager.start(order("ann"), id="ann", on_complete=ended)
            async with asyncio.timeout(30):
                await _wait_for_child(manager)

    asyncio.run(start())
    assert check(with_child, path).is_ok
    messages = [violation.message for violation in check(without, path, name="order").violations]
    assert any("workflow 'child' of step 1 is not defined here" in each for each in messages)
    assert any("on_complete 'ended' is no mutation here" in each for each in messages)


async def _wait_for_child(manager: WorkflowManager) -> None:
    while not await _child_waits(manager):
        await asyncio.sleep(0)


async def _child_waits(manager: WorkflowManager) -> bool:
    items = (await manager.list_workflows(name="child")).items
    if not items:
        return False
    status = await manager.status(items[0].workflow_id)
    return status.kind == "in_progress" and bool(status.running)


def test_a_blocked_workflow_is_checked_and_told_when_it_fits_again(path: Path) -> None:
    """The code that is checked, not the one that blocked it, decides."""
    record(path, "ann")
    with sqlite3.connect(path) as connection:
        blocked = '{"error":{"type":"E","message":"m"},"count":1,"retry_at":1}'
        connection.execute("UPDATE perdure_workflows SET blocked = ?", (blocked,))
    connection.close()
    report = check(first_release, path)
    assert report.is_ok
    assert report.unblocked == 1
    assert check(waits_first, path).unblocked == 0


# --- the outside


def helper() -> float:
    return time.time()


def reads_in_a_helper(manager: WorkflowManager) -> None:
    note, price = functions(manager)

    @manager.workflow
    async def order(step: Step, user: str, count: int = 1) -> str:
        await step.run_mutation(note(user))
        helper()
        await step.run_action(price(count))
        return await step.await_event(decision)


def rolls_dice(manager: WorkflowManager) -> None:
    note, _ = functions(manager)

    @manager.workflow
    async def never_started(step: Step) -> None:
        await step.run_mutation(note(str(uuid.uuid4())))


def test_a_clock_that_a_helper_reads_is_found(path: Path) -> None:
    """It changes nothing in this journal, and will one day: so it is a violation, once."""
    record(path, "ann", "bob")
    violation = only(check(reads_in_a_helper, path))
    assert (violation.kind, violation.name, violation.workflow_id) == ("outside", "order", "ann")
    assert violation.message.startswith("time.time at ")
    assert violation.message.endswith("Instead: use step.now()")
    line = helper.__code__.co_firstlineno + 1
    assert violation.place is not None
    assert violation.place.endswith(f"test_checking.py:{line}")


def test_dice_that_stand_in_the_code_are_found_without_a_journal() -> None:
    """Also in a workflow that nobody has started yet."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        manager = manager_of(rolls_dice)
    violation = only(manager.check_journals([]))
    assert (violation.kind, violation.name, violation.workflow_id) == (
        "outside",
        "never_started",
        None,
    )
    assert "uuid.uuid4" in violation.message


def test_a_profiler_that_hides_clocks_is_told(path: Path) -> None:
    """The report says that it was half blind."""
    record(path, "ann")
    journal = journal_of(path, "ann")
    manager = manager_of(reads_in_a_helper)
    sys.setprofile(lambda frame, event, called: None)
    try:
        report = manager.check_journals([journal])
    finally:
        sys.setprofile(None)
    assert report.is_ok
    assert not report.saw_clocks


def test_journals_are_checked_without_a_store(path: Path) -> None:
    """Ended ones too: they must come to the same end."""
    record(path, "ann")
    first, changed = manager_of(first_release, path), manager_of(ends_like_another)
    order = asyncio.run(_end(first))
    assert order.info.status.kind == "success"
    assert first.check_journals([order]).is_ok
    violation = only(changed.check_journals([order]))
    assert violation.message == 'it ends with success, "no"; recorded is success, "yes"'


def ends_like_another(manager: WorkflowManager) -> None:
    note, price = functions(manager)

    @manager.workflow
    async def order(step: Step, user: str, count: int = 1) -> str:
        await step.run_mutation(note(user))
        cents = await step.run_action(price(count))
        answer = await step.await_event(decision)
        await step.run_mutation(note(f"{answer} {cents}"))
        return "no"


async def _end(manager: WorkflowManager) -> Any:
    async with manager:
        await manager.send_event(decision, workflow_id="ann", value="yes")
        await manager.result("ann", timeout=30)
        return await manager.journal("ann")
