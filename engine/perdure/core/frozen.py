"""The base of the core's values."""

from __future__ import annotations

from msgspec import Struct


class Frozen(Struct, frozen=True, gc=False):
    """A value: immutable, and equal to others by its fields.

    It must hold nothing that may lead back to itself, such as a user's object or a handler: the
    garbage collector does not look at it. A turn makes thousands, most of which live as long as
    their workflow; to look at them again and again took a seventh of a busy worker's time.
    """
