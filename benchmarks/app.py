"""The workloads as workflows: trivial steps, so that what is measured is the engine.

Not here: starting them and taking times (inside.py, processes.py).
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from time import perf_counter_ns

from benchmarks.raw import Durability

from perdure import ActionContext, Step, WorkflowManager

#: Steps of the short chains of W2 and W6.
CHAIN_STEPS = 10
#: How long a sleeper of W7 sleeps, in seconds.
HOUR = 3600


class App:
    """The definitions on one manager, and what actions note.

    Args:
        store: the address of the database, as for `WorkflowManager`.
        durability: as for `WorkflowManager`; so is `max_parallelism`. All else is at its default.
        effects: a file to which each step of `recorded` appends a line.
    """

    def __init__(
        self,
        store: str,
        durability: Durability,
        effects: Path | None = None,
        max_parallelism: int | None = None,
    ) -> None:
        self.stamps: list[int] = []  # when each `tick` ran, in ns of the performance counter
        self.asleep = 0
        manager = self.manager = WorkflowManager(
            store, durability=durability, max_parallelism=max_parallelism
        )
        fd = -1
        if effects is not None:
            fd = os.open(effects, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)

        @manager.action
        async def tick(ctx: ActionContext, number: int) -> int:
            self.stamps.append(perf_counter_ns())
            return number

        @manager.action(retry=True)
        async def effect(ctx: ActionContext, number: int) -> int:
            # One write to a file opened for appending: a kill leaves it whole or not there.
            os.write(fd, f"{ctx.workflow_id} {number}\n".encode())
            return number

        @manager.workflow
        async def chain(step: Step, steps: int) -> int:
            for number in range(steps):
                await step.run_action(tick(number))
            return steps

        @manager.workflow
        async def fan(step: Step, width: int) -> int:
            numbers = await asyncio.gather(*[step.run_action(tick(n)) for n in range(width)])
            return len(numbers)

        @manager.workflow
        async def recorded(step: Step, steps: int) -> int:
            for number in range(steps):
                await step.run_action(effect(number))
            return steps

        @manager.workflow
        async def sleeper(step: Step) -> None:
            self.asleep += 1
            await step.sleep(HOUR)

        self.chain = chain
        self.fan = fan
        self.recorded = recorded
        self.sleeper = sleeper
