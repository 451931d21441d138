"""Tasks over processes: order, death, silence, and the bound of one run."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable

import pytest

from perdure.runtime.clock import RealClock
from perdure_sim.explore.parallel import (
    Board,
    Done,
    Lost,
    RunTooLong,
    WorkFailed,
    at_most,
    carry_out,
)


def busy() -> None:
    """No end to it."""
    while True:
        pass


def work(task: str, board: Board) -> str:
    """What a task says."""
    board.begin(f"run of {task}")
    match task:
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "exit":
            os._exit(3)
        case "wait":
            signal.pause()
        case "raise":
            raise LookupError("no such thing")
        case "spend":
            board.is_spent = True
        case "stop":
            board.stop()
        case _:
            pass
    return f"{task} by {os.getpid()}"


def carried_out(
    tasks: list[str], *, jobs: int, silence_seconds: float = 60.0
) -> list[Done[str, str]]:
    """What comes of tasks, each given to whoever asks first."""
    waiting = iter(tasks)
    board = Board()

    def ask(number: int) -> str | None:
        return None if board.is_stopped else next(waiting, None)

    done = carry_out(
        work,
        ask,
        jobs=jobs,
        board=board,
        clock=RealClock(),
        silence_seconds=silence_seconds,
    )
    return [each for each in done if each is not None]


def processes(done: list[Done[str, str]]) -> set[str]:
    """By whom the tasks were done."""
    return {each.answer.partition(" by ")[2] for each in done if isinstance(each.answer, str)}


def test_without_processes_the_tasks_are_done_here() -> None:
    """In their order, until one stops all."""
    done = carried_out(["a", "b", "stop", "never"], jobs=0)
    assert [each.task for each in done] == ["a", "b", "stop"]
    assert processes(done) == {str(os.getpid())}


def test_processes_do_all_tasks_and_are_replaced_when_they_are_gone() -> None:
    """One is killed, one exits, one has had enough: the others' tasks are done all the same."""
    tasks = ["a", "die", "b", "exit", "spend", "c"]
    done = {each.task: each.answer for each in carried_out(tasks, jobs=1)}
    assert list(done) == tasks
    killed, ended = done["die"], done["exit"]
    assert isinstance(killed, Lost) and isinstance(ended, Lost)
    assert (killed.why, killed.text) == ("its process was killed by signal 9", "run of die")
    assert (ended.why, ended.text) == ("its process ended with exit code 3", "run of exit")
    assert (killed.runs, killed.was_silent) == (1, False)
    pids = [str(done[name]).partition(" by ")[2] for name in ("a", "b", "spend", "c")]
    assert len({*pids, str(os.getpid())}) == 5


def test_a_process_that_begins_no_run_for_too_long_is_killed() -> None:
    """What it was at is known; another one does what comes after it."""
    silent, last = carried_out(["wait", "b"], jobs=1, silence_seconds=0.2)
    assert isinstance(silent.answer, Lost)
    assert silent.answer.was_silent
    assert silent.answer.text == "run of wait"
    assert isinstance(last.answer, str)


def test_stopping_stops_all() -> None:
    """Whoever stops his own board stops those beside it."""
    done = carried_out(["stop", *"abcdefgh"], jobs=1)
    assert [each.task for each in done] == ["stop"]


def test_the_death_of_the_parent_stops_the_work() -> None:
    """Another process has adopted this one: nobody waits for what it does."""
    board = Board()
    board.work_for(os.getppid())
    assert not board.is_stopped
    board.work_for(os.getpid())
    assert board.is_stopped


def test_what_a_task_raises_is_raised_with_its_traceback() -> None:
    """The text says where in the other process it was."""
    with pytest.raises(WorkFailed, match=r"(?s)in work.*LookupError: no such thing"):
        carried_out(["raise"], jobs=1)
    with pytest.raises(LookupError):
        carried_out(["raise"], jobs=0)


def swallows() -> None:
    """As a task does that keeps any exception."""
    with contextlib.suppress(BaseException):
        busy()


def makes_another_of_it() -> None:
    """As a `finally` may that was not made for this."""
    try:
        busy()
    finally:
        raise LookupError("in the clean-up")


def in_a_task() -> None:
    """In a loop of asyncio."""

    async def main() -> None:
        asyncio.get_running_loop().call_soon(busy)
        await asyncio.sleep(0)

    asyncio.run(main())


@pytest.mark.parametrize("block", [busy, swallows, makes_another_of_it, in_a_task])
def test_a_run_takes_no_more_time_than_it_may(block: Callable[[], None]) -> None:
    """Whatever it makes of the interruption."""
    before = signal.getsignal(signal.SIGPROF)
    with pytest.raises(RunTooLong, match=r"no end after 0\.05 s"):
        with at_most(0.05):
            block()
    assert signal.getsignal(signal.SIGPROF) is before


def test_a_run_that_ends_is_left_alone() -> None:
    """Also what it raises itself."""
    with at_most(30):
        pass
    with pytest.raises(LookupError), at_most(30):
        raise LookupError
