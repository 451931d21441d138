"""The application under chaos: workflows that leave a trace of everything they do.

Mutations write through `ctx.db` into tables beside the engine's. Actions append lines to a file,
one write each, so that what happened before a kill is kept whether it was recorded or not. Run as
a program (``python -m tests.chaos.ledger ADDRESS EFFECTS``) this file is a worker process.

Not here: starting workflows and killing workers (kill.py), and judging the trace (checker.py).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sqlite3
from collections.abc import Awaitable
from pathlib import Path
from time import monotonic  # noqa: TID251 - one clock for several real processes

from perdure import (
    ActionContext,
    Failed,
    MutationContext,
    Outcome,
    RetryPolicy,
    Step,
    StepFailed,
    Succeeded,
    WorkflowManager,
    define_event,
)

#: Attempts of `flaky`, which fails its first ones; `once` has one.
FLAKY_ATTEMPTS = 4
MAX_ATTEMPTS = {"once": 1, "flaky": FLAKY_ATTEMPTS}

#: What a plan may hold; "fail" only at its end.
OPERATIONS = (
    *("mutation", "inline", "broken", "once", "flaky", "gather", "sleep", "nap"),
    *("event", "deadline", "child", "spawn"),
)

#: A wait of the operation "deadline", in seconds: shorter than some of its actions.
DEADLINE = 0.03

go = define_event("go", int)


class Glitch(Exception):
    """What `flaky` raises."""


class Ledger:
    """The definitions on one manager.

    Args:
        address: of the store, as for `WorkflowManager`.
        effects: path of the file to which actions append.
        drain_timeout: as for `WorkflowManager`.
    """

    def __init__(self, address: str, effects: Path, *, drain_timeout: float = 30) -> None:
        self.manager = WorkflowManager(address, drain_timeout=drain_timeout)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._effects = os.open(effects, flags, 0o644)
        self._define_actions()
        self._define_mutations()
        self._define_workflows()

    def _note(self, ctx: ActionContext, function: str, phase: str) -> None:
        line = {
            "workflow": ctx.workflow_id,
            "number": ctx.step_number,
            "attempt": ctx.attempt,
            "key": ctx.idempotency_key,
            "function": function,
            "phase": phase,
            "pid": os.getpid(),
            "at": monotonic(),
        }
        os.write(self._effects, (json.dumps(line) + "\n").encode())

    def _define_actions(self) -> None:
        manager = self.manager

        @manager.action(retry=False)
        async def once(ctx: ActionContext, place: str, ms: int) -> int:
            self._note(ctx, "once", "start")
            await asyncio.sleep(ms / 1000)
            self._note(ctx, "once", "end")
            return ctx.attempt

        policy = RetryPolicy(max_attempts=FLAKY_ATTEMPTS, initial_backoff=0.01, max_backoff=0.05)

        @manager.action(retry=policy)
        async def flaky(ctx: ActionContext, place: str, ms: int) -> int:
            self._note(ctx, "flaky", "start")
            await asyncio.sleep(ms / 1000)
            if ctx.attempt == 1 and ms % 2:
                raise Glitch(place)
            self._note(ctx, "flaky", "end")
            return ctx.attempt

        self.once = once
        self.flaky = flaky

    def _define_mutations(self) -> None:
        manager = self.manager

        @manager.mutation
        def write(ctx: MutationContext, place: str) -> None:
            _write(ctx, place)

        @manager.mutation
        def write_and_fail(ctx: MutationContext, place: str) -> None:
            _write(ctx, place)
            raise ValueError("planned")

        @manager.mutation
        def spawn(ctx: MutationContext, place: str) -> str:
            _write(ctx, place)
            call = self.small(place)
            return ctx.start(call, id=f"{place}/spawned", on_complete=ended, context=place)

        @manager.mutation
        def die(ctx: MutationContext) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        @manager.mutation
        def ended(ctx: MutationContext, workflow_id: str, outcome: Outcome, context: str) -> None:
            detail = ""
            if isinstance(outcome, Succeeded):
                detail = json.dumps(outcome.value)
            elif isinstance(outcome, Failed):
                detail = outcome.error.message
            row = (workflow_id, outcome.kind, detail, context)
            _insert(ctx, "ledger_ends", row)

        self.write = write
        self.write_and_fail = write_and_fail
        self.spawn = spawn
        self.die = die
        self.ended = ended

    def _define_workflows(self) -> None:
        manager = self.manager

        @manager.workflow
        async def small(step: Step, place: str) -> str:
            own = f"{step.workflow_id}#0"
            await step.run_mutation(self.write(own))
            return await _noted(step.run_action(self.once(own, 3)))

        @manager.workflow
        async def mixed(step: Step, plan: list[str], ms: int) -> list[str]:
            """One operation after another; what each came to."""
            notes = []
            for number, operation in enumerate(plan):
                place = f"{step.workflow_id}#{number}"
                notes.append(await self._do(step, operation, place, (ms * (number + 1)) % 14))
            return notes

        @manager.workflow
        async def steady(step: Step, count: int, ms: int) -> list[str]:
            """`count` parallel actions that run at most once."""
            places = [f"{step.workflow_id}#{number}" for number in range(count)]
            steps = [step.run_action(self.once(place, ms)) for place in places]
            outcomes = await asyncio.gather(*steps, return_exceptions=True)
            return [_name(outcome) for outcome in outcomes]

        @manager.workflow
        async def poison(step: Step) -> None:
            """Kills every worker that takes it up, in the middle of a transaction."""
            await step.run_mutation(self.die())

        self.small = small
        self.mixed = mixed
        self.steady = steady
        self.poison = poison

    async def _do(self, step: Step, operation: str, place: str, ms: int) -> str:
        match operation:
            case "mutation":
                return await _noted(step.run_mutation(self.write(place)))
            case "inline":
                return await _noted(step.run_mutation(self.write(place), inline=True))
            case "broken":
                return await _noted(step.run_mutation(self.write_and_fail(place)))
            case "once":
                return await _noted(step.run_action(self.once(place, ms)))
            case "flaky":
                return await _noted(step.run_action(self.flaky(place, ms)))
            case "gather":
                return await self._gathered(step, place, ms)
            case "sleep":
                return await _noted(step.sleep(ms / 1000))
            case "nap":
                await asyncio.sleep(ms / 1000)
                return "ok"
            case "event":
                number = await step.await_event(go)
                return f"go {number}"
            case "deadline":
                return await self._in_time(step, place, ms)
            case "child":
                return await step.run_workflow(self.small(place))
            case "spawn":
                return await _noted(step.run_mutation(self.spawn(place)))
            case _:
                raise ValueError(operation)

    async def _gathered(self, step: Step, place: str, ms: int) -> str:
        outcomes = await asyncio.gather(
            step.run_action(self.once(f"{place}.a", ms)),
            step.run_action(self.flaky(f"{place}.b", ms)),
            step.run_mutation(self.write(f"{place}.c")),
            step.run_action(self.once(f"{place}.d", ms // 2)),
            return_exceptions=True,
        )
        return ",".join(sorted({_name(outcome) for outcome in outcomes}))

    async def _in_time(self, step: Step, place: str, ms: int) -> str:
        try:
            async with asyncio.timeout(DEADLINE):
                return await _noted(step.run_action(self.once(place, ms * 4)))
        except TimeoutError:
            return "late"


def _write(ctx: MutationContext, place: str) -> None:
    workflow_id = place.rpartition("#")[0]
    _insert(ctx, "ledger_writes", (workflow_id, place))


def _insert(ctx: MutationContext, table: str, row: tuple[str, ...]) -> None:
    mark = "?" if isinstance(ctx.db, sqlite3.Connection) else "%s"
    marks = ", ".join([mark] * len(row))
    ctx.db.execute(f"INSERT INTO {table} VALUES ({marks})", row)


def _name(outcome: object) -> str:
    if isinstance(outcome, StepFailed):
        return outcome.error.type.rpartition(".")[2]
    return type(outcome).__name__ if isinstance(outcome, BaseException) else "ok"


async def _noted(future: Awaitable[object]) -> str:
    try:
        return _name(await future)
    except StepFailed as error:
        return _name(error)


def main() -> None:
    """Be a worker process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    parser.add_argument("effects", type=Path)
    parser.add_argument("--until-idle", action="store_true")
    parser.add_argument("--drain-timeout", type=float, default=30)
    options = parser.parse_args()
    ledger = Ledger(options.address, options.effects, drain_timeout=options.drain_timeout)
    ledger.manager.run(until_idle=options.until_idle)


if __name__ == "__main__":
    main()
