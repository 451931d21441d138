"""The registry of planted bugs."""

from __future__ import annotations

from .core import CORE
from .operations import OPERATIONS
from .restarts import RESTARTS
from .spreads import SPREADS
from .turns import TURNS

MUTANTS = (*CORE, *TURNS, *OPERATIONS, *RESTARTS, *SPREADS)

__all__ = ["MUTANTS"]
