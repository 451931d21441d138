"""Many things at once, in one asyncio program: sizes of pages, at most five at a time, the whole
with a deadline that holds across restarts.

    python async_script.py

Kill it and start it again: what was fetched is not fetched again, and the deadline is still the
same point in time.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import perdure

manager = perdure.WorkflowManager("pages.db", max_parallelism=5)
PAGES = [f"page-{number}" for number in range(40)]


def note(line: str) -> None:
    """So that one can count afterwards what was really fetched."""
    with Path("fetched.log").open("a", encoding="utf-8") as log:
        log.write(f"{line}\n")


@manager.action(retry=perdure.RetryPolicy(max_attempts=3, initial_backoff=0.05))
async def fetch(ctx: perdure.ActionContext, page: str) -> int:
    await asyncio.sleep(0.05)  # the network
    if page.endswith("7") and ctx.attempt == 1:
        raise ConnectionError("reset by peer")
    note(page)
    return len(page) * 100


@manager.workflow
async def measure(step: perdure.Step, pages: list[str]) -> dict[str, int]:
    sizes: dict[str, int] = {}

    async def one(page: str) -> None:
        sizes[page] = await step.run_action(fetch(page))

    try:
        async with asyncio.timeout(3600), asyncio.TaskGroup() as group:
            for page in pages:
                group.create_task(one(page))
    except TimeoutError:
        step.logger.warning("an hour is over: %d of %d pages", len(sizes), len(pages))
    return sizes


async def main() -> None:
    """Start it once, wait for it, print the sum."""
    async with manager:
        workflow_id = await manager.start(measure(PAGES), id="measure-1")
        sizes = await manager.result(workflow_id)
        print(f"{len(sizes)} pages, {sum(sizes.values())} bytes")


if __name__ == "__main__":
    asyncio.run(main())
