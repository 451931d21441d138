"""Definitions as users write them: whose retry counts, and values of each kind at each border."""

from __future__ import annotations

import asyncio
import datetime as dt
import enum
import uuid
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

import attrs
import msgspec
import pytest
from tests.managers import LONG, make

from perdure import (
    ActionContext,
    MutationContext,
    Outcome,
    QueryContext,
    RetryPolicy,
    Step,
    StepFailed,
    Succeeded,
    define_event,
)


def policy(attempts: int) -> RetryPolicy:
    return RetryPolicy(max_attempts=attempts, initial_backoff=0, jitter=False)


DEFAULT = 2  # attempts of the manager's default policy


@pytest.mark.parametrize(
    ("manager", "workflow", "action", "options", "call", "attempts"),
    [
        (False, None, None, None, None, 1),
        (True, None, None, None, None, DEFAULT),
        (True, False, None, None, None, 1),
        (False, True, None, None, None, DEFAULT),
        (False, False, True, None, None, DEFAULT),
        (True, True, False, None, None, 1),
        (False, policy(3), policy(4), None, None, 4),
        (False, None, None, True, None, DEFAULT),
        (True, True, True, False, None, 1),
        (False, policy(3), policy(4), policy(5), None, 5),
        (True, True, True, True, False, 1),
        (False, policy(3), policy(4), policy(5), True, DEFAULT),
        (False, policy(3), policy(4), policy(5), policy(6), 6),
    ],
)
def test_the_retry_that_is_said_closest_counts(
    tmp_path: Path,
    manager: bool,
    workflow: Any,
    action: Any,
    options: Any,
    call: Any,
    attempts: int,
) -> None:
    """At the call, by `with_options`, by the action, the workflow, the manager: in this order.
    True means the manager's default policy, False at most one attempt."""
    app = make(tmp_path / "app.db", retry_actions_by_default=manager, default_retry=policy(DEFAULT))

    @app.action(retry=action)
    def failing(ctx: ActionContext) -> None:
        raise OSError

    @app.workflow(retry=workflow)
    async def trying(step: Step) -> int:
        try:
            await step.with_options(retry=options).run_action(failing(), retry=call)
        except StepFailed as failed:
            return failed.attempts
        return 0

    with app.sync as sync:
        assert sync.result(sync.start(trying()), timeout=LONG) == attempts


class Color(enum.Enum):
    RED = "red"


class Options(TypedDict):
    deep: bool
    note: NotRequired[str]


@dataclass
class Order:
    at: dt.datetime
    tags: list[str] = field(default_factory=list)


@attrs.define
class Price:
    amount: Decimal


class Cat(msgspec.Struct, tag=True):
    lives: int


class Dog(msgspec.Struct, tag=True):
    tricks: list[str]


VALUES: dict[str, tuple[Any, Any]] = {
    "int": (int, 2**70),
    "text": (str, "ä\0\N{GRINNING FACE}"),
    "tuple": (tuple[int, str], (1, "a")),
    "set": (set[int], {1, 2}),
    "bytes": (bytes, b"\0\xff"),
    "datetime": (dt.datetime, dt.datetime(2030, 1, 1, tzinfo=dt.UTC)),
    "timedelta": (dt.timedelta, dt.timedelta(days=1, microseconds=5)),
    "UUID": (uuid.UUID, uuid.UUID(int=7)),
    "Decimal": (Decimal, Decimal("1.10")),
    "Enum": (Color, Color.RED),
    "Literal": (Literal["a", "b"], "b"),
    "TypedDict": (Options, {"deep": True}),
    "dataclass": (Order, Order(dt.datetime(2030, 1, 1, tzinfo=dt.UTC), ["a"])),
    "attrs": (Price, Price(Decimal("0.1"))),
    "Struct": (Cat, Cat(9)),
    "union": (Cat | Dog | None, Dog(["sit"])),
    "any": (object, {"a": [1, None, "x", 1.5, True]}),
}


def pydantic_model() -> tuple[Any, Any]:
    pydantic = pytest.importorskip("pydantic")

    class Model(pydantic.BaseModel):  # type: ignore[name-defined,misc]
        n: int
        inner: tuple[Decimal, ...] = ()

    return Model, Model(n=1, inner=(Decimal("1.5"),))


@pytest.mark.parametrize("kind", [*VALUES, "pydantic"])
def test_a_value_passes_every_border_and_is_as_it_was(tmp_path: Path, kind: str) -> None:
    """As argument and result of each kind of function, as payload, context and result of the
    whole, live and on replay; a mutable one is never the same object."""
    annotation, value = VALUES[kind] if kind in VALUES else pydantic_model()
    app = make(tmp_path / "app.db")
    event = define_event("event", annotation)
    seen: list[Any] = []

    def annotated(function: Any) -> Any:
        for name in {"it", "context", "return"} & set(function.__annotations__):
            if function.__annotations__[name] == "Any":
                function.__annotations__[name] = annotation
        return function

    @app.query
    @annotated
    def query(ctx: QueryContext, it: Any) -> Any:
        seen.append(it)
        return it

    @app.mutation
    @annotated
    def mutation(ctx: MutationContext, it: Any) -> Any:
        seen.append(it)
        return it

    @app.action
    @annotated
    async def action(ctx: ActionContext, it: Any) -> Any:
        seen.append(it)
        return it

    @app.workflow
    @annotated
    async def child(step: Step, it: Any) -> Any:
        return it

    @app.mutation
    @annotated
    def ended(ctx: MutationContext, workflow_id: str, outcome: Outcome, context: Any) -> None:
        assert isinstance(outcome, Succeeded)
        seen.append(context)

    @app.workflow
    @annotated
    async def passing(step: Step, it: Any) -> Any:
        seen.append(it)
        seen.append(await step.run_query(query(it)))
        seen.append(await step.run_query(query(it), inline=True))
        seen.append(await step.run_mutation(mutation(it)))
        seen.append(await step.run_action(action(it)))
        seen.append(await step.run_workflow(child(it)))
        seen.append(await step.await_event(event))
        return it

    async def main() -> Any:
        async with app:
            workflow_id = await app.start(passing(value), on_complete=ended, context=value)
            await app.send_event(event, workflow_id=workflow_id, value=value)
            return await app.result(workflow_id, timeout=LONG)

    seen.append(asyncio.run(main()))
    assert len(seen) >= 13  # more where the handler was put away, and replayed
    for each in seen:
        assert each == value
        assert type(each) is type(value)
        if isinstance(value, list | dict | set | Order | Price):
            assert each is not value
