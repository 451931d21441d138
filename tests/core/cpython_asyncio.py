"""CPython's own tests of asyncio, run on the event loop of workflow handlers.

The tests are those of the interpreter that runs this, taken from its `test` package; nothing of
them is copied. Each is run on `DrivenLoop`: the production loop, and a driver that runs it until a
future is done and lets time go on to the next timer when nothing is ready. So no test waits.

A test counts as passed, as failed, or as not applicable; the last only by the tables `CLASSES` and
`TESTS` below, each entry with its reason. `docs/asyncio.md` publishes the numbers, and
`test_cpython_asyncio.py` keeps them.

    python tests/core/cpython_asyncio.py            # the table
    python tests/core/cpython_asyncio.py --reasons  # and why a test is not applicable
    python tests/core/cpython_asyncio.py --listed   # those of the list TESTS: all of them fail
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import itertools
import json
import logging
import sys
import unittest
import warnings
from collections import Counter
from typing import Any, TypeAlias

from perdure.core.loop import HandlerSpins, WorkflowFuture, WorkflowLoop, WorkflowTask

MODULES = (
    "test_tasks",
    "test_futures",
    "test_futures2",
    "test_timeouts",
    "test_taskgroups",
    "test_waitfor",
    "test_queues",
    "test_locks",
    "test_context",
    "test_pep492",
)

#: Passed, failed, not applicable; by module.
Counts: TypeAlias = dict[str, tuple[int, int, int]]

_loops = itertools.count()


class DrivenLoop(WorkflowLoop):
    """The production loop with what only a test wants: to be run until something is done.

    Unlike the production loop it has a `__dict__`: the tests put mocks into it.
    """

    _default_executor = None  # the tests' tearDown looks at it

    def __init__(self) -> None:
        super().__init__(f"loop {next(_loops)}", 0)
        self._stopping = False

    def run_forever(self) -> None:
        """Run until `stop()`; where nothing is ready, let time go on to the next timer."""
        if self.is_running():
            raise RuntimeError("This event loop is already running")
        try:
            with self.entered():
                while not self._stopping:
                    if self._ready:
                        self._run_ready()
                    else:
                        at = self.next_timer_ms()
                        assert at is not None, "nothing is ready and no timer is set: it hangs"
                        self.fire_timers(at)
        finally:
            self._stopping = False

    def _run_ready(self) -> None:
        # One batch of callbacks, as asyncio's loop does in a round: a test may count rounds.
        with contextlib.suppress(HandlerSpins):  # there is more: in the next round
            self.drain(limit=len(self._ready))

    def run_until_complete(self, future: Any) -> Any:
        """Run until the future is done; its result, or what it raised."""
        future = asyncio.ensure_future(future, loop=self)

        def stop(_: object) -> None:
            self.stop()

        future.add_done_callback(stop)
        try:
            self.run_forever()
        finally:
            future.remove_done_callback(stop)
        if not future.done():
            raise RuntimeError("Event loop stopped before Future completed.")
        return future.result()

    def stop(self) -> None:
        """End `run_forever()` after this round."""
        self._stopping = True

    def advance_time(self, seconds: float) -> None:
        """Let time go on, as a test wants it."""
        self.set_now(self.now_ms + round(seconds * 1000))

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        """Record it, and log it where the tests look; in production the engine logs it."""
        super().default_exception_handler(context)
        error = context.get("exception")
        text = f"{context['message']}\n{context.get('future')}"
        log = asyncio.base_events.logger  # type: ignore[attr-defined]
        log.error(text, exc_info=error and (type(error), error, error.__traceback__))

    def set_task_factory(self, factory: object) -> None:
        """Ignored: tasks are of the production's class, also where a test gives its own."""

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Any, *args: Any, context: Any = None
    ) -> Any:
        """There is one thread only."""
        return self.call_soon(callback, *args, context=context)


class DrivenPolicy(asyncio.DefaultEventLoopPolicy):
    """Makes `DrivenLoop`s, for `asyncio.Runner` and `IsolatedAsyncioTestCase`."""

    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        """A new loop."""
        return DrivenLoop()


class DrivenFuture(WorkflowFuture):
    """The production's future for tests that call the class themselves."""

    def __init__(self, *, loop: Any = None) -> None:
        super().__init__(loop=loop)
        self._hash = self.get_loop()._next_hash()  # type: ignore[attr-defined]


_TWIN = "a twin of asyncio's Task or Future, or a subclass of a test's: a handler has neither"
_DEBUG = "asyncio's debug mode, which measures real time: a handler's loop has none"
_ROUNDS = "steps or stops asyncio's own loop in mid-round"
_OURS = "CTask_CFuture_Tests"
_NAME = "wants the class to be called Task: ours is called WorkflowTask"
_AS_COMPLETED = "as_completed over bare coroutines is refused: their order would be random"
_THREADS = "needs threads, which a handler has not"

#: Classes of tests that say nothing about handlers, by a prefix of `module.Class`.
CLASSES: dict[str, str] = {
    "test_tasks.CTask_CFuture_Sub": _TWIN,
    "test_tasks.CTaskSubclass": _TWIN,
    "test_tasks.PyTask": _TWIN,
    "test_tasks.CTask_PyFuture": _TWIN,
    "test_tasks.PyIntrospection": _TWIN,
    "test_tasks.PyCurrentLoop": _TWIN,
    "test_futures.CSubFuture": _TWIN,
    "test_futures.PyFuture": _TWIN,
    "test_futures2.PyFuture": _TWIN,
    "test_tasks.RunCoroutineThreadsafeTests": _THREADS,
    "test_pep492.StreamReaderTests": "streams: I/O is for actions",
}

#: The same for single tests, as `Class.test`. `--listed` runs them all the same: each must fail,
#: or it has no business here.
TESTS: dict[str, str] = {
    f"{_OURS}.test_as_completed": _AS_COMPLETED,
    f"{_OURS}.test_as_completed_concurrent": _AS_COMPLETED,
    f"{_OURS}.test_as_completed_coroutine_use_running_loop": _AS_COMPLETED,
    f"{_OURS}.test_as_completed_duplicate_coroutines": _AS_COMPLETED,
    f"{_OURS}.test_as_completed_resume_iterator": _AS_COMPLETED,
    f"{_OURS}.test_as_completed_reverse_wait": _AS_COMPLETED,
    f"{_OURS}.test_as_completed_same_tasks_in_as_out": _AS_COMPLETED,
    f"{_OURS}.test_as_completed_with_unused_timeout": _AS_COMPLETED,
    f"{_OURS}.test_baseexception_during_cancel": (
        "a SystemExit ends the task that raises it, not the process"
    ),
    f"{_OURS}.test_log_destroyed_pending_task": _ROUNDS,
    f"{_OURS}.test_stop_while_run_in_complete": _ROUNDS,
    f"{_OURS}.test_task_repr": _NAME,
    f"{_OURS}.test_task_repr_autogenerated": _NAME,
    f"{_OURS}.test_task_repr_wait_for": _NAME,
    f"{_OURS}.test_task_source_traceback": _DEBUG,
    "CoroutineGatherTests.test_issue46672": "puts a mock into asyncio's own loop",
    "CFutureTests.test_future_source_traceback": _DEBUG,
    "CFutureTests.test_future_repr": _DEBUG,
    "CFutureTests.test_task_exc_handler_correct_context": (
        "a task that has ended is let go of a little later, and what nobody retrieved is told then"
    ),
    "CoroutineTests.test_debug_mode_manages_coroutine_origin_tracking": _DEBUG,
}


def reason_against(name: str) -> str | None:
    """Why the test is not applicable, or None."""
    module, cls, test = name.split(".")
    for prefix, reason in CLASSES.items():
        if f"{module}.{cls}".startswith(prefix):
            return reason
    return TESTS.get(f"{cls}.{test}")


def install(modules: dict[str, Any]) -> None:
    """Have the loaded tests use the production's loop, task and future."""
    utils: Any = importlib.import_module("test.test_asyncio.utils")

    def new_test_loop(self: Any, gen: object = None) -> DrivenLoop:
        # `gen` checks what asyncio's own loop is asked to wait for; here time goes on by itself.
        loop = DrivenLoop()
        self.set_event_loop(loop)
        return loop

    utils.TestCase.new_test_loop = new_test_loop

    def new_task(
        self: Any, loop: Any, coro: Any, name: Any = "TestTask", context: Any = None
    ) -> Any:
        return loop.create_task(coro, name=name, context=context)

    def task(coro: Any) -> Any:
        return asyncio.get_running_loop().create_task(coro)

    ours: dict[str, dict[str, Any]] = {
        "test_tasks.CTask_CFuture_Tests": {
            "Task": WorkflowTask,
            "Future": DrivenFuture,
            "new_task": new_task,
        },
        "test_tasks.CCurrentLoopTests": {
            "new_task": lambda self, coro: self.loop.create_task(coro)
        },
        "test_futures.CFutureTests": {"cls": DrivenFuture},
        "test_futures.CFutureInheritanceTests": {"_get_future_cls": lambda self: DrivenFuture},
        "test_futures.CFutureDoneCallbackTests": {
            "_new_future": lambda self: DrivenFuture(loop=self.loop)
        },
        "test_futures2.CFutureTests": {"cls": staticmethod(task)},
    }
    for place, names in ours.items():
        module, cls = place.split(".")
        for name, value in names.items():
            setattr(getattr(modules[module], cls), name, value)


class _Result(unittest.TestResult):
    """Keeps each failure's text."""

    def __init__(self) -> None:
        super().__init__()
        self.outcomes: dict[str, str | None] = {}
        self.skips: dict[str, str] = {}

    def addSuccess(self, test: unittest.TestCase) -> None:  # noqa: N802
        self.outcomes.setdefault(_name(test), None)

    def addError(self, test: Any, err: Any) -> None:  # noqa: N802
        self.outcomes[_name(test)] = self._exc_info_to_string(err, test)  # type: ignore[attr-defined]

    addFailure = addError  # noqa: N815

    def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:  # noqa: N802
        if err is not None:
            self.addError(test, err)

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:  # noqa: N802
        self.skips[_name(test)] = reason


def _name(test: Any) -> str:
    parts = str(test.id()).split(".")
    return ".".join(parts[-3:])


def run(only: str = "", *, listed: bool = False) -> tuple[dict[str, str | None], dict[str, str]]:
    """Run the tests; what each raised (None if it passed), and why others were left out."""
    patched: Any = asyncio
    patched.DefaultEventLoopPolicy = DrivenPolicy
    patched.EventLoop = patched.BaseEventLoop = DrivenLoop
    asyncio.set_event_loop_policy(DrivenPolicy())
    logging.getLogger("asyncio").setLevel(logging.CRITICAL + 1)
    modules = {name: importlib.import_module(f"test.test_asyncio.{name}") for name in MODULES}
    install(modules)
    result = _Result()
    left_out: dict[str, str] = {}
    for module in modules.values():
        suite = unittest.TestSuite()
        for test in _flat(unittest.defaultTestLoader.loadTestsFromModule(module)):
            name = _name(test)
            if not name.startswith(only):
                continue
            reason = reason_against(name)
            if (reason is None) if not listed else (name.partition(".")[2] in TESTS):
                suite.addTest(test)
            elif reason is not None:
                left_out[name] = reason
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            suite.run(result)
            gc.collect()
        asyncio.set_event_loop_policy(DrivenPolicy())
    return result.outcomes, left_out | result.skips


def _flat(suite: Any) -> list[unittest.TestCase]:
    if isinstance(suite, unittest.TestCase):
        return [suite]
    return [test for part in suite for test in _flat(part)]


def counts(outcomes: dict[str, str | None], left_out: dict[str, str]) -> Counts:
    """Passed, failed and not applicable, by module."""
    table: dict[str, list[int]] = {name: [0, 0, 0] for name in MODULES}
    for name, failure in outcomes.items():
        table[name.split(".")[0]][failure is not None] += 1
    for name in left_out:
        table[name.split(".")[0]][2] += 1
    return {name: (row[0], row[1], row[2]) for name, row in table.items()}


def main(arguments: list[str]) -> int:
    """Print the table, or with `--json` all that is known; 1 if a test failed, 3 without tests."""
    try:
        importlib.import_module("test.test_asyncio")
    except ImportError as error:
        print(f"this Python has no test package (test.test_asyncio): {error}")
        return 3
    only = next((word for word in arguments if not word.startswith("-")), "")
    outcomes, left_out = run(only, listed="--listed" in arguments)
    failures = {name: text for name, text in outcomes.items() if text is not None}
    if "--json" in arguments:
        found = {"counts": counts(outcomes, left_out), "failures": failures, "left out": left_out}
        print(json.dumps(found))
        return bool(failures)
    print(f"CPython {sys.version.split()[0]}, its own tests on the loop of workflow handlers\n")
    print("| module | passed | failed | not applicable |\n| --- | --- | --- | --- |")
    for name, row in counts(outcomes, left_out).items():
        print(f"| `{name}` | {row[0]} | {row[1]} | {row[2]} |")
    for name, text in failures.items():
        print(f"\n{name}\n{text}")
    if "--reasons" in arguments:
        for reason, number in Counter(left_out.values()).most_common():
            print(f"\n{number} not applicable: {reason}")
            print("\n".join(f"  {name}" for name, why in left_out.items() if why == reason))
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
