"""The watch over slow turns and functions: a warning with the place, once, and nothing more."""

from __future__ import annotations

import logging

import pytest
from tests.runtime.harness import FakeClock

from perdure.runtime.watch import Watch, Watchdog


def texts(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def test_a_slow_function_is_named(caplog: pytest.LogCaptureFixture) -> None:
    """After it ended its duration is told; a fast one is not mentioned."""
    clock = FakeClock()
    watch = Watch(clock)
    for ms in (90, 110):
        with watch.watched_function(f"step of {ms}"):
            clock.advance(ms)
    (text,) = texts(caplog)
    assert text.startswith("step of 110 took 110 ms inside the transaction")


def test_a_function_inside_a_function(caplog: pytest.LogCaptureFixture) -> None:
    """When the inner one ends, also by an exception, the outer one is watched again."""
    watch = Watch(FakeClock())
    with watch.watched_function("outer"):
        with pytest.raises(KeyError), watch.watched_function("inner"):
            raise KeyError
        assert watch.function == "outer"
        assert watch.function_since is not None
    assert watch.function_since is None
    assert texts(caplog) == []


def test_what_goes_on_is_reported_once_with_its_stack(caplog: pytest.LogCaptureFixture) -> None:
    """However often the watchdog looks: one warning for one slow function, and its stack."""
    clock = FakeClock()
    watch = Watch(clock)
    dog = Watchdog(watch)
    with caplog.at_level(logging.WARNING), watch.watched_function("my step"):
        dog.look()
        clock.advance(110)
        for _ in range(3):
            dog.look()
        (text,) = texts(caplog)
    assert "my step is still running" in text
    assert "test_what_goes_on_is_reported_once" in text


def test_a_slow_turn_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    """A turn may take a second; the next slow one is told again, an idle engine never."""
    clock = FakeClock()
    watch = Watch(clock)
    dog = Watchdog(watch)
    for _ in range(2):
        watch.turn_since = clock.monotonic()
        for ms in (1000, 1):
            clock.advance(ms)
            dog.look()
    watch.turn_since = None
    clock.advance(10_000)
    dog.look()
    assert [text.split(",")[0] for text in texts(caplog)] == ["a turn takes long"] * 2


def test_the_watchdog_has_a_thread_that_stops() -> None:
    """It ends when it is told to, and not before."""
    dog = Watchdog(Watch(FakeClock()))
    dog.start()
    assert dog._thread.is_alive()
    dog.stop()
    dog._thread.join(30)
    assert not dog._thread.is_alive()
