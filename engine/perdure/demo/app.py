"""The demo's program: users are welcomed, looked up, written to a day later, and approved.

It is what a user of perdure would write, and knows nothing of the processes that run or kill it.
It takes its settings from the environment, so that every process of the demo has the same.
"""

from __future__ import annotations

import http.client
import json
import os
from datetime import timedelta

from perdure import (
    ActionContext,
    MutationContext,
    RetryPolicy,
    Step,
    WorkflowManager,
    define_event,
)

STORE = "PERDURE_DEMO_STORE"
SERVICE_PORT = "PERDURE_DEMO_SERVICE_PORT"
DAY_SECONDS = "PERDURE_DEMO_DAY_SECONDS"

ONE_DAY = timedelta(seconds=float(os.environ.get(DAY_SECONDS, "86400")))

#: The service first fails, then is slow; and each kill costs attempts too.
PATIENT = RetryPolicy(max_attempts=100, initial_backoff=0.1, base=1.5, max_backoff=0.5)
ANSWER_SECONDS_MAX = 0.5

#: The kinds of e-mail that each user gets.
EMAILS = ("welcome", "follow-up", "approved")

manager = WorkflowManager(os.environ.get(STORE, "perdure-demo.db"))
approval = define_event("approval", str)


@manager.mutation
def create_tables(ctx: MutationContext) -> None:
    """The application's own tables, beside the engine's. No constraint hides a second e-mail."""
    ctx.db.execute("create table users (name text primary key, workflow_id text not null)")
    ctx.db.execute("create table emails (id integer primary key, user text, kind text, body text)")


@manager.mutation
def sign_up(ctx: MutationContext, user: str) -> str:
    """A new user and the workflow, or neither: both are written in one transaction."""
    workflow_id = ctx.start(onboarding(user))
    ctx.db.execute("insert into users values (?, ?)", (user, workflow_id))
    return workflow_id


@manager.mutation
def send_email(ctx: MutationContext, user: str, kind: str, body: str) -> None:
    """Write an e-mail into the outbox."""
    ctx.db.execute("insert into emails (user, kind, body) values (?, ?, ?)", (user, kind, body))


@manager.action(retry=PATIENT)
def look_up(ctx: ActionContext, user: str) -> str:
    """Ask the service for the user's team. It may fail, be slow, or see this process die."""
    port = int(os.environ[SERVICE_PORT])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_SECONDS_MAX)
    try:
        headers = {"Idempotency-Key": ctx.idempotency_key}
        connection.request("GET", f"/users/{user}", headers=headers)
        answer = connection.getresponse()
        if answer.status != http.HTTPStatus.OK:
            raise ConnectionError(f"the service answered {answer.status} {answer.reason}")
        return str(json.loads(answer.read())["team"])
    finally:
        connection.close()


@manager.workflow
async def onboarding(step: Step, user: str) -> str:
    """Three e-mails, an HTTP call that needs patience, a day of waiting, and an approval."""
    await step.run_mutation(send_email(user, "welcome", f"Hello {user}"), name="welcome")
    team = await step.run_action(look_up(user), name="look up")
    await step.run_mutation(
        send_email(user, "follow-up", f"How is team {team}?"), name="follow-up", run_after=ONE_DAY
    )
    boss = await step.await_event(approval)
    await step.run_mutation(send_email(user, "approved", f"By {boss}"), name="approved")
    return team
