"""A call's arguments as one JSON object by name, and back."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import pytest

from perdure.codec import (
    ArgumentsCodec,
)
from perdure.errors import DefinitionError, LimitExceeded, ValidationError

LIMIT = 1024 * 1024


def sample(ctx: object, a: int, /, b: str, c: list[int] | None = None, *, d: float = 0.5) -> None:
    """Every kind of parameter."""


CODEC = ArgumentsCodec.of(sample, where="action sample")


def arguments(*args: Any, **kwargs: Any) -> str:
    return CODEC.encode(args, kwargs, where="arguments of sample", limit=LIMIT)


def test_arguments_are_an_object_in_order_of_declaration_with_defaults() -> None:
    """A stored call is complete, however it was written."""
    assert arguments(1, "x") == '{"a":1,"b":"x","c":null,"d":0.5}'
    assert arguments(1, d=2.0, c=[1], b="x") == '{"a":1,"b":"x","c":[1],"d":2.0}'


def test_stored_arguments_bind_to_the_function() -> None:
    """Positional-only parameters come as a list, all others by name."""
    assert CODEC.bind(arguments(1, "x"), where="w") == ([1], {"b": "x", "c": None, "d": 0.5})
    assert CODEC.decode(arguments(1, "x"), where="w") == {"a": 1, "b": "x", "c": None, "d": 0.5}


CALLS: list[tuple[tuple[Any, ...], dict[str, Any], str]] = [
    ((), {}, "the argument `a` is missing"),
    ((1,), {}, "the argument `b` is missing"),
    ((1, "x", None, 4), {}, "takes 3 positional arguments, not 4: 4 is one too many"),
    ((1, "x"), {"e": 1}, "there is no argument `e`"),
    ((1, "x"), {"b": "y"}, "two values for the argument `b`"),
    ((), {"a": 1, "b": "x"}, "the argument `a` is positional-only"),
    ((1, 2), {}, "Expected `str`, got `int` at $.b: 2"),
    ((1, "x", [1, "y"]), {}, "Expected `int`, got `str` at $.c[1]: 'y'"),
    ((1, "x"), {"d": math.nan}, "at $.d"),
]


@pytest.mark.parametrize(("args", "kwargs", "message"), CALLS, ids=[each[2] for each in CALLS])
def test_a_call_that_does_not_fit_is_refused(
    args: tuple[Any, ...], kwargs: dict[str, Any], message: str
) -> None:
    """Binding mistakes name the parameter, wrong values their path."""
    with pytest.raises(ValidationError) as caught:
        arguments(*args, **kwargs)
    assert str(caught.value).startswith("arguments of sample: ")
    assert message in str(caught.value)


def test_arguments_over_the_limit_are_refused() -> None:
    """The limit holds for all arguments together."""
    with pytest.raises(LimitExceeded, match="the limit is 40"):
        CODEC.encode((1, "x" * 20), {}, where="w", limit=40)


def test_a_parameter_that_the_code_gained_gets_its_default() -> None:
    """A call stored before the parameter existed still runs; the default is fresh each time."""

    def later(ctx: object, a: int, more: list[int] = [1]) -> None:  # noqa: B006
        """Gained `more`."""

    codec = ArgumentsCodec.of(later, where="w")
    first, second = (codec.decode('{"a":1}', where="w") for _ in range(2))
    assert first == {"a": 1, "more": [1]}
    assert first["more"] is not second["more"]


STORED = [
    ('{"a":1,"b":"x","gone":1}', r"unknown argument at \$\.gone"),
    ('{"a":1}', "the argument `b` is missing"),
    ('{"a":1,"b":2}', r"Expected `str`, got `int` at \$\.b: 2"),
    ("[1]", "Expected `object`, got `array`"),
    ("{", "w: "),
]


@pytest.mark.parametrize(("text", "message"), STORED)
def test_stored_arguments_that_no_longer_fit_are_refused(text: str, message: str) -> None:
    """Code that changed under a stored call gives a clear error, not a wrong call."""
    with pytest.raises(ValidationError, match=message):
        CODEC.decode(text, where="w")


def test_functions_whose_arguments_cannot_be_stored_are_refused() -> None:
    """Each is a DefinitionError that names the function and the parameter."""

    def no_context() -> None: ...
    def only_keywords(*, ctx: object) -> None: ...
    def many(ctx: object, *args: int) -> None: ...
    def named(ctx: object, **kwargs: int) -> None: ...
    def odd(ctx: object, x: complex) -> None: ...
    def default(ctx: object, x: int = None) -> None: ...  # type: ignore[assignment]  # noqa: RUF013
    def unknown(ctx: object, x: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    for fn, message in (
        (no_context, "the first parameter must be the context"),
        (only_keywords, "the first parameter must be the context"),
        (many, r"`\*args: 'int'` cannot be stored"),
        (named, r"`\*\*kwargs: 'int'` cannot be stored"),
        (odd, "parameter `x`: values of complex cannot be stored"),
        (default, r"parameter `x`: Expected `int`, got `null` at \$\.x: None \(its default\)"),
        (unknown, "parameter `x`: the annotation 'Nowhere' cannot be resolved.*module level"),
    ):
        with pytest.raises(DefinitionError, match=message) as caught:
            ArgumentsCodec.of(fn, where=f"action {fn.__name__} at a.py:1")
        assert str(caught.value).startswith(f"action {fn.__name__} at a.py:1: ")


def test_the_context_may_have_any_annotation() -> None:
    """Contexts are often imported for type checkers alone."""

    def fn(ctx: Nowhere, x: int) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    assert ArgumentsCodec.of(fn, where="w").decode('{"x":1}', where="w") == {"x": 1}


def test_annotations_of_local_classes_are_found() -> None:
    """By a closure, or among the names that the caller hands over."""

    @dataclass
    class Local:
        n: int

    def fn(ctx: object, x: Local) -> None: ...
    def closes_over(ctx: object, x: Local) -> object:
        return Local

    handed = ArgumentsCodec.of(fn, where="w", names=locals())
    for codec in (handed, ArgumentsCodec.of(closes_over, where="w")):
        assert codec.decode('{"x":{"n":1}}', where="w") == {"x": Local(1)}


def test_a_wrapped_function_keeps_its_signature() -> None:
    """Other people's decorators that use functools.wraps do not hide the parameters."""

    @functools.wraps(sample)
    def wrapper(*args: Any, **kwargs: Any) -> None: ...

    codec = ArgumentsCodec.of(wrapper, where="w")
    assert codec.encode((1, "x"), {}, where="w", limit=LIMIT) == arguments(1, "x")


def test_parameters_without_annotation_take_any_json() -> None:
    """An unannotated function works, with plain values."""

    def fn(ctx, x, y=None): ...  # type: ignore[no-untyped-def]

    codec = ArgumentsCodec.of(fn, where="w")
    assert codec.encode(([1, "a"],), {}, where="w", limit=LIMIT) == '{"x":[1,"a"],"y":null}'


def test_a_name_that_means_something_to_classes_is_a_name_like_others() -> None:
    """No value of an argument is called when its holder is thrown away."""

    def fn(ctx: object, __del__: int, other: str) -> None: ...

    codec = ArgumentsCodec.of(fn, where="fn")
    _, kwargs = codec.bind('{"__del__":1,"other":"x"}', where="arguments of fn")
    assert kwargs == {"__del__": 1, "other": "x"}
