"""The registry of planted bugs."""

from __future__ import annotations

from .core import CORE
from .operations import OPERATIONS
from .turns import TURNS

MUTANTS = (*CORE, *TURNS, *OPERATIONS)

__all__ = ["MUTANTS"]
