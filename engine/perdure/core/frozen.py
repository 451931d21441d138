"""The base of the values that the core is made of, and of what carries them to and fro."""

from __future__ import annotations

from msgspec import Struct


class Frozen(Struct, frozen=True, gc=False):
    """A value: immutable, and equal to others by its fields.

    It must hold nothing that may lead back to itself, such as a user's object or a handler: the
    garbage collector does not look at it. A turn makes thousands, most of which live as long as
    their workflow: with them it took a seventh of a busy worker's time, without them a tenth.
    """
