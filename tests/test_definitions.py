"""The decorators: what they accept and refuse, what a definition and a call know."""

from __future__ import annotations

import os
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NoReturn

import pytest

from perdure.core.limits import NAME_LENGTH_MAX
from perdure.core.retry import RetryPolicy
from perdure.definitions import (
    Action,
    AsyncAction,
    Call,
    Definer,
    Mutation,
    MutationCall,
    Query,
    Registry,
    ThreadAction,
    Workflow,
)
from perdure.errors import DefinitionError, DeterminismWarning, LimitExceeded, ValidationError


@pytest.fixture
def manager() -> Definer:
    return Definer()


def plain_def(ctx: object, n: int) -> str:
    """A function that can be a query, a mutation or an action."""
    return str(n)


async def async_def(ctx: object, n: int) -> str:
    """A function that can be an action or a workflow."""
    return str(n)


def test_each_decorator_gives_its_kind(manager: Definer) -> None:
    """Bare decorators take the function's name, its arguments and its result."""
    query = manager.query(plain_def)
    assert (type(query), query.kind, query.name) == (Query, "query", "plain_def")
    assert query.fn is plain_def
    assert query.arguments.decode('{"n":1}', where="w") == {"n": 1}
    assert query.result.annotation is str
    mutation = Definer().mutation(plain_def)
    assert (type(mutation), mutation.kind) == (Mutation, "mutation")
    action = Definer().action(plain_def)
    assert (type(action), action.kind, action.is_async) == (ThreadAction, "action", False)
    assert isinstance(action, Action)
    assert type(Definer().action(async_def)) is AsyncAction
    workflow = manager.workflow(async_def)
    assert (type(workflow), workflow.kind, workflow.version) == (Workflow, "workflow", None)
    assert workflow.result.annotation is str


def test_options_are_kept(manager: Definer) -> None:
    """Names, retries, timeouts in milliseconds, and one class or several in `raises`."""
    policy = RetryPolicy(max_attempts=2)
    action = manager.action(name="a b", retry=policy, timeout=1.5, raises=KeyError)(async_def)
    assert (action.name, action.retry, action.timeout_ms) == ("a b", policy, 1500)
    assert (action.raises, action.is_async) == ((KeyError,), True)
    other = manager.action(timeout=timedelta(minutes=1), raises=(KeyError, OSError))(plain_def)
    assert (other.timeout_ms, other.raises, other.retry) == (60_000, (KeyError, OSError), None)
    listed = manager.action(name="listed", raises=[KeyError, OSError])(plain_def)
    assert listed.raises == (KeyError, OSError)
    assert manager.workflow(name="w", retry=False)(async_def).retry is False
    assert manager.query(name="q")(plain_def).name == "q"
    assert manager.mutation(name="m")(plain_def).name == "m"


def test_a_definition_knows_its_place(manager: Definer) -> None:
    """`place` is file and line of the decorator; repr shows the file's name alone."""

    @manager.action
    def here(ctx: object) -> None: ...

    line = here.fn.__code__.co_firstlineno
    assert here.place == f"{here.fn.__code__.co_filename}:{line}"
    assert repr(here) == f"<action here at {os.path.basename(__file__)}:{line}>"


def test_definitions_are_equal_only_to_themselves() -> None:
    """Two definitions of one function are two; both can be keys."""
    first, second = Definer().query(plain_def), Definer().query(plain_def)
    assert first != second
    assert len({first, second}) == 2


def test_calling_a_definition_runs_nothing(manager: Definer) -> None:
    """It gives a Call with the arguments as written; `fn` is still the bare function."""

    @manager.mutation
    def fail(ctx: object, n: int, *, text: str = "x") -> None:
        raise AssertionError(n, text)

    call = fail(1, text="y")
    assert type(call) is MutationCall
    assert isinstance(call, Call)
    assert (call.definition, call.args, call.kwargs) == (fail, (1,), {"text": "y"})
    assert call == fail(1, text="y") != fail(2)
    assert call.encode() == '{"n":1,"text":"y"}'
    with pytest.raises(AssertionError):
        fail.fn(None, 1)


def test_a_call_is_validated_when_it_is_encoded(manager: Definer) -> None:
    """The call itself never raises; encoding names the function and the path."""
    query = manager.query(plain_def)
    with pytest.raises(ValidationError, match=r"arguments of plain_def: .* at \$\.n: 'x'"):
        query("x").encode()  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match="arguments of plain_def: the argument `n` is miss"):
        query().encode()  # type: ignore[call-arg]
    with pytest.raises(LimitExceeded, match=r"arguments of plain_def: .* the limit is 5"):
        query(12345).encode(limit=5)


@pytest.mark.parametrize(
    ("make", "remedy"),
    [
        (lambda: Definer().query(plain_def)(1), r"step\.run_query\(plain_def.*manager\.run_query"),
        (lambda: Definer().mutation(plain_def)(1), r"step\.run_mutation.*manager\.run_mutation"),
        (lambda: Definer().action(plain_def)(1), r"step\.run_action\(.*start a workflow"),
        (lambda: Definer().workflow(async_def)(1), r"step\.run_workflow\(.*manager\.start"),
    ],
)
def test_awaiting_a_call_says_what_to_write(make: Callable[[], Any], remedy: str) -> None:
    """The most likely mistake gets the line that was meant."""

    async def mistaken() -> None:
        await make()

    coroutine = mistaken()
    with pytest.raises(TypeError, match=remedy):
        coroutine.send(None)


def generator(ctx: object) -> Iterator[int]:
    yield 1


async def async_generator(ctx: object) -> AsyncIterator[int]:
    yield 1


class Holder:
    """Has a method."""

    def method(self, n: int) -> None: ...

    def __call__(self, ctx: object) -> None: ...


def no_context() -> None: ...


def star(ctx: object, *args: int) -> None: ...


def odd_result(ctx: object) -> complex:
    return 1j


def unknown_result(ctx: object) -> Nowhere: ...  # type: ignore[name-defined]  # noqa: F821


@pytest.mark.parametrize(
    ("kind", "fn", "message"),
    [
        ("query", async_def, "a query is a plain `def`"),
        ("mutation", async_def, "a mutation is a plain `def`.*belongs into an action"),
        ("workflow", plain_def, "a workflow is an `async def`"),
        ("workflow", async_generator, "it yields"),
        ("action", async_generator, "it yields"),
        ("query", generator, "it yields"),
        ("action", Holder.method, "first parameter is the context, so a method"),
        ("action", Holder(), "is not a function"),
        ("action", len, "is not a function"),
        ("action", 5, "is not a function"),
        ("action", lambda ctx: None, "a lambda has no name"),
        ("action", no_context, "the first parameter must be the context"),
        ("mutation", star, r"`\*args: 'int'` cannot be stored"),
        ("action", odd_result, "return value: values of complex cannot be stored"),
        ("action", unknown_result, "return value: the annotation 'Nowhere' cannot be resolved"),
    ],
)
def test_functions_that_cannot_be_used_are_refused(
    manager: Definer, kind: str, fn: Any, message: str
) -> None:
    """Each is a DefinitionError at definition, and nothing is registered."""
    with pytest.raises(DefinitionError, match=message) as caught:
        getattr(manager, kind)(fn)
    if hasattr(fn, "__code__"):
        place = f"{fn.__code__.co_filename}:{fn.__code__.co_firstlineno}"
        assert str(caught.value).startswith(f"{kind} {fn.__qualname__} at {place}: ")
    assert len(manager.registry) == 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "1 to 200 characters, not 0"),
        ("x" * (NAME_LENGTH_MAX + 1), "1 to 200 characters, not 201"),
        ("a\nb", "do not print"),
        ("\ud800", "do not print"),
        (5, "a name is text, not 5"),
    ],
)
def test_names_that_cannot_be_used_are_refused(manager: Definer, name: Any, message: str) -> None:
    """A name is part of keys and listings."""
    with pytest.raises(DefinitionError, match=message):
        manager.query(name=name)(plain_def)


def test_a_lambda_with_a_name_is_a_definition(manager: Definer) -> None:
    """It takes and gives any JSON value."""
    action = manager.action(name="double")(lambda ctx, n: n * 2)
    assert action(21).encode() == '{"n":21}'


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"retry": 3}, TypeError, "retry=3: give True, False or a RetryPolicy"),
        ({"timeout": 0}, ValueError, "timeout=0: give a duration above 0"),
        ({"timeout": -1}, ValueError, "cannot be negative"),
        ({"timeout": "1s"}, TypeError, "give a timedelta or a number"),
        ({"raises": (KeyError, 5)}, TypeError, "5 is not a subclass of Exception"),
        ({"raises": "KeyError"}, TypeError, "Exception: give a class, or several in a tuple"),
        ({"raises": 5}, TypeError, "5 is not a subclass of Exception"),
        ({"raises": KeyboardInterrupt}, TypeError, "not a subclass of Exception"),
        ({"raises": StopIteration}, ValueError, "no coroutine raise StopIteration"),
        ({"raises": (KeyError, type("KeyError", (Exception,), {}))}, ValueError, "two classes"),
    ],
)
def test_options_that_cannot_be_used_are_refused(
    manager: Definer, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    """A misuse of an option is a TypeError or ValueError, at the decorator."""
    with pytest.raises(error, match=message):
        manager.action(**options)


def test_a_workflow_checks_its_retry(manager: Definer) -> None:
    """As an action does."""
    with pytest.raises(TypeError, match="give True, False or a RetryPolicy"):
        manager.workflow(retry=3)  # type: ignore[call-overload]


def test_local_classes_may_be_annotations(manager: Definer) -> None:
    """Annotations are text here; the names of the enclosing function are found all the same."""

    @dataclass
    class Local:
        n: int

    @manager.action
    async def bare(ctx: object, value: Local) -> Local:
        return value

    @manager.workflow(name="other")
    async def with_options(ctx: object, value: Local) -> Local:
        return value

    for definition in (bare, with_options):
        assert definition.arguments.decode('{"value":{"n":1}}', where="w") == {"value": Local(1)}
        assert definition.result.decode('{"n":2}', where="w") == Local(2)


def test_a_missing_result_annotation_takes_any_json(manager: Definer) -> None:
    """Untyped functions work, with plain values."""

    @manager.action
    async def untyped(ctx, value):  # type: ignore[no-untyped-def]
        return value

    assert untyped.result.encode([1, {"a": None}], where="w", limit=99) == '[1,{"a":null}]'


def test_a_workflow_may_be_endless(manager: Definer) -> None:
    """One that never returns says so, and needs no result that can be stored."""

    @manager.workflow
    async def endless(step: object) -> NoReturn:
        raise RuntimeError

    assert endless.result.annotation is None


def test_a_name_is_unique_over_all_kinds(manager: Definer) -> None:
    """The second definition of a name is refused, and both places are named."""
    first = manager.query(plain_def)
    with pytest.raises(DefinitionError) as caught:
        manager.workflow(name="plain_def")(async_def)
    assert first.place in str(caught.value)
    assert f"{async_def.__code__.co_firstlineno}" in str(caught.value)
    assert manager.registry.get("plain_def") is first


def test_a_registry_lists_workflows_and_functions_apart(manager: Definer) -> None:
    """Names come in the order of definition; unknown names give None."""
    query = manager.query(plain_def)
    workflow = manager.workflow(async_def)
    action = manager.action(name="act")(async_def)
    registry = manager.registry
    assert registry.workflow_names == ("async_def",)
    assert registry.function_names == ("plain_def", "act")
    assert list(registry) == [query, workflow, action]
    assert "act" in registry
    assert registry.get("none") is None


def test_the_same_definition_may_be_added_twice() -> None:
    """Adding is idempotent, so that a registry can be shared."""
    registry = Registry()
    query = Definer().query(plain_def)
    registry.add(query)
    registry.add(query)
    assert list(registry) == [query]


def test_managers_do_not_share_names() -> None:
    """Each has a registry of its own."""
    first, second = Definer(), Definer()
    first.query(plain_def)
    second.query(plain_def)
    assert first.registry is not second.registry


def test_a_workflow_that_reads_the_environment_gives_a_warning(manager: Definer) -> None:
    """Determinism is looked at when a workflow is defined; an action may do it."""

    async def reads(step: object) -> str | None:
        return os.getenv("HOME")

    with pytest.warns(DeterminismWarning, match="getenv"):
        manager.workflow(reads)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        manager.action(name="act")(reads)


def test_a_parameter_may_be_called_self(manager: Definer) -> None:
    """Only the first one is ours; the name of the others is the user's matter."""

    @manager.mutation
    def put(ctx: Any, self: int) -> None: ...

    assert put(self=5).encode() == '{"self":5}'
