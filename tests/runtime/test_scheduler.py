"""Timers: what is due, in order."""

from __future__ import annotations

from perdure.runtime.scheduler import Scheduler


def test_due_timers_come_out_in_order_of_time() -> None:
    """All up to and with `now`, earliest first; the others stay."""
    timers = Scheduler()
    for at, number in ((30, 1), (10, 2), (20, 3), (20, None)):
        timers.set(at, "w", number)
    assert timers.next_at() == 10
    assert timers.pop_due(9) == []
    assert timers.pop_due(20) == [(10, "w", 2), (20, "w", -1), (20, "w", 3)]
    assert timers.next_at() == 30
    assert len(timers) == 1


def test_any_workflow_id_is_due_at_its_time() -> None:
    """The bound of the search lies above every possible id and number."""
    timers = Scheduler()
    timers.set(10, "\U000e01ef" * 200, 1 << 40)  # the last printable character
    timers.set(11, "a", 1)
    assert len(timers.pop_due(10)) == 1


def test_an_empty_scheduler_waits_for_nothing() -> None:
    """No timer, no time."""
    timers = Scheduler()
    timers.set(1, "w", 1)
    timers.clear()
    assert (timers.next_at(), timers.pop_due(100)) == (None, [])
