"""The simulator: what users test their workflows with, and what a store's author checks it with.

Importing it loads nothing; each name loads what it needs when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .conformance.check import check_store
    from .testing.answers import Answer
    from .testing.calls import ActionCall
    from .testing.conditions import AlwaysBroken, EventuallyBroken, NeverReached
    from .testing.fault_sets import (
        ACTION,
        ALL,
        BAD_RESULTS,
        CANCEL,
        CLEANUP,
        CLOCK,
        CRASH,
        DEPLOY,
        DISK,
        NETWORK,
        NONE,
        PAUSE,
        RESTART,
        SMALL,
        FaultSet,
    )
    from .testing.machine import WorkflowMachine
    from .testing.replay_check import replay_check
    from .testing.run_simulation import Trace, run_simulation
    from .testing.simulate import simulate
    from .testing.simulation import NotEnded, Run, Simulation

__all__ = [
    "ACTION",
    "ALL",
    "BAD_RESULTS",
    "CANCEL",
    "CLEANUP",
    "CLOCK",
    "CRASH",
    "DEPLOY",
    "DISK",
    "NETWORK",
    "NONE",
    "PAUSE",
    "RESTART",
    "SMALL",
    "ActionCall",
    "AlwaysBroken",
    "Answer",
    "EventuallyBroken",
    "FaultSet",
    "NeverReached",
    "NotEnded",
    "Run",
    "Simulation",
    "Trace",
    "WorkflowMachine",
    "check_store",
    "replay_check",
    "run_simulation",
    "simulate",
]

_FAULT_SETS = "testing.fault_sets"

#: Where each name comes from.
_HOMES = {
    **dict.fromkeys(["check_store"], "conformance.check"),
    **dict.fromkeys(["AlwaysBroken", "EventuallyBroken", "NeverReached"], "testing.conditions"),
    **dict.fromkeys(["ActionCall"], "testing.calls"),
    **dict.fromkeys(["simulate"], "testing.simulate"),
    **dict.fromkeys(["WorkflowMachine"], "testing.machine"),
    **dict.fromkeys(["replay_check"], "testing.replay_check"),
    **dict.fromkeys(["Trace", "run_simulation"], "testing.run_simulation"),
    **dict.fromkeys(["Answer"], "testing.answers"),
    **dict.fromkeys(["NotEnded", "Run", "Simulation"], "testing.simulation"),
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = _HOMES.get(name, _FAULT_SETS)
    try:
        value = getattr(import_module(f".{home}", __name__), name)
    except ModuleNotFoundError as missing:
        if missing.name is None or missing.name.partition(".")[0] not in ("hypothesis", "pytest"):
            raise
        raise ImportError(
            f"perdure_sim.{name} needs {missing.name}, which is not installed:"
            " pip install 'perdure[sim]'"
        ) from missing
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
