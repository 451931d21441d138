"""What is seen in a handler's code when it is defined."""

# Handlers here do on purpose what they must not; they are read, never run.
# ruff: noqa: ASYNC100, ASYNC210, B018, DTZ001, DTZ002, DTZ003, DTZ005, DTZ011
# ruff: noqa: F811, PLC3002, PLW0108, TID251

from __future__ import annotations

import asyncio
import datetime as dt
import functools
import inspect
import logging
import os
import random
import secrets
import socket
import subprocess
import sys
import threading
import time
import types
import urllib.request
import uuid
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import date, datetime
from time import time as t
from typing import Any

import pytest

from perdure.determinism import uses, warn_about
from perdure.errors import DeterminismWarning

utc_now = datetime.now
dice = random.Random(1)


def found(fn: Callable[..., Any]) -> list[str]:
    """The names of what is seen in `fn`, in order."""
    return [use.what for use in uses(fn)]


class Clock:
    """A user's class that carries a clock."""

    read = staticmethod(time.monotonic)


class Worker(threading.Thread):
    """A user's thread."""


class Trap:
    """An object that must not be asked for anything."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"user code was run for {name!r}")


class TrapModule(types.ModuleType):
    """A lazy module that must not be loaded."""

    def __getattribute__(self, name: str) -> Any:
        raise AssertionError(f"a lazy module was loaded for {name!r}")


trap = Trap()
trap_module = TrapModule("trap_module")


SEEN: list[tuple[Callable[[], object], str]] = [
    (lambda: time.time(), "time.time"),
    (lambda: t(), "time.time"),
    (lambda: [time.monotonic], "time.monotonic"),
    (lambda: datetime.now(), "datetime.datetime.now"),
    (lambda: dt.datetime.utcnow(), "datetime.datetime.utcnow"),
    (lambda: datetime.today(), "datetime.date.today"),
    (lambda: date.today(), "datetime.date.today"),
    (lambda: utc_now(dt.UTC), "datetime.datetime.now"),
    (lambda: Clock.read(), "time.monotonic"),
    (lambda: time.gmtime(), "time.gmtime"),
    (lambda: random.randint(1, 6), "random.randint"),
    (lambda: random.Random().random(), "random.Random"),
    (lambda: random.SystemRandom(), "random.SystemRandom"),
    (lambda: dice.random(), "random.Random.random"),
    (lambda: uuid.uuid4().hex, "uuid.uuid4"),
    (lambda: uuid.uuid1(), "uuid.uuid1"),
    (lambda: secrets.token_hex(8), "secrets.token_hex"),
    (lambda: os.urandom(4), "os.urandom"),
    (lambda: os.environ["HOME"], "os.environ"),
    (lambda: os.environ.get("HOME"), "os.environ"),
    (lambda: os.getenv("HOME"), "os.getenv"),
    (lambda: urllib.request.urlopen("http://localhost"), "urllib.request.urlopen"),
    (lambda: socket.create_connection(("localhost", 1)), "socket.create_connection"),
    (lambda: subprocess.run(["true"], check=False), "subprocess.run"),
    (lambda: subprocess.Popen(["true"]), "subprocess.Popen"),
    (lambda: os.system("true"), "os.system"),
    (lambda: threading.Thread(target=int), "threading.Thread"),
    (lambda: Worker(), "threading.Thread"),
    (lambda: ThreadPoolExecutor(1), "concurrent.futures.thread.ThreadPoolExecutor"),
    (lambda: asyncio.to_thread(int), "asyncio.to_thread"),
    (lambda: asyncio.get_running_loop().run_in_executor(None, int), "loop.run_in_executor"),
    (lambda: asyncio.run(asyncio.sleep(1)), "asyncio.run"),
    (lambda: time.sleep(1), "time.sleep"),
]


@pytest.mark.parametrize(("handler", "name"), SEEN)
def test_what_a_replay_cannot_repeat_is_seen(handler: Callable[[], object], name: str) -> None:
    """Clocks, dice, the environment and calls to the outside are seen through every alias."""
    assert found(handler) == [name]


async def nested(step: Any) -> list[Any]:
    def inner() -> float:
        return time.time()

    class Body:
        made = time.time_ns()

    return [inner, Body, lambda: uuid.uuid4(), [os.urandom(i) for i in range(3)]]


def test_code_inside_code_is_seen() -> None:
    """Inner functions, class bodies, lambdas and comprehensions belong to the handler."""
    assert sorted(found(nested)) == ["os.urandom", "time.time", "time.time_ns", "uuid.uuid4"]


async def imports(step: Any) -> None:
    import time as clock
    import urllib.request as net
    from random import choice, shuffle
    from time import monotonic

    clock.time()
    net.urlopen("http://localhost")
    choice([1])
    shuffle([1])
    (lambda: monotonic())()


async def imports_unloaded(step: Any) -> None:
    import requests  # type: ignore[import-untyped,unused-ignore]

    requests.get("http://localhost")
    isinstance(step, requests.Session)
    requests.Session()


def test_imports_inside_the_handler_are_followed() -> None:
    """Local imports bind names too, also for functions inside; nothing is imported to know it."""
    assert found(imports) == [
        "time.time",
        "urllib.request.urlopen",
        "random.choice",
        "random.shuffle",
        "time.monotonic",
    ]
    loaded = "requests" in sys.modules
    assert found(imports_unloaded) == ["requests.get", "requests.Session"]
    assert ("requests" in sys.modules) == loaded


def test_closure_variables_are_followed() -> None:
    """A clock that an enclosing function passes in by a closure is seen."""
    clock = time.perf_counter

    async def handler(step: Any) -> float:
        return clock()

    assert found(handler) == ["time.perf_counter"]


async def blameless(step: Any, random: Any, uuid: Any = None, *time: Any) -> Any:
    step.now()
    step.random.random()
    step.uuid4()
    await step.sleep(1)
    await asyncio.sleep(1)
    async with asyncio.timeout(1):
        random.random()
        uuid.uuid4()
    time.count(1)
    datetime(2020, 1, 1)
    datetime.fromisoformat("2020-01-01")
    datetime.fromtimestamp(0, dt.UTC)
    isinstance(step, threading.Thread | subprocess.Popen)
    secrets.compare_digest("a", "b")
    subprocess.PIPE
    os.path.join("a", "b")
    logging.getLogger().info("x")
    return dt.timedelta(seconds=1)


async def blameless_locals(step: Any) -> Any:
    import random as dice_module
    import time as clock

    clock = step.now
    seeded = dice_module.Random(7)
    dt = step
    dt.datetime.now()
    environ = {"HOME": "x"}

    class Body:
        uuid = step
        made = uuid.uuid4()

    time.gmtime(0)
    return clock.time(), seeded.random(), environ["HOME"]


def test_what_only_looks_alike_is_not_reported() -> None:
    """The step's own clock and dice, constructors, parameters and locals give no warning."""
    assert found(blameless) == []
    assert found(blameless_locals) == []


async def with_traps(step: Any) -> None:
    trap.time()
    trap_module.time.time()
    trap.a.b.c


def test_user_code_is_never_run() -> None:
    """Attributes of arbitrary objects and lazy modules are left alone."""
    assert found(with_traps) == []


def decorated(fn: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(fn)
    def wrapper(*args: Any) -> Any:
        return fn(*args)

    return wrapper


class Holder:
    async def method(self, step: Any) -> None:
        time.time()


def test_the_function_under_wrappers_is_read() -> None:
    """Decorators, partials and methods are followed to the handler itself."""
    clock = ["time.time"]
    assert found(decorated(decorated(Holder.method))) == clock
    assert found(functools.partial(Holder.method, Holder())) == clock
    assert found(Holder().method) == clock


def test_odd_callables_are_silently_accepted() -> None:
    """What has no Python code to read, or lies about itself, is neither reported nor an error."""

    def endless() -> None:
        time.time()

    endless.__wrapped__ = endless  # type: ignore[attr-defined]
    odd: list[Any] = [len, print, int, Trap(), Trap, endless, functools.partial(len), None, 3]
    for fn in odd:
        assert found(fn) == []
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warn_about(fn)


def test_an_unfilled_closure_is_accepted() -> None:
    """A handler that is defined before its closure variables are is read as far as it goes."""

    def define() -> Any:
        async def handler(step: Any) -> Any:
            return later, time.time()

        names = found(handler)
        later = 1
        return names, later

    assert define()[0] == ["time.time"]


async def warned(step: Any) -> None:
    await step.sleep(1)
    str((datetime.now(), datetime.now()))
    datetime.now()
    uuid.uuid4()


def test_a_warning_points_to_the_line_and_names_the_remedy() -> None:
    """One warning for each use and line, at the handler's file and line, with what to use."""
    first = inspect.getsourcelines(warned)[1]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_about(warned)
    assert [(w.category, w.filename, w.lineno - first) for w in caught] == [
        (DeterminismWarning, __file__, 2),
        (DeterminismWarning, __file__, 3),
        (DeterminismWarning, __file__, 4),
    ]
    texts = [str(w.message) for w in caught]
    assert "datetime.datetime.now in workflow 'warned'" in texts[0]
    assert "step.now()" in texts[0]
    assert "step.uuid4()" in texts[2]
