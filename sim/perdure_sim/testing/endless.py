"""Runs that do not end: whose they are, and where their code is. A test must not hang on them.

Two bounds end such a run. Of simulated events there is a number that none has that ends. And a loop
that never comes back to the simulator makes no events: that is interrupted when the processor has
been at one run for far longer than any takes. Time that a debugger waits is not the processor's.
"""

from __future__ import annotations

import signal
import sysconfig
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import attrs

import perdure
import perdure_sim
from perdure.core.commands import RunStep
from perdure.core.loop import HandlerSpins

from ..laws.violations import HotSpin
from ..report.wording import moment
from ..world.world import World

#: So much of the processor's time may pass between two events of a run, in seconds. (Importing
#: something large takes longer, and is waited for.)
SECONDS_MAX = 2.0

#: Events of one run of a test, where nothing else is said. Faults of the disk alone may make some
#: thousand: everybody tries again, and again.
EVENTS_MAX = 10_000

#: Of so many events one may be a step, or a timer, of one workflow. A loop that waits is replayed
#: from its begin each time, so that twice as many steps take four times as long.
EVENTS_OF_A_STEP = 20

#: So much where it is known that a run does not end: those that come after it show that sooner.
SECONDS_THEN, EVENTS_THEN, FACTOR_THEN = 0.5, 5_000, 4

LEAVE_IT = (
    "If it is meant to go on for ever, let only so much time pass as the test needs and cancel it"
    " then: sim.advance('30d'), sim.cancel(run.id)."
)

#: Where so few attempts have begun, it is one of them that goes on and on, and not the workflow.
FEW_CALLS = 20

#: What is below these is not what is running.
_WAITED_FOR = (World.run.__code__, World.run_inside.__code__)

_LIBRARIES = tuple({sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")})
_PACKAGES = (*perdure.__path__, *perdure_sim.__path__)


class NoEnd(HotSpin):
    """A run goes on and on. The message says which workflow, and what it does."""


@attrs.define
class Endless:
    """Whether a test's runs end.

    Attributes:
        count: how many did not.
        usual: the most events of a run without faults.
    """

    count: int = 0
    usual: int = 0

    @contextmanager
    def bounded(self, world: World) -> Iterator[None]:
        """Have a run end that does not by itself.

        Raises:
            NoEnd: it had to be ended.
        """
        seconds = SECONDS_MAX
        if self.count:
            seconds = SECONDS_THEN
            most = max(EVENTS_THEN, FACTOR_THEN * self.usual)
            world.events_max = min(world.events_max, most)
        world.steps_max = world.events_max // EVENTS_OF_A_STEP
        found: list[NoEnd] = []
        seen = -1

        def look(_: int, frame: FrameType | None) -> None:
            nonlocal seen
            if world.events == seen and not _is_importing(frame):
                if not found:
                    found.append(NoEnd(_of_code(world, frame, seconds)))
                    world.violation = world.violation or found[0]
                raise _Interrupted
            seen = world.events

        try:
            with _timer(seconds / 2, look):
                yield
        except (HotSpin, HandlerSpins) as error:
            self.count += 1
            if isinstance(error, NoEnd):
                raise
            is_action = isinstance(error, HandlerSpins)
            raise NoEnd(_of_action(world) if is_action else _of_events(world)) from None
        except BaseException as error:
            if not found:
                raise
            self.count += 1
            raise found[0] from (None if isinstance(error, _Interrupted) else error)
        if found:
            self.count += 1
            raise found[0]


class _Interrupted(BaseException):
    """The code that is running is to end. No `Exception`: that it might catch."""


@contextmanager
def _timer(seconds: float, look: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Call a function each so much of the processor's time, where there is such a timer and nobody
    else uses it."""
    is_main = threading.current_thread() is threading.main_thread()
    if not (is_main and hasattr(signal, "setitimer")):
        yield
        return
    if signal.getsignal(signal.SIGPROF) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGPROF, look)
    signal.setitimer(signal.ITIMER_PROF, seconds, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, signal.SIG_DFL)


def _of_events(world: World) -> str:
    """What is told of a run of too many events."""
    begin = f"{world.events - 1:,} events by {moment(world.now)}, and no end"
    left = [each for each in world.history.workflows.values() if each.state.outcome is None]
    longest = max(left, key=lambda known: len(known.steps), default=None)
    if longest is None:
        return f"{begin}, though all workflows have ended."
    name, steps = longest.workflow_id, longest.steps
    last = steps[max(steps)] if steps else None
    runs = last is not None and isinstance(last.command, RunStep) and last.outcome is None
    if runs and 0 < len(world.calls) < FEW_CALLS:
        return f"{begin}: {_of_action(world)}"
    asked = (
        "nothing" if last is None else f"{len(steps):,} steps, the last of them {last.command.name}"
    )
    return (
        f"{begin}: {name} has asked for {asked}. Is there a loop in its code that nothing ends?"
        f" {LEAVE_IT} If it does end, and takes so many events, say so: @simulate(…,"
        " events_max=…)."
    )


def _of_action(world: World) -> str:
    """What is told of an action whose code goes round and round."""
    if not world.calls:
        return "an action goes on and on."
    call = world.calls[-1]
    return (
        f"the code of action {call.action} (step {call.step_number} of {call.workflow_id}, attempt"
        f" {call.attempt}) goes on and on. Give the action a timeout=, or stub it:"
        f" sim.stub({call.action}, returns=…)."
    )


def _of_code(world: World, frame: FrameType | None, seconds: float) -> str:
    """What is told of code that does not come back."""
    where = _place(frame)
    if where is None:
        what = _of_action(world) if world.calls else "nothing happens any more."
        return f"after {seconds:g} s of the processor's time: {what}"
    code, line = where.f_code, where.f_lineno
    return (
        f"{code.co_name} is at {Path(code.co_filename).name}:{line} and does not come back, for"
        f" {seconds:g} s of the processor's time. Is there a loop that nothing ends, or that waits"
        " for the real time to pass?"
    )


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_globals.get("__name__") == "importlib._bootstrap":
            return True
        frame = frame.f_back
    return False


def _place(frame: FrameType | None) -> FrameType | None:
    """The innermost code that is somebody's own: no library's, nor perdure's. Not that which has
    the world go on: it only waits."""
    while frame is not None and frame.f_code not in _WAITED_FOR:
        name = frame.f_code.co_filename
        is_library = "site-packages" in name or name.startswith((*_PACKAGES, *_LIBRARIES))
        if not (is_library or name.startswith("<")):
            return frame
        frame = frame.f_back
    return None
