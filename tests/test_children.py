"""Workflows that run workflows: options, results, failures and cancels, down the whole tree.

A manager over a file is run until nothing is left to do, so no test waits for a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.managers import LONG, make

from perdure import (
    ActionContext,
    DefinitionError,
    Step,
    StepCanceled,
    StepFailed,
    WorkflowFailed,
    WorkflowInfo,
    WorkflowManager,
)

Body = Callable[[Step, "App"], Awaitable[Any]]


class App:
    """A manager, and workflows that are used as children."""

    def __init__(self, address: str, body: Body | None = None) -> None:
        manager = self.manager = make(address)
        self.sync = manager.sync
        self.began: list[str] = []

        @manager.action
        async def hang(ctx: ActionContext) -> None:
            await asyncio.get_running_loop().create_future()

        @manager.action
        async def tell_and_hang(ctx: ActionContext) -> None:
            await ctx.send_event("hangs", workflow_id="parent")
            await asyncio.get_running_loop().create_future()

        @manager.workflow
        async def scripted(step: Step) -> Any:
            assert body is not None
            return await body(step, self)

        @manager.workflow
        async def leaf(step: Step, value: int) -> int:
            self.began.append(step.workflow_id)
            return value + 1

        @manager.workflow
        async def waiter(step: Step) -> Any:
            return await step.await_event("go")

        @manager.workflow
        async def when(step: Step) -> datetime:
            return step.now()

        @manager.workflow
        async def deep(step: Step, levels: int, last: str) -> Any:
            """As many levels below as are told, and at the bottom a deed."""
            if levels:
                return [levels, await step.run_workflow(deep(levels - 1, last))]
            match last:
                case "fail":
                    raise ValueError("at the bottom")
                case "wait":
                    return await step.await_event("go")
                case "hang":
                    await step.run_action(hang())
                case "tell and hang":
                    await step.run_action(tell_and_hang())
            return "bottom"

        self.hang: Any = hang
        self.scripted: Any = scripted
        self.leaf: Any = leaf
        self.waiter: Any = waiter
        self.when: Any = when
        self.deep: Any = deep

    def start(self, call: Any, **options: Any) -> None:
        """Start it as a client, and run until nothing is left to do."""
        self.sync.start(call, **options)
        self.run()

    def run(self) -> None:
        """Run until nothing is left to do."""
        self.sync.close()
        self.manager.run(until_idle=True)

    def infos(self) -> dict[str, WorkflowInfo]:
        """All workflows, by id."""
        return {info.workflow_id: info for info in self.sync.list_workflows()}

    def statuses(self) -> list[str]:
        """In the order of their creation."""
        return [info.status.kind for info in self.sync.list_workflows()]


def play(address: str, body: Body) -> tuple[Any, App]:
    """What the workflow "parent" with this body returns."""
    app = App(address, body)
    app.start(app.scripted(), id="parent")
    return app.sync.result("parent", timeout=LONG), app


# --- results and failures


def test_results_come_up_through_five_levels(address: str) -> None:
    """Each level gets the value of the one below; each is a workflow of its own, with a parent."""
    app = App(address)
    app.start(app.deep(4, "end"), id="top")
    assert app.sync.result("top", timeout=LONG) == [4, [3, [2, [1, "bottom"]]]]
    infos = app.sync.list_workflows()
    assert [info.status.kind for info in infos] == ["success"] * 5
    assert [info.parent_id for info in infos] == [None, *(i.workflow_id for i in infos.items[:-1])]
    app.sync.close()


def test_a_failure_comes_up_through_all_levels(address: str) -> None:
    """It fails each level that does not catch it, and says at each what failed below."""
    app = App(address)
    app.start(app.deep(3, "fail"), id="top")
    with pytest.raises(WorkflowFailed, match="at the bottom"):
        app.sync.result("top", timeout=LONG)
    assert app.statuses() == ["failed"] * 4
    app.sync.close()


def test_a_parent_may_catch_a_failure_from_below(address: str) -> None:
    """As StepFailed, and go on."""

    async def body(step: Step, app: App) -> Any:
        try:
            await step.run_workflow(app.deep(2, "fail"), name="risky")
        except StepFailed as error:
            return [error.step_name, "at the bottom" in str(error), error.attempts]

    value, app = play(address, body)
    assert value[:2] == ["risky", True]
    app.sync.close()


def test_children_side_by_side(address: str) -> None:
    """Ten children at once; their values in the order of the calls."""

    async def body(step: Step, app: App) -> Any:
        return await asyncio.gather(*[step.run_workflow(app.leaf(n)) for n in range(10)])

    value, app = play(address, body)
    assert value == list(range(1, 11))
    app.sync.close()


# --- options


def test_a_childs_name_is_its_own(address: str) -> None:
    """`name=` names the step of the parent; listings show the child under its workflow's name."""

    async def body(step: Step, app: App) -> Any:
        return await step.run_workflow(app.leaf(1), name="the first", workflow_id="child")

    _, app = play(address, body)
    assert app.infos()["child"].name == "leaf"
    assert [info.workflow_id for info in app.sync.list_workflows(name="leaf")] == ["child"]
    (step,) = app.sync.list_steps("parent")
    assert (step.name, step.kind, step.child_id) == ("the first", "workflow", "child")
    app.sync.close()


@pytest.mark.parametrize("option", ["run_after", "run_at"])
def test_a_delay_is_kept(option: str, address: str) -> None:
    """The child does not run before its time; the parent's step waits for as long."""

    async def body(step: Step, app: App) -> Any:
        due = step.now() + timedelta(seconds=0.05)
        delay: dict[str, Any] = {"run_after": 0.05} if option == "run_after" else {"run_at": due}
        at = await step.run_workflow(app.when(), **delay)
        return [at >= due, step.now() >= due]

    value, app = play(address, body)
    assert value == [True, True]
    app.sync.close()


def test_a_child_that_is_not_due_can_be_cancelled(address: str) -> None:
    """It never ran."""

    async def body(step: Step, app: App) -> Any:
        far = datetime(2100, 1, 1, tzinfo=UTC)
        later = step.run_workflow(app.leaf(1), run_at=far, workflow_id="later")
        await step.run_workflow(app.leaf(1), workflow_id="now")
        later.cancel()
        return "over"

    _, app = play(address, body)
    assert app.infos()["later"].status.kind == "canceled"
    assert app.began == ["now"]
    app.sync.close()


# --- ids


def test_an_id_that_is_taken_fails_the_step(address: str) -> None:
    """By another workflow, by the parent, or by its own sibling: who has it is left alone."""

    async def body(step: Step, app: App) -> Any:
        first = step.run_workflow(app.leaf(1), workflow_id="twin")
        several = [step.run_workflow(app.leaf(2), workflow_id=w) for w in ("twin", "old", "parent")]
        failures = await asyncio.gather(*several, return_exceptions=True)
        types = [each.error.type for each in failures if isinstance(each, StepFailed)]
        return [await first, *types]

    app = App(address, body)
    app.start(app.waiter(), id="old")
    app.start(app.scripted(), id="parent")
    value = app.sync.result("parent", timeout=LONG)
    assert value == [2, *["WorkflowIdConflict"] * 3]
    assert app.infos()["old"].status.kind == "in_progress"
    assert len(app.infos()) == 3
    app.sync.close()


def test_giving_up_a_second_child_of_one_id_leaves_the_first_alone(address: str) -> None:
    """The second is refused, or would be; cancelling its step is no cancel of its sibling."""

    async def body(step: Step, app: App) -> Any:
        first = step.run_workflow(app.leaf(1), workflow_id="twin")
        step.run_workflow(app.leaf(2), workflow_id="twin").cancel()
        return await first

    app = App(address, body)
    app.start(app.scripted(), id="parent")
    assert app.statuses() == ["success", "success"]
    assert app.sync.result("parent", timeout=LONG) == 2
    app.sync.close()


def test_a_foreign_workflow_is_refused_at_the_call(address: str) -> None:
    """One that this manager does not define; the handler may catch it."""
    stranger = WorkflowManager(":memory:")

    @stranger.workflow
    async def foreign(step: Step) -> None:
        pass

    async def body(step: Step, app: App) -> Any:
        with pytest.raises(DefinitionError, match="not registered"):
            step.run_workflow(foreign())
        return "caught"

    value, app = play(address, body)
    assert value == "caught"
    assert len(app.infos()) == 1
    app.sync.close()


def test_a_child_that_no_worker_knows_waits(address: str) -> None:
    """A worker without its definition leaves it alone; one that has it goes on with it."""

    async def body(step: Step, app: App) -> Any:
        far = datetime(2001, 1, 1, tzinfo=UTC)
        return [await step.run_workflow(app.leaf(1), run_at=far), await step.await_event("go")]

    app = App(address, body)
    other = make(address)  # it knows nothing
    app.sync.start(app.scripted(), id="parent")
    app.sync.start(app.waiter(), id="w")
    app.sync.close()
    other.run(until_idle=True)
    assert app.statuses() == ["in_progress", "in_progress"]
    app.sync.send_event("go", workflow_id="parent", value=3)
    app.run()
    assert app.sync.result("parent", timeout=LONG) == [2, 3]
    app.sync.close()


def test_the_sixty_fifth_level_is_refused(address: str) -> None:
    """The step that asks for it fails, with the limit in its text."""
    app = App(address)
    app.start(app.deep(65, "end"), id="top")
    with pytest.raises(WorkflowFailed, match="children 65 deep, over the limit of 64"):
        app.sync.result("top", timeout=LONG)
    app.sync.close()


# --- cancels


def test_a_cancel_reaches_the_whole_tree_in_its_own_commit(address: str) -> None:
    """With no worker at all: when the call returns, four levels are canceled, steps included."""
    app = App(address)
    app.start(app.deep(3, "wait"), id="top")
    assert app.statuses() == ["in_progress"] * 4
    app.sync.cancel("top")
    assert app.statuses() == ["canceled"] * 4
    for workflow_id in app.infos():
        assert [step.status for step in app.sync.list_steps(workflow_id)] == ["canceled"]
    app.run()
    assert app.statuses() == ["canceled"] * 4
    app.sync.close()


def test_cancelling_the_step_cancels_the_child_and_all_below(address: str) -> None:
    """The parent goes on; a running attempt at the bottom is cancelled too."""

    async def body(step: Step, app: App) -> Any:
        child = step.run_workflow(app.deep(2, "tell and hang"))
        await step.await_event("hangs")
        child.cancel()
        return await step.run_workflow(app.leaf(1))

    value, app = play(address, body)
    assert value == 2
    assert sorted(app.statuses()) == ["canceled"] * 3 + ["success"] * 2
    app.sync.close()


@pytest.mark.parametrize("how", ["return", "raise"])
def test_children_end_with_their_parent(how: str, address: str) -> None:
    """Nobody awaits them any more: they are canceled in the commit that ends it."""

    async def body(step: Step, app: App) -> Any:
        step.run_workflow(app.deep(2, "wait"))
        await step.await_event("enough")
        if how == "raise":
            raise ValueError("enough")
        return "enough"

    app = App(address, body)
    app.start(app.scripted(), id="parent")
    app.sync.send_event("enough", workflow_id="parent")
    app.run()
    end = "failed" if how == "raise" else "success"
    assert app.statuses() == [end, *["canceled"] * 3]
    app.sync.close()


def test_a_child_cancelled_from_outside_is_told_to_its_parent(address: str) -> None:
    """As StepCanceled; its own children are canceled with it, its siblings are not."""

    async def body(step: Step, app: App) -> Any:
        victim = step.run_workflow(app.deep(1, "wait"), workflow_id="victim")
        sibling = step.run_workflow(app.waiter(), workflow_id="sibling")
        with pytest.raises(StepCanceled):
            await victim
        return await sibling

    app = App(address, body)
    app.start(app.scripted(), id="parent")
    app.sync.cancel("victim")
    app.sync.send_event("go", workflow_id="sibling", value="spared")
    app.run()
    assert app.sync.result("parent", timeout=LONG) == "spared"
    assert sorted(app.statuses()) == ["canceled"] * 2 + ["success"] * 2
    app.sync.close()
