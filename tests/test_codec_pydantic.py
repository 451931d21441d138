"""Pydantic models to JSON and back; their unions are in test_unions.py."""

from __future__ import annotations

import datetime as dt
import inspect
import math
import uuid
from dataclasses import make_dataclass
from decimal import Decimal
from typing import Any

import pytest

from perdure.codec import TypeCodec
from perdure.errors import DefinitionError, ValidationError

LIMIT = 1024 * 1024


def encode(annotation: Any, value: Any, limit: int = LIMIT) -> str:
    return TypeCodec.of(annotation, where="the value").encode(value, where="the value", limit=limit)


def decode(annotation: Any, text: str) -> Any:
    return TypeCodec.of(annotation, where="the value").decode(text, where="the value")


def test_pydantic_models_are_stored_strictly() -> None:
    """An annotation that mentions a model goes through a strict TypeAdapter as a whole."""
    pydantic = pytest.importorskip("pydantic")

    class Model(pydantic.BaseModel):  # type: ignore[name-defined,misc]
        n: int
        when: dt.datetime | None = None
        tags: set[str] = pydantic.Field(default_factory=set)
        ratio: float | None = None

    class More(Model):
        extra: int = 1

    Holder = make_dataclass("Holder", [("model", Model)])  # noqa: N806
    value = Model(n=1, when=dt.datetime(2024, 1, 1, tzinfo=dt.UTC), tags={"b", "a", "c"})
    for annotation, whole in ((Model, value), (list[Model], [value]), (Holder, Holder(value))):
        text = encode(annotation, whole)
        assert '"tags":["a","b","c"]' in text
        assert decode(annotation, text) == whole
    for wrong, message in (
        (Model.model_construct(n="1"), r"valid integer at \$\.n: '1'"),
        ({"n": 1, "other": 2}, r"unknown field `other` at \$\.other"),
        (More(n=1), r"unknown field `extra` at \$\.extra"),
        (Model.model_construct(n=1, ratio=math.nan), r"\$\.ratio: nan"),
    ):
        with pytest.raises(ValidationError, match=message):
            encode(Model, wrong)


def test_unions_of_pydantic_models_are_told_apart() -> None:
    """Pydantic may tell apart what msgspec cannot."""
    pydantic = pytest.importorskip("pydantic")

    class A(pydantic.BaseModel):  # type: ignore[name-defined,misc]
        a: int

    class B(pydantic.BaseModel):  # type: ignore[name-defined,misc]
        b: int

    class Wide(pydantic.BaseModel):  # type: ignore[name-defined,misc]
        amount: Decimal = pydantic.Field(default=Decimal(1), allow_inf_nan=True)
        by: dict[Decimal, int] = pydantic.Field(default_factory=dict)
        z: complex = 1j
        model_config = pydantic.ConfigDict(ser_json_inf_nan="strings")
        ratio: float = 0.0

    for wide, path in (
        (Wide(amount=Decimal("NaN")), r"\$\.amount"),
        (Wide(ratio=math.inf), r"\$\.ratio"),
        (Wide(z=complex(math.nan, 0)), r"\$\.z"),
        (Wide.model_construct(by={Decimal("Infinity"): 1}), r"\$\.by"),
    ):
        with pytest.raises(ValidationError, match=path):
            encode(Wide, wide)
    assert decode(Wide, encode(Wide, Wide())) == Wide()
    assert decode(list[A | B], encode(list[A | B], [B(b=1), A(a=2)])) == [B(b=1), A(a=2)]


def test_limits_that_pydantic_writes_for_others_hold() -> None:
    """`PositiveInt` and `conint(…)` are made of another package's classes, not of pydantic's."""
    pydantic = pytest.importorskip("pydantic")
    for annotation, fits, wrong in (
        (pydantic.PositiveInt, 1, 0),
        (pydantic.conint(gt=2), 3, 2),
        (list[pydantic.NonNegativeFloat], [0.0], [-1.0]),  # type: ignore[name-defined]
    ):
        assert decode(annotation, encode(annotation, fits)) == fits
        with pytest.raises(ValidationError, match="should be greater than"):
            encode(annotation, wrong)


def test_what_pydantic_writes_as_text_is_no_str() -> None:
    """A UUID for a limited `str` is refused, as it is for a plain one."""
    pydantic = pytest.importorskip("pydantic")
    annotation = pydantic.constr(min_length=1)
    assert encode(annotation, "a") == '"a"'
    with pytest.raises(ValidationError, match=r"Expected `str`, got `UUID` at \$: UUID\("):
        encode(annotation, uuid.UUID(int=1))


def test_fields_that_pydantic_leaves_out_are_refused() -> None:
    """What is excluded would come back as its default, or not at all: told at the definition."""
    pydantic = pytest.importorskip("pydantic")

    class Hidden(pydantic.BaseModel):  # type: ignore[name-defined,misc]
        a: int
        b: int = pydantic.Field(default=1, exclude=True)

    class Outer(pydantic.BaseModel):  # type: ignore[name-defined,misc]
        inner: list[Hidden]

    Holder = make_dataclass("Holder", [("hidden", Hidden)])  # noqa: N806
    for annotation in (Hidden, Outer, dict[str, Hidden], Holder, Hidden | None):
        with pytest.raises(DefinitionError, match=r"here: .*`b` of .*Hidden has exclude=…, and"):
            TypeCodec.of(annotation, where="here")
    if "exclude_if" in inspect.signature(pydantic.Field).parameters:  # from 2.12 on

        class Sometimes(pydantic.BaseModel):  # type: ignore[name-defined,misc]
            c: int = pydantic.Field(default=1, exclude_if=lambda value: value == 2)

        with pytest.raises(DefinitionError, match=r"`c` of .*Sometimes has exclude_if=…"):
            TypeCodec.of(Sometimes, where="here")


def test_a_secret_is_not_stored_as_asterisks() -> None:
    """Pydantic writes stars for it, which would come back instead; where the user has it written,
    it does come back."""
    pydantic = pytest.importorskip("pydantic")

    class Login(pydantic.BaseModel):  # type: ignore[name-defined,misc]
        password: pydantic.SecretStr  # type: ignore[name-defined]

    class Written(Login):
        @pydantic.field_serializer("password")  # type: ignore[untyped-decorator]
        def _written(self, password: Any) -> str:
            return str(password.get_secret_value())

    login = Login(password=pydantic.SecretStr("x"))
    for annotation, value, path in (
        (pydantic.SecretStr, login.password, r"\$"),
        (pydantic.SecretBytes, pydantic.SecretBytes(b"x"), r"\$"),
        (dict[str, list[Login]], {"a": [login]}, r"\$\.a\[0\]\.password"),
    ):
        with pytest.raises(ValidationError, match=rf"would come back as those: .* at {path}"):
            encode(annotation, value)
    written = Written(password=login.password)
    assert decode(Written, encode(Written, written)) == written


def test_the_base_of_all_models_is_no_annotation() -> None:
    """It has no fields, so that nothing of what a model holds would be stored."""
    pydantic = pytest.importorskip("pydantic")
    base: Any = pydantic.BaseModel
    for annotation in (base, dict[str, base | None]):
        with pytest.raises(DefinitionError, match="BaseModel says nothing of what is in it"):
            TypeCodec.of(annotation, where="the value")


def test_what_json_writes_as_text_is_no_text_inside_models_either() -> None:
    """Nor beside them, nor as a key; text that a validator makes of it is."""
    pydantic = pytest.importorskip("pydantic")
    identity, day = uuid.UUID(int=1), dt.date(2024, 1, 1)

    class Model(pydantic.BaseModel):  # type: ignore[name-defined,misc]
        name: str
        kin: tuple[str, ...] = ()
        alias: str = pydantic.Field("", alias="also")

    class Made(pydantic.BaseModel):  # type: ignore[name-defined,misc]
        name: str

        @pydantic.field_validator("name", mode="before")  # type: ignore[untyped-decorator]
        @classmethod
        def make(cls, value: Any) -> str:
            return str(value)

    class Loose(pydantic.BaseModel):  # type: ignore[name-defined,misc]
        anything: Any
        identity: uuid.UUID
        models: dict[int, Model]

    for annotation, value, message in (
        (Model, Model.model_construct(name=identity), r"got `UUID` at \$\.name: UUID"),
        (Model, {"name": "x", "kin": ["y", day]}, r"got `date` at \$\.kin\[1\]: "),
        (Model, {"name": "x", "also": b"y"}, r"got `bytes` at \$\.also: b'y'"),
        (tuple[Model, str], (Model(name="x"), identity), r"got `UUID` at \$\[1\]: "),
        (list[Model | str], ["x", identity], r"got `UUID` at \$\[1\]: "),
        (dict[str, Model], {1: Model(name="x")}, r"got `int` as key at \$\[1\]: 1"),
    ):
        with pytest.raises(ValidationError, match="Expected `str`, " + message):
            encode(annotation, value)
    assert encode(Made, Made.model_construct(name=identity)) == f'{{"name":"{identity}"}}'
    loose = Loose(anything=day, identity=identity, models={1: Model(name="x")})
    again = decode(Loose, encode(Loose, loose))
    assert (again.anything, again.identity, again.models) == ("2024-01-01", identity, loose.models)
