"""What a handler reads of the outside while it runs: seen at any depth, named as users know it."""

# What is written here is written to be seen: clocks, dice, and lambdas around them.
# ruff: noqa: DTZ011, PLW0108, TID251

from __future__ import annotations

import datetime as dt
import gc
import logging
import os
import random
import secrets
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from perdure import DeterminismError
from perdure.clockwatch import Watch


class Stamp(dt.datetime):
    """A class of a user's own that has the clock by inheritance."""


def seen(code: Callable[[], Any]) -> list[str]:
    """What is on the list after `code` ran."""
    watch = Watch()
    with watch:
        code()
    assert not watch.is_blind
    return [use.what for use in watch.uses]


def helper() -> float:
    return time.time()


@pytest.mark.parametrize(
    ("code", "what"),
    [
        (helper, "time.time"),
        (lambda: time.perf_counter(), "time.perf_counter"),
        (lambda: dt.datetime.now(dt.UTC), "datetime.datetime.now"),
        (lambda: Stamp.now(dt.UTC), "datetime.datetime.now"),
        (lambda: dt.date.today(), "datetime.date.today"),
        (lambda: random.random(), "random.random"),
        (lambda: random.randint(1, 6), "random.randint"),
        (lambda: random.shuffle([1, 2, 3]), "random.shuffle"),
        (lambda: random.Random(), "random.Random"),
        (lambda: uuid.uuid4(), "uuid.uuid4"),
        (lambda: secrets.token_hex(4), "secrets.token_hex"),
        (lambda: os.urandom(4), "os.urandom"),
        (lambda: os.environ.get("PATH"), "os.environ"),
        (lambda: os.getenv("PATH"), "os.getenv"),
        (lambda: os.getpid(), "os.getpid"),
    ],
)
def test_clocks_dice_and_the_environment_are_seen(code: Callable[[], Any], what: str) -> None:
    """Each is on the list, once, by the name of the call that was written."""
    assert seen(code) == [what]


def test_a_thread_is_refused_and_on_the_list() -> None:
    """At the line that starts it, as sockets are."""
    watch = Watch()
    thread = threading.Thread(target=int)
    with watch, pytest.raises(DeterminismError, match="threading"):
        thread.start()
    (use,) = watch.uses
    assert "thread" in use.what and use.filename == __file__
    assert use.remedy.startswith("start several steps")


@pytest.mark.parametrize(
    "code",
    [
        lambda: dt.datetime(2026, 1, 1, tzinfo=dt.UTC).isoformat(),
        lambda: random.Random(7).randint(1, 6),
        lambda: uuid.UUID(int=7),
        lambda: time.gmtime(0),
        lambda: logging.getLogger("tests.quiet").warning("x"),
    ],
)
def test_what_a_replay_repeats_is_not_on_the_list(code: Callable[[], Any]) -> None:
    """A seeded generator, a fixed time, a log line: no reason to complain."""
    logging.getLogger("tests.quiet").addHandler(logging.NullHandler())
    logging.getLogger("tests.quiet").propagate = False
    assert seen(code) == []


def test_what_hangs_on_the_garbage_collector_is_not_the_handlers_doing() -> None:
    """A collection may set in at any line, and somebody in the process may time them."""
    times = []

    def clock(phase: str, info: dict[str, int]) -> None:
        times.append(time.perf_counter())

    gc.callbacks.append(clock)
    try:
        assert seen(gc.collect) == []
    finally:
        gc.callbacks.remove(clock)
    assert len(times) >= 2


def test_a_use_says_where_it_is_and_what_to_do() -> None:
    """The line is the user's own, not one of the standard library's."""
    watch = Watch()
    with watch:
        helper()
        helper()
    (use,) = watch.uses
    assert use.filename == __file__
    assert use.line == helper.__code__.co_firstlineno + 1
    assert use.remedy == "use step.now()"


def test_what_the_guard_refuses_is_refused_and_on_the_list() -> None:
    """Sockets are refused in a check as they are in production."""
    watch = Watch()
    with watch, pytest.raises(DeterminismError, match=r"socket\.socket"):
        socket.socket()
    assert [use.what for use in watch.uses] == ["socket.socket(...)"]
    assert watch.uses[0].remedy.startswith("do it in an action")


def test_a_profiler_that_is_on_keeps_its_place() -> None:
    """Then clocks are not seen, which is told."""
    events = []
    watch = Watch()
    sys.setprofile(lambda frame, event, called: events.append(event))
    try:
        with watch:
            helper()
    finally:
        sys.setprofile(None)
    assert watch.is_blind
    assert "c_call" in events


def test_after_the_block_nothing_is_watched() -> None:
    """The profile function is gone, and the guard too."""
    watch = Watch()
    with watch:
        pass
    helper()
    assert watch.uses == []
    assert sys.getprofile() is None
    socket.socket().close()


def test_what_two_subjects_share_is_told_of_both() -> None:
    """A helper that two workflows call makes neither of them repeatable."""

    def shared() -> float:
        return time.time()

    watch = Watch()
    for subject in ("one", "two", "two"):
        watch.subject = subject
        with watch:
            shared()
    assert [use.what for use in watch.uses] == ["time.time", "time.time"]
