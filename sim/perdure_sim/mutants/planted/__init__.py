"""The registry of planted bugs."""

from __future__ import annotations

from .core import CORE
from .operations import OPERATIONS
from .restarts import RESTARTS
from .turns import TURNS

MUTANTS = (*CORE, *TURNS, *OPERATIONS, *RESTARTS)

__all__ = ["MUTANTS"]
