"""When garbage is collected in a test of many runs: between them, while it is young.

A world is full of cycles, so each run leaves some ten thousand objects to the collector. Left to
itself it looks when a run has just ended and is still held: then it keeps all of them, and looks
at them again and again.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

#: So many objects more than at the last look have it look by itself: more than a run leaves.
THRESHOLD = 200_000

#: After so many runs it looks at what was left by the runs since, and at everything.
LOOK_OLDER, LOOK_AT_ALL = 32, 2_048


@contextmanager
def collecting_between_runs() -> Iterator[None]:
    """Have the collector wait for `collect`."""
    before = gc.get_threshold()
    if before[0]:  # (0: somebody has switched it off)
        gc.set_threshold(max(THRESHOLD, before[0]), *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


def collect(runs: int) -> None:
    """Collect what the last run has left, if the collector is on.

    Args:
        runs: how many there were.
    """
    if gc.isenabled() and runs:
        gc.collect(2 if runs % LOOK_AT_ALL == 0 else 1 if runs % LOOK_OLDER == 0 else 0)
