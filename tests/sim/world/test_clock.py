"""Virtual clocks."""

from __future__ import annotations

import attrs

from perdure_sim.world.clock import START_MS, VirtualClock


@attrs.define
class Time:
    now: int = START_MS


def test_a_clock_shows_the_world_s_time_and_its_own_error() -> None:
    """A jump is seen at once, in the wall time alone."""
    time = Time()
    clock = VirtualClock(time, "w0.1")
    assert (clock.now_ms(), clock.monotonic()) == (START_MS, 0.0)
    time.now += 1_500
    clock.offset_ms = 60_000
    assert (clock.now_ms(), clock.monotonic()) == (START_MS + 61_500, 1.5)


def test_a_clock_never_goes_back() -> None:
    """It stands still until the time is as late again."""
    time = Time()
    clock = VirtualClock(time, "w0.1")
    clock.now_ms()
    clock.offset_ms = -1_000
    time.now += 400
    assert clock.now_ms() == START_MS
    time.now += 1_000
    assert clock.now_ms() == START_MS + 400


def test_a_clock_may_drift() -> None:
    """From then on, by a share of the time that passes; a wait is as long as it shows."""
    time = Time()
    clock = VirtualClock(time, "w0")
    time.now += 1_000
    clock.drift(10)
    time.now += 1_000
    assert clock.now_ms() == START_MS + 2_100
    assert clock.real_ms(1_100) == 1_000
    clock.drift(-50)
    time.now += 1_000
    assert clock.now_ms() == START_MS + 2_600
    assert clock.real_ms(1_100) == 2_200


def test_a_clock_that_is_set_right_shows_the_world_s_time() -> None:
    """At once, or, where that would be back, when it has come."""
    time = Time()
    clock = VirtualClock(time, "w0")
    clock.drift(-10)
    time.now += 1_000
    assert clock.now_ms() == START_MS + 900
    clock.set_right()
    assert clock.now_ms() == START_MS + 1_000
    clock.offset_ms = 5_000
    assert (clock.now_ms(), clock.stands_still_ms) == (START_MS + 6_000, 0)
    clock.set_right()
    assert (clock.now_ms(), clock.stands_still_ms) == (START_MS + 6_000, 5_000)


def test_ids_are_told_from_those_of_others_and_are_the_same_in_every_run() -> None:
    """They carry the name that the clock was given."""
    clock = VirtualClock(Time(), "c0.2")
    assert [clock.new_id(), clock.new_id()] == ["c0.2.1", "c0.2.2"]
