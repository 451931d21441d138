"""Another system makes an export, which takes a while: it is asked more and more rarely.

Twice wrong below: a loop that nothing ends, and a step that a new release puts before those that
running workflows have taken.
"""

from __future__ import annotations

import perdure

#: Asked after 5, 10, 20, … seconds, then every 10 minutes; the eighth time is the last
FIRST_WAIT, LONGEST_WAIT, ASKED_MAX = 5, 600, 8

manager = perdure.WorkflowManager("polling.db", retry_actions_by_default=True)


@manager.action
async def begin(ctx: perdure.ActionContext, table: str) -> str:
    raise NotImplementedError("the other system's own interface")


@manager.action
async def is_ready(ctx: perdure.ActionContext, export: str) -> bool:
    raise NotImplementedError("the other system's own interface")


@manager.workflow
async def export(step: perdure.Step, table: str) -> str:
    name = await step.run_action(begin(table))
    wait = FIRST_WAIT
    for _ in range(ASKED_MAX):
        await step.sleep(wait)
        if await step.run_action(is_ready(name)):
            return name
        wait = min(2 * wait, LONGEST_WAIT)
    raise TimeoutError(f"export {name} is not ready after {ASKED_MAX} questions")


# --- wrong: nothing ends the loop -----------------------------------------------------------------


@manager.workflow
async def export_for_ever(step: perdure.Step, table: str) -> str:
    name = await step.run_action(begin(table))
    while not await step.run_action(is_ready(name)):
        await step.sleep(FIRST_WAIT)  # two steps every five seconds: 35,000 in a day
    return name


# --- two next releases: the second is wrong -------------------------------------------------------


def next_release(*, asks_first: bool) -> perdure.WorkflowManager:
    """The code of another day, in a manager of its own, as a new process would have it."""
    release = perdure.WorkflowManager("polling.db", retry_actions_by_default=True)

    @release.action
    async def begin(ctx: perdure.ActionContext, table: str) -> str:
        raise NotImplementedError

    @release.action
    async def is_ready(ctx: perdure.ActionContext, export: str) -> bool:
        raise NotImplementedError

    @release.action
    async def is_allowed(ctx: perdure.ActionContext, table: str) -> bool:
        raise NotImplementedError

    @release.workflow
    async def export(step: perdure.Step, table: str) -> str:
        # Who is on the way already has not asked this, and its journal says so.
        if asks_first and not await step.run_action(is_allowed(table)):
            raise PermissionError(table)
        name = await step.run_action(begin(table))
        for _ in range(ASKED_MAX):
            await step.sleep(LONGEST_WAIT)  # how long one waits may change
            if await step.run_action(is_ready(name)):
                return name
        raise TimeoutError(f"export {name} is not ready after {ASKED_MAX} questions")

    return release
