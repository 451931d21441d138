"""Running queries, mutations and `on_complete` inside a transaction, behind the fence."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, NoReturn

from perdure.codec import TypeCodec, plain
from perdure.core.commands import RunStep
from perdure.core.ids import WorkflowId
from perdure.core.outcomes import Failed, Json, Outcome, Succeeded
from perdure.core.workflow import WorkflowState
from perdure.definitions import Definition, Mutation, Query
from perdure.error_form import encode_error
from perdure.errors import DefinitionError, ErrorInfo, StoreError
from perdure.sometimes import sometimes
from perdure.store.base import TransactionLost

from .inside import inside_transaction
from .scope import ON_COMPLETE, Scope

logger = logging.getLogger("perdure.worker")


def run_function(
    scope: Scope, definition: Definition[..., Any], arguments: Json, where: str
) -> Json:
    """Run a query or mutation under a savepoint and encode what it returned.

    Raises:
        StoreError, TransactionLost: see `Transaction.run_user_code`.
        BaseException: whatever the function raised, or `ValidationError` for what it returned;
            then none of its writes are kept.
    """
    args, kwargs = definition.arguments.bind(arguments, where=f"arguments of {definition.name}")
    is_query = isinstance(definition, Query)
    context = scope.env.make_context(scope, is_query)

    def call() -> Json:
        try:
            value = definition.fn(context, *args, **kwargs)
        finally:
            context.close()
        limit = scope.env.limits.value_bytes
        return definition.result.encode(value, where=f"result of {definition.name}", limit=limit)

    with scope.env.watch.watched_function(f"{definition!r} ({where})"):
        text: Json = inside_user_code(scope, call, read_only=is_query)
    return text


class FunctionLostTransaction(Exception):
    """The function of one step ended the transaction that it shares with others.

    `number` is the step's, or `ON_COMPLETE`.
    """

    def __init__(self, workflow_id: WorkflowId, number: int) -> None:
        super().__init__(workflow_id, number)
        self.workflow_id = workflow_id
        self.number = number


_LOST = ErrorInfo(
    "TransactionLost",
    "the function ended or blocked the transaction that it shares with others: use neither"
    " OR ROLLBACK nor RAISE(ROLLBACK), and raise an exception to undo a step",
)


class FunctionRaised(Exception):
    """A user's function raised `error`; none of its writes are kept."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(error)
        self.error = error


def run_step_function(scope: Scope, workflow_id: str, number: int, command: RunStep) -> Outcome:
    """Run the query or mutation of a step; what it raises is the step's failure.

    Raises:
        StoreError: not the step's fault.
        FunctionLostTransaction: it spoiled the transaction, for everybody in it.
    """
    definition = scope.env.registry.get(command.function)
    if definition is None:
        text = f"{command.kind} {command.function!r} is not defined in this process"
        return Failed(ErrorInfo("DefinitionError", text))
    if (workflow_id, number) in scope.lost:
        return Failed(_LOST)
    where = f"step {number} of workflow {workflow_id}"
    try:
        return Succeeded(run_function(scope, definition, command.arguments, where))
    except (StoreError, FunctionLostTransaction):
        raise
    except TransactionLost as error:
        raise FunctionLostTransaction(workflow_id, number) from error
    except BaseException as error:
        # SystemExit and KeyboardInterrupt too: user code ends its step, not the worker.
        return Failed(encode_error(error))


def run_on_complete(
    scope: Scope, definition: Mutation[..., Any], state: WorkflowState, outcome: Outcome
) -> ErrorInfo | None:
    """Run a workflow's `on_complete`; the error if it raised (its writes are then undone)."""
    workflow_id = state.workflow_id
    if (workflow_id, ON_COMPLETE) in scope.lost:
        return _LOST
    where = f"on_complete of workflow {workflow_id}"
    context = scope.env.make_context(scope, False)

    def call() -> None:
        try:
            definition.fn(context, *_on_complete_arguments(definition, state, outcome))
        finally:
            context.close()

    try:
        with scope.env.watch.watched_function(where):
            inside_user_code(scope, call, read_only=False)
    except (StoreError, FunctionLostTransaction):
        raise
    except TransactionLost as error:
        raise FunctionLostTransaction(workflow_id, ON_COMPLETE) from error
    except BaseException as error:
        logger.exception("%s raised; its writes are undone and the outcome stands", where)
        return encode_error(error)
    return None


def _on_complete_arguments(
    definition: Mutation[..., Any], state: WorkflowState, outcome: Outcome
) -> tuple[Any, ...]:
    """(workflow id, outcome with a plain value, context); the last only if it is a parameter."""
    shown: Any = Succeeded(plain(outcome.value)) if isinstance(outcome, Succeeded) else outcome
    if len(definition.arguments.names) == 2:
        return state.workflow_id, shown
    codec = context_codec(definition)
    assert codec is not None
    text = state.header.context
    context = None if text is None else codec.decode(text, where="context of on_complete")
    return state.workflow_id, shown, context


def context_codec(on_complete: Mutation[..., Any]) -> TypeCodec[Any] | None:
    """The codec of the third parameter of an `on_complete`; None if it leaves it out.

    Raises:
        DefinitionError: the mutation's parameters are not those of an `on_complete`.
    """
    arguments = on_complete.arguments
    names = arguments.names

    def refuse(problem: str) -> NoReturn:
        raise DefinitionError(
            f"on_complete={on_complete!r}: {problem}, but an on_complete takes"
            " (ctx, workflow_id: str, outcome: Outcome, context), each by position, or leaves out"
            " the last"
        )

    if len(names) not in (2, 3):
        refuse(f"its parameters are (ctx, {', '.join(names)})")
    if arguments.positional != names:
        refuse(f"its parameters are keyword-only: {', '.join(names[len(arguments.positional) :])}")
    workflow_id, outcome = map(arguments.codec, names[:2])
    if not workflow_id.takes_text:
        refuse(f"its parameter `{names[0]}` is annotated with {workflow_id}")
    if not outcome.takes_outcome:
        refuse(f"its parameter `{names[1]}` is annotated with {outcome}")
    return arguments.codec(names[2]) if len(names) == 3 else None


def inside_user_code(scope: Scope, fn: Callable[[], Any], *, read_only: bool) -> Any:
    """Run `fn` behind the fence; what it asked for through its context follows only if it ends."""
    after = scope.after
    lists = (
        after.adopted,
        after.revoked,
        after.replaced,
        after.effects,
        after.messages,
        after.ended,
    )
    canceled = len(after.canceled)
    marks = [len(items) for items in lists]
    try:
        return scope.tx.run_user_code(lambda: inside_transaction(fn), read_only=read_only)
    except BaseException:
        for items, mark in zip(lists, marks, strict=True):
            del items[mark:]  # type: ignore[attr-defined]
        sometimes("what a function did is undone")
        del after.canceled[canceled:]
        raise
