"""Annotations of functions: what the first parameter may be.

That names are found is tested where annotations are used: test_codec_arguments.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Protocol, TypeVar

import pytest

from perdure.definitions import Definer
from perdure.errors import DefinitionError
from perdure.manager import WorkflowManager
from perdure.runtime.contexts import ActionContext, MutationContext, QueryContext
from perdure.step import Step


class MyContext(MutationContext):
    """A user's own, for helpers that are typed by it."""


class HasDb(Protocol):
    """What a function needs of its context."""

    db: Any


Sub = TypeVar("Sub", bound=MutationContext)


def mutation_in_words(annotation: Any) -> Callable[..., Any]:
    """A function whose first parameter has that annotation."""

    def change(ctx, n: int) -> int:  # type: ignore[no-untyped-def]
        return n

    if annotation is not None:
        change.__annotations__["ctx"] = annotation
    return change


@pytest.mark.parametrize(
    "annotation",
    [
        None,
        MutationContext,
        "MutationContext",
        MyContext,
        object,
        Any,
        HasDb,
        Sub,
        MutationContext | None,
        QueryContext | MutationContext,
        Annotated[MutationContext, "doc"],
        "OnlyForTypeCheckers",
        "OnlyForTypeCheckers | None",
    ],
    ids=str,
)
def test_a_context_may_be_annotated_in_many_ways(annotation: Any) -> None:
    """Right, wider, narrower, or unknown here because only type checkers import it."""
    WorkflowManager(":memory:").mutation(mutation_in_words(annotation))


@pytest.mark.parametrize(
    ("annotation", "shown"),
    [
        (ActionContext, "ActionContext"),
        ("ActionContext", "ActionContext"),
        (QueryContext, "QueryContext"),
        (Step, "Step"),
        (str, "str"),
        (dict[str, int], r"dict\[str, int\]"),
        (Definer, "Definer"),
        (ActionContext | Step, r"ActionContext \| .*Step"),
        (type(None), "NoneType"),
    ],
)
def test_a_context_of_another_kind_is_refused(annotation: Any, shown: str) -> None:
    """With the annotation that is wrong, and the one that the kind has."""
    manager = WorkflowManager(":memory:")
    with pytest.raises(
        DefinitionError,
        match=f"first parameter is the context, but `ctx` is annotated with .*{shown}:"
        " annotate it with MutationContext",
    ):
        manager.mutation(mutation_in_words(annotation))
    assert len(manager.registry) == 0


def test_each_kind_has_its_context() -> None:
    """The error names the one that is expected."""

    async def flow(ctx: MutationContext) -> None: ...
    async def act(ctx: Step) -> None: ...
    def read(ctx: ActionContext) -> None: ...
    def forgotten(user_id: str, kind: str) -> None: ...

    manager = WorkflowManager(":memory:")
    cases: tuple[tuple[Any, Any, str], ...] = (
        (manager.workflow, flow, "Step"),
        (manager.action, act, "ActionContext"),
        (manager.query, read, "QueryContext"),
        (manager.mutation, forgotten, "`ctx: MutationContext` before it"),
    )
    for decorator, fn, expected in cases:
        with pytest.raises(DefinitionError, match=expected):
            decorator(fn)
