"""What the engine logs while a world runs, noted in its trace: often nearest to what is wrong."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from .world import World


class _Listener(logging.Handler):
    """Notes what is logged, in the lane in which something has just happened."""

    def __init__(self, world: World) -> None:
        super().__init__(logging.WARNING)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.exc_info is not None and record.exc_info[1] is not None:
            error = record.exc_info[1]
            frames = traceback.extract_tb(error.__traceback__)
            where = f" in {frames[-1].name}: {frames[-1].line}" if frames else ""
            text += f" ({type(error).__name__}: {error}{where})"
        self._world.note(self._world.trace.events[-1].lane, "log", text)


@contextmanager
def listening(world: World) -> Iterator[None]:
    """Note, for a world with detail, the warnings and errors that are logged in this block."""
    if not world.detail:
        yield
        return
    logger = logging.getLogger("perdure")
    level, propagates = logger.level, logger.propagate
    listener = _Listener(world)
    if not logger.isEnabledFor(logging.WARNING):  # silenced: then nobody else hears of it
        logger.setLevel(logging.WARNING)
        logger.propagate = False
    logger.addHandler(listener)
    try:
        yield
    finally:
        logger.removeHandler(listener)
        logger.setLevel(level)
        logger.propagate = propagates
