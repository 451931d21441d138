"""Annotations of functions: the names in them looked up, and that of the context judged.

Not here: what may be stored (`codec`).
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from types import UnionType
from typing import Annotated, Any, NewType, TypeVar, Union

from .errors import DefinitionError


def resolve(
    annotation: Any, fn: Callable[..., Any], *, where: str, names: Mapping[str, Any] | None = None
) -> Any:
    """An annotation of `fn` with the names in it looked up.

    Args:
        annotation: as it stands on the function: a type, or text.
        fn: the function, whose globals and enclosing variables are searched.
        where: what it annotates, for the message.
        names: more names, such as the variables of the function that encloses `fn`.

    Raises:
        DefinitionError: a name is not found, or the text is not an annotation.
    """

    def holder() -> None: ...

    holder.__annotations__ = {"it": annotation}
    fn = innermost(fn)
    cells = zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True)
    around = dict(names or {})
    for name, cell in cells:
        try:
            around[name] = cell.cell_contents
        except ValueError:  # not bound yet: an annotation that needs it is told below
            continue
    around.update((each.__name__, each) for each in getattr(fn, "__type_params__", ()))
    try:
        return typing.get_type_hints(holder, fn.__globals__, around, include_extras=True)["it"]
    except NameError as error:
        raise DefinitionError(
            f"{where}: the annotation {annotation!r} cannot be resolved ({error}): define or"
            " import the name at module level, and not only under `if TYPE_CHECKING:`"
        ) from None
    except Exception as error:
        raise DefinitionError(
            f"{where}: the annotation {annotation!r} is not a type ({error})"
        ) from None


def innermost(fn: Callable[..., Any]) -> Any:
    """The function under all `functools.wraps`, whose names the annotations use."""
    inner = inspect.unwrap(fn)
    return inner if inspect.isfunction(inner) else fn


def check_first(
    fn: Callable[..., Any], context: type, *, where: str, names: Mapping[str, Any] | None = None
) -> None:
    """Refuse a first parameter that is annotated with what a context is not.

    Without annotation, and where it cannot be resolved here (a name that only type checkers
    import), nothing is known and nothing refused.

    Args:
        fn: the function; it may have no parameter at all.
        context: the class of what it will get.
        where: what the function is, for the message.
        names: as for `resolve`.

    Raises:
        DefinitionError: the annotation is another class, and no base, subclass or protocol.
    """
    first = next(iter(inspect.signature(fn).parameters.values()), None)
    if first is None or first.annotation is inspect.Parameter.empty:
        return
    try:
        annotation = resolve(first.annotation, fn, where=where, names=names)
    except DefinitionError:
        return
    if not _may_be(annotation, context):
        shown = annotation.__name__ if isinstance(annotation, type) else annotation
        raise DefinitionError(
            f"{where}: the first parameter is the context, but `{first.name}` is annotated with"
            f" {shown}: annotate it with {context.__name__}, or put"
            f" `ctx: {context.__name__}` before it"
        )


def _may_be(annotation: Any, context: type) -> bool:
    """Whether a `context` may be passed for it, or an object of it for a `context`."""
    if annotation is Any:  # a class, as Python sees it
        return True
    origin = typing.get_origin(annotation)
    if origin in (Union, UnionType):
        return any(_may_be(each, context) for each in typing.get_args(annotation))
    if origin is Annotated:
        return _may_be(typing.get_args(annotation)[0], context)
    if isinstance(annotation, NewType):
        return _may_be(annotation.__supertype__, context)
    if isinstance(annotation, TypeVar):
        bounds = annotation.__constraints__ or (annotation.__bound__ or Any,)
        return any(_may_be(each, context) for each in bounds)
    cls = origin or annotation
    if not isinstance(cls, type) or getattr(cls, "_is_protocol", False):
        return not (cls is None or cls is type(None))
    try:
        return issubclass(cls, context) or issubclass(context, cls)
    except TypeError:  # a class whose metaclass answers no such questions
        return True
