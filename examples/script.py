"""A nightly report, as a program for cron: may be killed at any time, and started as often as one
likes.

    python script.py 2030-12-31

Each day is one workflow. A second run of a day that is done does nothing; a run after a kill goes
on where the killed one was, and takes along what is left of other days.
"""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from pathlib import Path

import perdure

manager = perdure.WorkflowManager("report.db", retry_actions_by_default=True)
SHOPS = ["Bergen", "Lima", "Osaka", "Turin"]


@manager.action(timeout=timedelta(minutes=5))
def fetch_sales(ctx: perdure.ActionContext, shop: str, day: str) -> int:
    time.sleep(0.2)  # a slow service
    with Path("fetched.log").open("a", encoding="utf-8") as log:
        log.write(f"{day} {shop} attempt {ctx.attempt}\n")
    return len(shop) * 1000


@manager.mutation
def store(ctx: perdure.MutationContext, day: str, total: int) -> None:
    ctx.db.execute("create table if not exists reports (day text primary key, total integer)")
    ctx.db.execute("insert into reports values (?, ?)", (day, total))


@manager.workflow
async def report(step: perdure.Step, day: str) -> int:
    # One after the other, to be gentle to the service; `asyncio.gather` would ask for all at once.
    sales = [await step.run_action(fetch_sales(shop, day)) for shop in SHOPS]
    await step.run_mutation(store(day, sum(sales)))
    return sum(sales)


def main(day: str) -> int:
    """Start the report of a day, do all that is to do, and print what came of it."""
    workflow_id = manager.sync.start(report(day), id=f"report-{day}")
    manager.run(until_idle=True)
    status = manager.sync.status(workflow_id)
    manager.sync.close()
    print(f"{day}: {status}")
    return 0 if status.kind == "success" else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "2030-12-31"))
