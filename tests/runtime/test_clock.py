"""The real clock: what it promises beyond telling the time."""

from __future__ import annotations

from perdure.runtime.clock import RealClock


def test_time_does_not_go_back() -> None:
    """Each reading is at least the one before, also when the system's clock is set back."""
    clock = RealClock()
    first = clock.now_ms()
    clock._last = first + 60_000  # as if the wall clock had been a minute ahead before
    assert clock.now_ms() >= first + 60_000
    assert clock.monotonic() <= clock.monotonic()


def test_time_is_since_the_epoch_in_milliseconds() -> None:
    """After the year 2020 and before 2200."""
    assert 1_577_836_800_000 < RealClock().now_ms() < 7_258_118_400_000


def test_ids_are_unique_and_sort_by_time() -> None:
    """26 characters; an id made in a later millisecond sorts after every earlier one."""
    clock = RealClock()
    early = {clock.new_id() for _ in range(1000)}
    clock._last += 60_000
    late = {clock.new_id() for _ in range(10)}
    assert len(early) == 1000
    assert {len(each) for each in early | late} == {26}
    assert max(early) < min(late)
