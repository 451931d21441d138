"""A new user: three e-mails, a service that fails at first, a day of waiting, and an approval."""

from __future__ import annotations

import perdure

manager = perdure.WorkflowManager("onboarding.db", retry_actions_by_default=True)
approval = perdure.define_event("approval", str)
ONE_DAY = 1.0  # a second, so that you need not wait for it


@manager.mutation
def send_email(ctx: perdure.MutationContext, user: str, kind: str) -> None:
    ctx.db.execute("create table if not exists emails (user text, kind text)")
    ctx.db.execute("insert into emails values (?, ?)", (user, kind))


@manager.action
def look_up(ctx: perdure.ActionContext, user: str) -> str:
    if ctx.attempt == 1:
        raise ConnectionError("503: the service is not ready yet")
    return "green"


@manager.workflow
async def onboarding(step: perdure.Step, user: str) -> str:
    await step.run_mutation(send_email(user, "welcome"))
    team = await step.run_action(look_up(user))
    await step.run_mutation(send_email(user, "follow-up"), run_after=ONE_DAY)
    boss = await step.await_event(approval)
    await step.run_mutation(send_email(user, f"approved by {boss}"))
    return team


with manager.sync:
    workflow_id = manager.sync.start(onboarding("Ada"))
    manager.sync.send_event(approval, workflow_id=workflow_id, value="Grace")
    print("Ada is in team", manager.sync.result(workflow_id))
