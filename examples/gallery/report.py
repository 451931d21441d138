"""A report of what each region has sold: all are asked at once, and their figures added up.

Twice wrong below: the order of a set decides who is asked first, and figures are matched with
regions by the order in which they come.
"""

from __future__ import annotations

import asyncio

import perdure

manager = perdure.WorkflowManager("report.db", retry_actions_by_default=True)


@manager.action
async def sales_of(ctx: perdure.ActionContext, region: str) -> int:
    raise NotImplementedError("the region's own interface")


@manager.workflow
async def report(step: perdure.Step, regions: list[str]) -> dict[str, int]:
    names = sorted(set(regions))
    figures = await asyncio.gather(*(step.run_action(sales_of(name)) for name in names))
    return dict(zip(names, figures, strict=True))


# --- wrong: the order of a set --------------------------------------------------------------------


@manager.workflow
async def report_by_set(step: perdure.Step, regions: list[str]) -> dict[str, int]:
    figures = {}
    for name in set(regions):  # in another process another one is the first
        figures[name] = await step.run_action(sales_of(name))
    return figures


# --- wrong: the first answer is taken for the first region's --------------------------------------


@manager.workflow
async def report_by_arrival(step: perdure.Step, regions: list[str]) -> dict[str, int]:
    names = sorted(set(regions))
    asked = [step.run_action(sales_of(name)) for name in names]
    figures = [await figure for figure in asyncio.as_completed(asked)]
    return dict(zip(names, figures, strict=True))
