"""Tasks spread over processes: none that dies or hangs is waited for in vain.

The processes are spawned, not forked. They share nothing with this one, which may have threads,
and each has a hash seed of its own: what depends on the order of a set comes out differently in
two of them.

Two things end a run that does not end. Within a process a timer of its processor's time raises
`RunTooLong`, between two instructions of Python and without tracing; a busy machine sets it off no
earlier. What that cannot interrupt (a call that never returns to Python, or waits) is noticed from
outside: a process of which no run begins for some time is killed. It has left on its `Board` what
it was at.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any, Generic, TypeVar

import attrs

from perdure.runtime.clock import Clock

T = TypeVar("T")
R = TypeVar("R")

#: Spawned: see above.
_CONTEXT = multiprocessing.get_context("spawn")

#: How much of what a process is at can be read from outside, in bytes.
TEXT_MAX = 65_536

#: How long a process may begin no run until it is killed, in seconds of real time.
SILENCE_SECONDS = 60.0

#: How long it may take until the first run of a process begins, in seconds of real time.
START_SECONDS = 60.0

#: How often whoever waits looks at the time, in seconds.
TICK_SECONDS = 0.2


class WorkFailed(Exception):
    """A task raised in its process; the message is the traceback."""


class RunTooLong(BaseException):
    """A run took too much of the processor's time. No `Exception`: the engine would survive it."""


@contextlib.contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raise `RunTooLong` in a block that takes more of the processor's time; in the main thread.

    A block that swallows it, as tasks of asyncio do, or makes another exception of it, is told
    again every second, and whatever became of it, it has ended with `RunTooLong`.
    """
    message = f"no end after {seconds:g} s of the processor's time"
    is_late = False

    def too_late(*_: object) -> None:
        nonlocal is_late
        is_late = True
        raise RunTooLong(message)

    before = signal.signal(signal.SIGPROF, too_late)
    signal.setitimer(signal.ITIMER_PROF, seconds, 1.0)
    try:
        yield
    except BaseException as error:
        if is_late and not isinstance(error, RunTooLong):
            raise RunTooLong(message) from error
        raise
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
    if is_late:
        raise RunTooLong(message)


class Board:
    """What a process is at, in memory that others can read, even when it has died.

    Attributes:
        is_spent: the process shall take no other task: set it after a `RunTooLong`, which may have
            left anything behind.
    """

    def __init__(self, stop: Any = None) -> None:
        self._text: Any = _CONTEXT.RawArray("c", TEXT_MAX)
        self._runs: Any = _CONTEXT.RawValue("Q", 0)
        self._stop: Any = _CONTEXT.RawValue("b", 0) if stop is None else stop
        self._parent: int | None = None
        self.is_spent = False

    def begin(self, text: str) -> None:
        """A run begins; `text` says which."""
        self._text.value = text.encode()[: TEXT_MAX - 1]
        self._runs.value += 1

    def stop(self) -> None:
        """Tell all that work with this board, or with one beside it, to come to an end."""
        self._stop.value = 1

    def beside(self) -> Board:
        """A board for another process, which is told to stop together with this one."""
        return Board(self._stop)

    def work_for(self, parent: int) -> None:
        """The end has come too when the parent of this process has died, and another has it."""
        self._parent = parent

    @property
    def is_stopped(self) -> bool:
        """Whether the work shall come to an end: look between two runs."""
        return bool(self._stop.value) or self._parent not in (None, os.getppid())

    @property
    def runs(self) -> int:
        """How many runs have begun."""
        return int(self._runs.value)

    @property
    def text(self) -> str:
        """Which run began last."""
        return bytes(self._text.value).decode(errors="replace")


@attrs.frozen(kw_only=True)
class Lost:
    """A process is gone, and its task is not done.

    Attributes:
        why: what became of it.
        text: what it was at: see `Board`.
        runs: how many it had begun of this task.
        seconds: since it was given the task.
        was_silent: it was killed, because it began no run for too long.
    """

    why: str
    text: str
    runs: int
    seconds: float
    was_silent: bool


@attrs.frozen
class Done(Generic[T, R]):
    """A task, who had it (from 0), and what came of it."""

    number: int
    task: T
    answer: R | Lost


def carry_out(
    work: Callable[[T, Board], R],
    ask: Callable[[int], T | None],
    *,
    jobs: int,
    board: Board,
    clock: Clock,
    silence_seconds: float = SILENCE_SECONDS,
) -> Iterator[Done[T, R] | None]:
    """Have tasks done by so many processes; yields what is done, and None now and then.

    Args:
        work: does a task; a copy of it is sent to each process.
        ask: the next task for the process of this number, from 0; None if it has none for it now.
            It is over when nobody is at work and there is no task for anybody.
        jobs: so many processes; 0 for none but this one, in which nothing is ever `Lost`.
        board: of this process; stopping it stops all.

    Raises:
        WorkFailed: a task raised an exception, in another process.
    """
    if jobs == 0:
        while (task := ask(0)) is not None:
            yield Done(0, task, work(task, board))
        return
    crew: list[_Worker[T, R]] = [
        _Worker(number, work, board.beside(), clock) for number in range(jobs)
    ]
    try:
        while True:
            for worker in crew:
                if worker.task is None and (task := ask(worker.number)) is not None:
                    worker.give(task)
            busy = [worker for worker in crew if worker.task is not None]
            if not busy:
                return
            ready = multiprocessing.connection.wait([each.handle for each in busy], TICK_SECONDS)
            for worker in busy:
                if worker.handle in ready:
                    yield worker.take()
            for worker in busy:
                if worker.is_silent(silence_seconds):
                    yield worker.give_up(silence_seconds)
            yield None
    finally:
        for worker in crew:
            worker.close()


class _Worker(Generic[T, R]):
    """A process as whoever gives it tasks sees it; it is started again when it is gone."""

    def __init__(
        self, number: int, work: Callable[[T, Board], R], board: Board, clock: Clock
    ) -> None:
        self.number = number
        self.task: T | None = None
        self._work = work
        self._board = board
        self._clock = clock
        self._process: Any = None
        self._connection: Connection | None = None
        self._given = self._seen = (0, 0.0)  # runs, and when there were so many
        self._runs_at_start = 0

    @property
    def handle(self) -> Connection:
        """Ready when there is an answer, or the process is gone."""
        assert self._connection is not None
        return self._connection

    def give(self, task: T) -> None:
        if self._connection is None:
            self._start()
        self.task = task
        self._given = self._seen = (self._board.runs, self._clock.monotonic())
        with contextlib.suppress(OSError):  # it died while it was idle: `take` finds that out
            self.handle.send(task)

    def _start(self) -> None:
        mine, its = _CONTEXT.Pipe()
        self._runs_at_start = self._board.runs
        self._connection = mine
        self._process = _CONTEXT.Process(
            target=_serve, args=(its, self._work, self._board), daemon=True
        )
        # A terminal sends Ctrl-C to all processes. The mask is inherited: not even one that is
        # just starting dies of it; and for this one it only waits.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            self._process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            its.close()

    def take(self) -> Done[T, R]:
        """The answer that has come, or that none will."""
        task = self.task
        assert task is not None
        try:
            answer, failure, is_spent = self.handle.recv()
        except (EOFError, OSError):
            self._process.join()
            code = self._process.exitcode
            how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
            return self._lost(task, f"its process {how}", was_silent=False)
        self.task = None
        if is_spent:
            self.close()
        if failure is not None:
            raise WorkFailed(failure)
        return Done(self.number, task, answer)

    def is_silent(self, seconds: float) -> bool:
        """Whether it is at work, and has begun no run for so long."""
        if self.task is None:
            return False
        runs, now = self._board.runs, self._clock.monotonic()
        if runs != self._seen[0]:
            self._seen = (runs, now)
        if runs == self._runs_at_start:
            seconds = max(seconds, START_SECONDS)  # it imports all that it needs
        return now - self._seen[1] > seconds

    def give_up(self, seconds: float) -> Done[T, R]:
        """Kill it."""
        task = self.task
        assert task is not None
        self._process.kill()
        return self._lost(task, f"its run had no end after {seconds:g} s", was_silent=True)

    def _lost(self, task: T, why: str, *, was_silent: bool) -> Done[T, R]:
        self.close()
        runs, since = self._given
        lost = Lost(
            why=why,
            text=self._board.text,
            runs=self._board.runs - runs,
            seconds=self._clock.monotonic() - since,
            was_silent=was_silent,
        )
        return Done(self.number, task, lost)

    def close(self) -> None:
        if self._connection is None:
            return
        self._connection.close()  # it ends by itself when it finds nobody at the other end
        if self.task is not None:
            self._process.kill()
        self._process.join()
        self._process.close()
        self._connection, self.task = None, None


def _serve(connection: Connection, work: Callable[[Any, Board], Any], board: Board) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    board.work_for(os.getppid())
    while True:
        try:
            task = connection.recv()
        except EOFError:
            return
        answer, failure = None, None
        try:
            answer = work(task, board)
        except Exception:
            failure = f"in process {os.getpid()}:\n{traceback.format_exc()}"
        try:
            connection.send((answer, failure, board.is_spent))
        except OSError:
            return  # whoever gave the task is gone
        if board.is_spent:
            return
