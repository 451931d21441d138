"""What users decorate: queries, mutations, actions and workflows; and the calls made of them.

A decorator checks the function once, when the module is imported, and gives a `Definition`.
Calling that runs nothing: it gives a `Call`, which a step or the manager turns into stored text.
A registry holds the definitions of one manager by name.

Not here: running a function, the contexts that it gets, and when anything is stored.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping
from datetime import timedelta
from types import CodeType
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Concatenate,
    Generic,
    Literal,
    Never,
    NoReturn,
    ParamSpec,
    Protocol,
    TypeAlias,
    TypeVar,
    overload,
)

import attrs

from .annotations import check_first, innermost, resolve
from .codec import ArgumentsCodec, TypeCodec
from .core.limits import NAME_LENGTH_MAX, VALUE_BYTES_MAX
from .core.outcomes import Json
from .core.retry import RetryPolicy, duration_ms
from .determinism import warn_about
from .errors import DefinitionError

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

#: A function's kind: what its context may do, and how it is run.
Kind: TypeAlias = Literal["query", "mutation", "action", "workflow"]

_Classes: TypeAlias = type[Exception] | Iterable[type[Exception]]


@attrs.frozen(unsafe_hash=False)
class Call(Generic[R_co]):
    """A definition with arguments: what to run, not yet run. `R_co` is what it will return.

    Made by calling a definition; the arguments are validated when it is handed to a step or to
    the manager. Calls of the same definition with equal arguments are equal.
    """

    definition: Definition[..., R_co]
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = attrs.field(factory=dict)

    def encode(self, limit: int = VALUE_BYTES_MAX) -> Json:
        """The arguments as a JSON object by parameter name, defaults filled in.

        Args:
            limit: most bytes that the text may have.

        Raises:
            ValidationError: the arguments do not fit the function's signature or annotations.
            LimitExceeded: the text is longer than `limit`.
        """
        definition = self.definition
        return definition.arguments.encode(
            self.args, self.kwargs, where=f"arguments of {definition.name}", limit=limit
        )

    if not TYPE_CHECKING:  # so that type checkers refuse `await call` before it is run

        def __await__(self) -> NoReturn:
            name, kind = self.definition.name, self.definition.kind
            raise TypeError(
                f"a call of {name} runs nothing by itself: in a workflow write"
                f" `await step.run_{kind}({name}(…))`, outside one {_OUTSIDE[kind]}"
            )


@attrs.frozen(unsafe_hash=False)
class QueryCall(Call[R_co]):
    """A call of a query, as `run_query` takes it."""


@attrs.frozen(unsafe_hash=False)
class MutationCall(Call[R_co]):
    """A call of a mutation, as `run_mutation` takes it."""


@attrs.frozen(unsafe_hash=False)
class ActionCall(Call[R_co]):
    """A call of an action, as `run_action` takes it."""


@attrs.frozen(unsafe_hash=False)
class WorkflowCall(Call[R_co]):
    """A call of a workflow, as `start` and `run_workflow` take it."""


_OUTSIDE: dict[Kind, str] = {
    "query": "`await manager.run_query(…)`",
    "mutation": "`await manager.run_mutation(…)`",
    "action": "start a workflow that runs it",
    "workflow": "`await manager.start(…)`",
}


@attrs.frozen(eq=False, repr=False, kw_only=True)
class Definition(Generic[P, R_co]):
    """A decorated function. Two definitions are equal only if they are the same object.

    Attributes:
        name: under which it is stored and found again.
        fn: the bare function, for unit tests.
        place: ``"file:line"`` of the function.
        arguments: the codec of its arguments, without the context.
        result: the codec of what it returns (of an `async def`: what awaiting it gives).
    """

    kind: ClassVar[Kind]

    name: str
    fn: Callable[Concatenate[Any, P], Any]
    place: str
    arguments: ArgumentsCodec
    result: TypeCodec[Any]

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> Call[R_co]:
        """Run nothing: a `Call` for a step or for the manager."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"<{self.kind} {self.name} at {os.path.basename(self.place)}>"


@attrs.frozen(eq=False, repr=False, kw_only=True)
class Query(Definition[P, R_co]):
    """Reads the database: a plain `def` in a read-only transaction."""

    kind: ClassVar[Literal["query"]] = "query"

    if TYPE_CHECKING:
        fn: Callable[Concatenate[Any, P], R_co]

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> QueryCall[R_co]:
        """Run nothing: a `Call` for a step or for the manager."""
        return QueryCall(self, args, kwargs)


@attrs.frozen(eq=False, repr=False, kw_only=True)
class Mutation(Definition[P, R_co]):
    """Writes to the database: a plain `def` in a transaction."""

    kind: ClassVar[Literal["mutation"]] = "mutation"

    if TYPE_CHECKING:
        fn: Callable[Concatenate[Any, P], R_co]

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> MutationCall[R_co]:
        """Run nothing: a `Call` for a step or for the manager."""
        return MutationCall(self, args, kwargs)


@attrs.frozen(eq=False, repr=False, kw_only=True)
class Action(Definition[P, R_co]):
    """Does anything: `async def`, or `def` in a thread.

    Attributes:
        retry: True for the manager's default policy, False for none, a policy, or None for
            what the workflow or the manager says.
        timeout_ms: bound of one attempt, or None.
        raises: exception classes that are answers: not retried, and given back as they are.
        is_async: whether `fn` is an `async def`.
    """

    kind: ClassVar[Literal["action"]] = "action"

    retry: bool | RetryPolicy | None = None
    timeout_ms: int | None = None
    raises: tuple[type[Exception], ...] = ()
    is_async: bool

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> ActionCall[R_co]:
        """Run nothing: a `Call` for a step."""
        return ActionCall(self, args, kwargs)


@attrs.frozen(eq=False, repr=False, kw_only=True)
class AsyncAction(Action[P, R_co]):
    """An action that is an `async def`."""

    is_async: Literal[True] = True

    if TYPE_CHECKING:
        fn: Callable[Concatenate[Any, P], Awaitable[R_co]]


@attrs.frozen(eq=False, repr=False, kw_only=True)
class ThreadAction(Action[P, R_co]):
    """An action that is a `def`, and so runs in a thread."""

    is_async: Literal[False] = False

    if TYPE_CHECKING:
        fn: Callable[Concatenate[Any, P], R_co]


@attrs.frozen(eq=False, repr=False, kw_only=True)
class Workflow(Definition[P, R_co]):
    """An `async def` over steps, which survives crashes.

    Attributes:
        retry: default for its action steps; see `Action.retry`.
        version: always None for now.
    """

    kind: ClassVar[Literal["workflow"]] = "workflow"

    retry: bool | RetryPolicy | None = None
    version: None = None

    if TYPE_CHECKING:
        fn: Callable[Concatenate[Any, P], Coroutine[Any, Any, R_co]]

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> WorkflowCall[R_co]:
        """Run nothing: a `Call` for a step or for the manager."""
        return WorkflowCall(self, args, kwargs)


class Registry:
    """The definitions of one manager by name; a name is unique over all kinds."""

    def __init__(self) -> None:
        self._by_name: dict[str, Definition[..., Any]] = {}
        self._workflow_names: tuple[str, ...] | None = None

    def add(self, definition: Definition[..., Any]) -> None:
        """Take up a definition; raises DefinitionError if its name is taken."""
        other = self._by_name.setdefault(definition.name, definition)
        self._workflow_names = None
        if other is not definition:
            raise DefinitionError(
                f"{definition.kind} {definition.name} at {definition.place}: the name is taken by"
                f" the {other.kind} at {other.place}: rename one, or give it name=…"
            )

    def get(self, name: str) -> Definition[..., Any] | None:
        """The definition of that name, or None."""
        return self._by_name.get(name)

    @property
    def workflow_names(self) -> tuple[str, ...]:
        """Names of the workflows, in the order of definition."""
        names = self._workflow_names  # asked for at each look for work
        if names is None:
            names = tuple(each.name for each in self if each.kind == "workflow")
            self._workflow_names = names
        return names

    @property
    def function_names(self) -> tuple[str, ...]:
        """Names of queries, mutations and actions, in the order of definition."""
        return tuple(each.name for each in self if each.kind != "workflow")

    def __iter__(self) -> Iterator[Definition[..., Any]]:
        return iter(self._by_name.values())

    def __len__(self) -> int:
        return len(self._by_name)

    def __contains__(self, name: object) -> bool:
        return name in self._by_name


class QueryDecorator(Protocol):
    """What `@manager.query(…)` gives."""

    def __call__(self, fn: Callable[Concatenate[Any, P], R], /) -> Query[P, R]: ...


class MutationDecorator(Protocol):
    """What `@manager.mutation(…)` gives."""

    def __call__(self, fn: Callable[Concatenate[Any, P], R], /) -> Mutation[P, R]: ...


class ActionDecorator(Protocol):
    """What `@manager.action(…)` gives."""

    @overload  # the first that fits decides
    def __call__(  # type: ignore[overload-overlap]
        self, fn: Callable[Concatenate[Any, P], Awaitable[R]], /
    ) -> AsyncAction[P, R]: ...
    @overload
    def __call__(self, fn: Callable[Concatenate[Any, P], R], /) -> ThreadAction[P, R]: ...


class WorkflowDecorator(Protocol):
    """What `@manager.workflow(…)` gives."""

    def __call__(
        self, fn: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]], /
    ) -> Workflow[P, R]: ...


class Definer:
    """The four decorators and the registry that they fill. `WorkflowManager` inherits it."""

    #: What functions of each kind get as their first argument; one that is not here is not checked.
    _contexts: ClassVar[Mapping[Kind, type]] = {}

    def __init__(self) -> None:
        self.registry = Registry()

    @overload
    def query(self, fn: Callable[Concatenate[Any, P], R], /) -> Query[P, R]: ...
    @overload
    def query(self, /, *, name: str | None = None) -> QueryDecorator: ...
    def query(self, fn: Any = None, /, *, name: str | None = None) -> Any:
        """Define a query: a plain `def` whose first parameter is a `QueryContext`.

        Args:
            fn: the function, when the decorator is used bare.
            name: under which it is stored; default: the function's own name.

        Raises:
            DefinitionError: the function, its annotations or its name cannot be used.
        """

        def define(fn: Any) -> Any:
            return self._add(Query(**self._read_function(fn, "query", name)))

        return define if fn is None else define(fn)

    @overload
    def mutation(self, fn: Callable[Concatenate[Any, P], R], /) -> Mutation[P, R]: ...
    @overload
    def mutation(self, /, *, name: str | None = None) -> MutationDecorator: ...
    def mutation(self, fn: Any = None, /, *, name: str | None = None) -> Any:
        """Define a mutation: a plain `def` whose first parameter is a `MutationContext`.

        Args and errors as for `query`.
        """

        def define(fn: Any) -> Any:
            return self._add(Mutation(**self._read_function(fn, "mutation", name)))

        return define if fn is None else define(fn)

    @overload  # the first that fits decides
    def action(  # type: ignore[overload-overlap]
        self, fn: Callable[Concatenate[Any, P], Awaitable[R]], /
    ) -> AsyncAction[P, R]: ...
    @overload
    def action(self, fn: Callable[Concatenate[Any, P], R], /) -> ThreadAction[P, R]: ...
    @overload
    def action(
        self,
        /,
        *,
        name: str | None = None,
        retry: bool | RetryPolicy | None = None,
        timeout: timedelta | float | None = None,
        raises: _Classes = (),
    ) -> ActionDecorator: ...
    def action(
        self,
        fn: Any = None,
        /,
        *,
        name: str | None = None,
        retry: bool | RetryPolicy | None = None,
        timeout: timedelta | float | None = None,
        raises: _Classes = (),
    ) -> Any:
        """Define an action: `async def` or `def` whose first parameter is an `ActionContext`.

        Args:
            fn: the function, when the decorator is used bare.
            name: under which it is stored; default: the function's own name.
            retry: True for the manager's default policy, False for never, a `RetryPolicy`, or
                None for what the workflow or the manager says.
            timeout: bound of each attempt, a `timedelta` or seconds.
            raises: exception classes that are answers: not retried, and raised again in the
                handler, with their args, text and attributes. A subclass comes back as the class
                listed here. Values are stored as the annotations of its ``__init__`` say; else as
                plain JSON.

        Raises:
            DefinitionError: the function, its annotations or its name cannot be used.
            TypeError, ValueError: an option cannot be used.
        """
        _check_retry(retry)
        timeout_ms, classes = _timeout_ms(timeout), _classes(raises)

        def define(fn: Any) -> Any:
            kind: Any = AsyncAction if inspect.iscoroutinefunction(fn) else ThreadAction
            definition: Action[..., Any] = kind(
                **self._read_function(fn, "action", name),
                retry=retry,
                timeout_ms=timeout_ms,
                raises=classes,
            )
            return self._add(definition)

        return define if fn is None else define(fn)

    @overload
    def workflow(
        self, fn: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]], /
    ) -> Workflow[P, R]: ...
    @overload
    def workflow(
        self, /, *, name: str | None = None, retry: bool | RetryPolicy | None = None
    ) -> WorkflowDecorator: ...
    def workflow(
        self,
        fn: Any = None,
        /,
        *,
        name: str | None = None,
        retry: bool | RetryPolicy | None = None,
    ) -> Any:
        """Define a workflow: an `async def` whose first parameter is a `Step`.

        Args:
            fn: the function, when the decorator is used bare.
            name: under which it is stored; default: the function's own name.
            retry: default for its action steps, as for `action`.

        Raises:
            DefinitionError: the function, its annotations or its name cannot be used.
            TypeError: `retry` cannot be used.

        Warns:
            DeterminismWarning: its code names a clock, randomness or the environment.
        """
        _check_retry(retry)

        def define(fn: Any) -> Any:
            definition: Workflow[..., Any] = Workflow(
                **self._read_function(fn, "workflow", name), retry=retry
            )
            warn_about(fn)
            return self._add(definition)

        return define if fn is None else define(fn)

    def _read_function(self, fn: Any, kind: Kind, name: str | None) -> dict[str, Any]:
        return _read(fn, kind, name, self._contexts.get(kind))

    def _add(self, definition: Definition[..., Any]) -> Definition[..., Any]:
        self.registry.add(definition)
        return definition


def checked_name(name: object, where: str) -> str:
    """`name` if it can be one: printable text of 1 to 200 characters.

    Raises:
        DefinitionError: it cannot; `where` begins the message.
    """
    if not isinstance(name, str):
        raise DefinitionError(f"{where}: a name is text, not {name!r}")
    if not 0 < len(name) <= NAME_LENGTH_MAX:
        raise DefinitionError(
            f"{where}: a name has 1 to {NAME_LENGTH_MAX} characters, not {len(name)}"
        )
    if not name.isprintable():
        raise DefinitionError(f"{where}: the name {name!r} has characters that do not print")
    return str.__str__(name)  # of a subclass (markup, an enum) only the text is stored


def _read(fn: Any, kind: Kind, name: str | None, context: type | None) -> dict[str, Any]:
    """What all four kinds of definition have in common."""
    if not inspect.isfunction(fn):
        raise DefinitionError(f"@{kind}: {fn!r} is not a function: decorate a `def` or `async def`")
    code = innermost(fn).__code__
    place = f"{code.co_filename}:{code.co_firstlineno}"
    where = f"{kind} {fn.__qualname__} at {place}"
    if name is None and fn.__name__ == "<lambda>":
        raise DefinitionError(f"{where}: a lambda has no name: give it name=…")
    _check_form(fn, code, kind, where)
    names = _names_around(fn)
    if context is not None:
        check_first(fn, context, where=where, names=names)
    annotation = inspect.signature(fn).return_annotation
    what = f"{where}: return value"
    if annotation is not inspect.Signature.empty:
        annotation = resolve(annotation, fn, where=what, names=names)
    if annotation in (Never, NoReturn):  # it runs until it is canceled or fails
        annotation = None
    return {
        "name": checked_name(fn.__name__ if name is None else name, where),
        "fn": fn,
        "place": place,
        "arguments": ArgumentsCodec.of(fn, where=where, names=names),
        "result": TypeCodec.of(annotation, where=what),
    }


def _check_form(fn: Any, code: CodeType, kind: Kind, where: str) -> None:
    if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
        raise DefinitionError(f"{where}: it yields: return a value instead")
    is_async = inspect.iscoroutinefunction(fn)
    if kind in ("query", "mutation") and is_async:
        raise DefinitionError(
            f"{where}: a {kind} is a plain `def`, since it runs inside a database transaction;"
            " what must await belongs into an action"
        )
    if kind == "workflow" and not is_async:
        raise DefinitionError(f"{where}: a workflow is an `async def`")
    if code.co_argcount and code.co_varnames[0] in ("self", "cls"):
        raise DefinitionError(
            f"{where}: the first parameter is the context, so a method cannot be used:"
            " decorate a function, or a @staticmethod's function"
        )


def _names_around(fn: Any) -> Mapping[str, Any]:
    """The variables of the function that defines `fn`, so that it may name a local class.

    Annotations are text under `from __future__ import annotations`, and a closure holds only
    what the body of `fn` uses.
    """
    if "<locals>" not in fn.__qualname__:
        return {}
    frame = sys._getframe()
    while frame.f_back is not None and frame.f_globals is globals():
        frame = frame.f_back
    return frame.f_locals


def _check_retry(retry: object) -> None:
    if not (retry is None or isinstance(retry, bool | RetryPolicy)):
        raise TypeError(f"retry={retry!r}: give True, False or a RetryPolicy")


def _timeout_ms(timeout: timedelta | float | None) -> int | None:
    if timeout is None:
        return None
    ms = duration_ms(timeout, "timeout")
    if ms == 0:
        raise ValueError(f"timeout={timeout!r}: give a duration above 0")
    return ms


def _classes(raises: _Classes) -> tuple[type[Exception], ...]:
    classes: tuple[type[Exception], ...]
    if isinstance(raises, type) or not isinstance(raises, Iterable):
        classes = (raises,)
    else:
        classes = tuple(raises)  # a list too, as `non_retryable` takes it
    names: set[str] = set()
    for cls in classes:
        if not (isinstance(cls, type) and issubclass(cls, Exception)):
            raise TypeError(
                f"raises={raises!r}: {cls!r} is not a subclass of Exception: give a class, or"
                " several in a tuple or a list"
            )
        if issubclass(cls, StopIteration):
            raise ValueError(
                f"raises={raises!r}: Python lets no coroutine raise {cls.__name__}: give another"
                " class"
            )
        # An error is stored under its bare class name.
        if cls.__name__ in names:
            raise ValueError(f"raises={raises!r}: two classes are called {cls.__name__}")
        names.add(cls.__name__)
    return classes
