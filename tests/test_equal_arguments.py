"""Calls with equal arguments are the same call, to `start(id=…)` and to a replay."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from tests.recorded import manager_of, wait_for_it

from perdure import (
    MutationContext,
    Step,
    WorkflowIdConflict,
    WorkflowManager,
    define_event,
)

go = define_event("go", str)


def older(manager: WorkflowManager) -> None:
    """Stores a number as it is given, as releases before did also for a float."""

    @manager.mutation
    def pay(ctx: MutationContext, amount: Any, parts: Any = ()) -> str:
        return f"{amount}"

    @manager.workflow
    async def order(step: Step, amount: Any = 1) -> str:
        paid = await step.run_mutation(pay(amount, [1, 2.5]))
        return paid + await step.await_event(go)


def today(manager: WorkflowManager) -> None:
    """Stores a whole number for a float as that float."""

    @manager.mutation
    def pay(ctx: MutationContext, amount: float, parts: list[float] = [1]) -> str:  # noqa: B006
        return f"{amount}"

    @manager.workflow
    async def order(step: Step, amount: float = 1) -> str:
        paid = await step.run_mutation(pay(amount, [1, 2.5]))
        return paid + await step.await_event(go)


def order_of(manager: WorkflowManager, *args: Any) -> Any:
    definition = manager.registry.get("order")
    assert definition is not None
    return definition(*args)


def test_a_whole_number_and_the_same_float_are_one_call() -> None:
    """`start` is idempotent over both, with the default too; another number is another call."""
    manager = manager_of(today)

    async def play() -> None:
        async with manager:
            for call in (order_of(manager, 1), order_of(manager, 1.0), order_of(manager)):
                assert await manager.start(call, id="w") == "w"
            with pytest.raises(WorkflowIdConflict):
                await manager.start(order_of(manager, 1.5), id="w")
            await manager.send_event(go, workflow_id="w", value="!")
            assert await manager.result("w", timeout=30) == "1.0!"

    asyncio.run(play())


def test_what_arrives_as_the_same_is_one_call() -> None:
    """Keys of a dict, Decimals and UUIDs too, in whatever form they are given; other digits of a
    Decimal arrive as such, and are another call."""
    manager = manager_of(today)

    @manager.workflow
    async def weigh(step: Step, by: dict[float, str], price: Decimal, of: UUID) -> str:
        return f"{by} {price} {of}"

    async def play() -> None:
        async with manager:
            await manager.start(weigh({1.0: "a"}, Decimal(1), UUID(int=1)), id="w")
            given: Any = weigh({1: "a"}, 1, "0" * 31 + "1")  # type: ignore[arg-type]
            assert await manager.start(given, id="w") == "w"
            assert str(await manager.result("w")).startswith("{1.0: 'a'} 1 0000")
            with pytest.raises(WorkflowIdConflict):
                await manager.start(weigh({1: "a"}, Decimal("1.0"), UUID(int=1)), id="w")

    asyncio.run(play())


def test_a_journal_of_older_code_replays_and_its_id_is_known(tmp_path: Path) -> None:
    """What was stored as 1 is what today's code stores as 1.0."""
    path = tmp_path / "app.db"

    async def record() -> None:
        before = manager_of(older, path)
        async with before:
            await before.start(order_of(before, 1), id="w")
            await wait_for_it(before, "w")

    async def replay() -> None:
        after = manager_of(today, path)
        async with after:
            for amount in (1, 1.0):
                assert await after.start(order_of(after, amount), id="w") == "w"
            await after.send_event(go, workflow_id="w", value="!")
            assert await after.result("w", timeout=30) == "1!"

    asyncio.run(record())
    asyncio.run(replay())
