"""Measure how long a test of `simulate` at its defaults takes, and print a table.

The workflow has five steps: an action, an event, a sleep and two mutations; the test has six lines.
Meant is: under two seconds. Wall time and the processor's, medians. The first call of all, in which
the process starts that replays journals, is told apart.
"""

from __future__ import annotations

import argparse
import platform
import sqlite3
import time
from collections.abc import Callable
from importlib import import_module
from statistics import median
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

from perdure import ActionContext, MutationContext, Step, StepFailed, WorkflowManager, define_event
from perdure_sim import Simulation, simulate

#: What a test may take, in seconds.
GATE = 2.0

manager = WorkflowManager("bank.db", retry_actions_by_default=True)
approval = define_event("approval", bool)


@manager.action
async def charge(ctx: ActionContext, amount: int) -> str:
    return "stubbed"


@manager.mutation
def book(ctx: MutationContext, amount: int) -> None:
    ctx.db.execute("insert into ledger values (?)", (amount,))


@manager.workflow
async def transfer(step: Step, amount: int) -> str:
    try:
        await step.run_action(charge(amount))
        await step.await_event(approval, timeout=3600)
    except (StepFailed, TimeoutError):
        return "given up"
    await step.sleep(10)
    await step.run_mutation(book(-amount))
    await step.run_mutation(book(amount))
    return "done"


def make_ledger(db: sqlite3.Connection) -> None:
    """Where the rows are."""
    db.execute("create table ledger (amount integer)")


def body(sim: Simulation, amount: int) -> None:
    """Both rows or none."""
    sim.stub(charge, returns="r1", takes="0s..30s")
    run = sim.start(transfer(amount))
    sim.after("0s..2m", lambda: sim.send_event(approval, workflow_id=run.id, value=True))
    sim.settle()
    assert sim.db.execute("select count(*) from ledger").fetchone()[0] in (0, 2)


def measure(test: Callable[..., None], repeat: int) -> tuple[float, float]:
    """The medians of wall time and of the processor's, in seconds."""
    call: Any = test
    walls, processors = [], []
    for _ in range(repeat):
        wall, processor = time.perf_counter(), time.process_time()
        call()
        walls.append(time.perf_counter() - wall)
        processors.append(time.process_time() - processor)
    return median(walls), median(processors)


def main() -> None:
    """The command itself."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=5, help="measurements of each figure")
    repeat = parser.parse_args().repeat
    settings.register_profile("bench", database=None, derandomize=True)
    settings.load_profile("bench")
    print(f"Python {platform.python_version()}, medians of {repeat}; meant: under {GATE:.0f} s")
    print(f"{'a default test of five steps':34}{'wall':>8}{'processor':>12}")
    for store in ("sqlite", "memory"):
        options: dict[str, Any] = {"setup": make_ledger, "amount": st.integers(1, 500)}
        test = simulate(manager, store=store, **options)(body)
        for name, count in ((f"{store}, the first", 1), (store, repeat)):
            wall, processor = measure(test, count)
            print(f"{name:34}{wall:7.2f}s{processor:11.2f}s", flush=True)


if __name__ == "__main__":
    # By its name: what stands in `__main__` cannot be imported by the process that replays it.
    import_module("simulate").main()
