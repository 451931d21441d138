"""The guard: what is refused while a handler runs."""

# ruff: noqa: PLW0108, PLW1510, SIM115, TID251

from __future__ import annotations

import gc
import importlib
import inspect
import logging
import multiprocessing.dummy
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import urllib.request
import warnings
import zoneinfo
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from perdure import guard
from perdure.errors import DeterminismError
from perdure.guard import enter, guarded, leave, suspended


@pytest.fixture(scope="module", autouse=True)
def hook() -> None:
    """The hook stays in this process for good; it is off outside guarded sections."""
    guard.install()
    guard.install()


@pytest.fixture(autouse=True)
def nobody_stays_guarded() -> Iterator[None]:
    """Every test leaves the guard off."""
    yield
    assert not guard._guarded


FORKING = multiprocessing.get_context("fork")

REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "open for writing": (lambda: open("new", "w"), r"open\('new', 'w'\).*run_action"),
    "open for appending": (lambda: open("new", "ab"), r"open\('new', 'a"),
    "open for update": (lambda: open(__file__, "r+"), "open"),
    "os.open": (lambda: os.open("new", os.O_WRONLY | os.O_CREAT), r"open\('new', None\)"),
    "write_text": (lambda: Path("new").write_text("x"), "open"),
    "touch": (lambda: Path("new").touch(), r"os\.utime"),
    "temporary file": (lambda: tempfile.NamedTemporaryFile(), "open"),
    "temporary directory": (lambda: tempfile.mkdtemp(), "tempfile.mkdtemp"),
    "unlink": (lambda: Path("old").unlink(), r"os\.remove\('old'\)"),
    "rename": (lambda: os.rename("old", "new"), r"os\.rename\('old'\)"),
    "copy": (lambda: shutil.copy("old", "new"), r"shutil\.copyfile"),
    "rmtree": (lambda: shutil.rmtree("old"), r"shutil\.rmtree"),
    "socket": (lambda: socket.socket(), r"socket\.socket"),
    "connect": (lambda: sys.audit("socket.connect", None, ("::1", 9)), r"connect\(\('::1', 9\)"),
    "resolve": (lambda: socket.getaddrinfo("localhost", 80), r"getaddrinfo\('localhost'\)"),
    "url": (lambda: urllib.request.urlopen("http://localhost:9"), r"urlopen\('http://loc"),
    "subprocess": (lambda: subprocess.run(["true"]), r"subprocess\.Popen\('true'\)"),
    "system": (lambda: os.system("true"), r"os\.system"),
    "fork": (lambda: os.fork(), r"os\.fork"),
    "exec": (lambda: os.execv("/bin/true", ["true"]), r"os\.exec"),
    "spawn": (lambda: os.posix_spawn("/bin/true", ["true"], {}), r"os\.posix_spawn"),
    "kill": (lambda: os.kill(os.getpid(), 0), r"os\.kill"),
    "sqlite": (lambda: sqlite3.connect(":memory:"), r"sqlite3\.connect.*step\.run_mutation"),
    "thread": (lambda: threading.Thread(target=int).start(), "Thread.*gather"),
    "timer": (lambda: threading.Timer(0, int).start(), "Thread.*gather"),
    "pool": (lambda: ThreadPoolExecutor(1).submit(int), "Thread.*gather"),
    "pool of multiprocessing's": (lambda: multiprocessing.dummy.Pool(1), "Thread.*gather"),
    "process": (lambda: FORKING.Process(target=int).start(), r"os\.fork"),
    "processes": (lambda: FORKING.Pool(1), r"os\.fork"),
    "pool of processes": (lambda: ProcessPoolExecutor(1, FORKING).submit(int), r"os\.fork"),
}
if sys.version_info >= (3, 13):
    REFUSED["sleep"] = (lambda: time.sleep(0), r"time\.sleep.*step\.sleep")


def run_alone(script: str, directory: str | None = None) -> str:
    """What `script` prints in a process of its own, which says nothing of an error."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(script)],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(Path(guard.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stderr, done.returncode) == ("", 0)
    return done.stdout


@pytest.mark.parametrize("name", REFUSED)
def test_a_side_effect_is_refused_by_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The call is refused before it has any effect, by an error that names it and the remedy."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    Path("old").touch()
    action, message = REFUSED[name]
    with pytest.raises(DeterminismError, match=message), guarded():
        action()
    assert os.listdir() == ["old"]


def test_nothing_is_refused_when_nobody_advances(tmp_path: Path) -> None:
    """With the hook installed and off, the host process does as it likes."""
    (tmp_path / "file").write_text("x")
    (tmp_path / "file").unlink()
    socket.socket().close()
    assert subprocess.run([sys.executable, "-c", ""], check=False).returncode == 0
    thread = threading.Thread(target=int)
    thread.start()
    thread.join()


def test_reading_is_let_pass(tmp_path: Path) -> None:
    """Sources, zone files, directories and null are open to a handler."""
    (tmp_path / "file").write_text("x")
    zoneinfo.ZoneInfo.clear_cache()
    with guarded():
        assert (tmp_path / "file").read_text() == "x"
        assert os.listdir(tmp_path) == ["file"]
        assert list(tmp_path.glob("*")) == [tmp_path / "file"]
        assert zoneinfo.ZoneInfo("UTC").utcoffset(None) is not None
        assert inspect.getsource(nobody_stays_guarded)
        open(os.devnull, "w").close()
        socket.gethostname()


def test_an_open_file_can_be_written(tmp_path: Path) -> None:
    """Only opening is refused: files, and descriptors, that are open go on working."""
    with (tmp_path / "file").open("w") as file, guarded():
        file.write("x")
        file.flush()
        with os.fdopen(os.dup(file.fileno()), "w") as again:
            again.write("y")
    assert (tmp_path / "file").read_text() == "xy"


def test_a_thread_that_was_refused_can_be_started_later() -> None:
    """The refusal leaves nothing behind in the module threading, nor in the thread."""
    thread = threading.Thread(target=int)
    with guarded(), pytest.raises(DeterminismError):
        thread.start()
    assert thread not in threading.enumerate()
    thread.start()
    thread.join()


def test_a_start_of_a_thread_is_audited_as_by_later_pythons() -> None:
    """With the arguments that Python 3.12 gives (3.13 has another event, and others)."""
    script = """
        import sys, threading
        from perdure import guard
        events = []
        guard.install()
        sys.addaudithook(lambda name, args: "thread.start" in name and events.append((name, args)))
        thread = threading.Thread(target=int)
        thread.start()
        thread.join()
        ((name, args),) = events
        print(name, args == (thread._bootstrap, (), None))
    """
    if sys.version_info < (3, 13):
        assert run_alone(script) == "_thread.start_new_thread True\n"


def test_the_host_starts_threads_as_before() -> None:
    """All names that users call stay what they are, and do what they did."""
    script = """
        import _thread, threading
        before = (threading.Thread, vars(threading.Thread).copy(), _thread.start_new_thread)
        from perdure import guard
        guard.install()
        assert before == (threading.Thread, vars(threading.Thread), _thread.start_new_thread)
        ran = []
        for daemon in (False, True):
            thread = threading.Thread(target=ran.append, args=(daemon,), daemon=daemon)
            thread.start()
            thread.join()
        print(ran)
        try:
            thread.start()
        except RuntimeError as error:
            print(error)
        threading.excepthook = lambda given: print(given.exc_type.__name__)
        thread = threading.Thread(target=lambda: 1 / 0)
        thread.start()
        thread.join()
        print(threading.enumerate() == [threading.main_thread()])
        # A daemon does not keep the process; another thread does.
        threading.Thread(target=threading.Event().wait, daemon=True).start()
        threading.Thread(target=lambda: threading.main_thread().join() or print("last")).start()
    """
    assert run_alone(script).splitlines() == [
        "[False, True]",
        "threads can only be started once",
        "ZeroDivisionError",
        "True",
        "last",
    ]


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="later Pythons have the event themselves")
def test_who_patches_how_threads_start_is_not_disturbed() -> None:
    """As gevent does, and debuggers: before `install`, or after it; also twice, it is one event."""
    script = """
        import sys, threading
        original, ran = threading._start_new_thread, []
        def patched(*args):
            ran.append("patched")
            return original(*args)
        def no_memory(*args):
            raise RuntimeError("can't start new thread")
        def start():
            thread = threading.Thread(target=int)
            thread.start()
            thread.join()
        threading._start_new_thread = patched
        from perdure import guard
        sys.addaudithook(lambda name, args: "thread.start" in name and ran.append("audited"))
        for _ in range(2):
            guard.install()
            guard._installed = False
        start()
        threading._start_new_thread = patched
        start()
        threading._start_new_thread = no_memory
        guard.install()
        try:
            start()
        except RuntimeError as error:
            ran.append(str(error))
        print(ran, threading.enumerate() == [threading.main_thread()])
    """
    expected = ["audited", "patched", "patched", "audited", "can't start new thread"]
    assert run_alone(script) == f"{expected} True\n"


def test_a_lazy_import_may_write_bytecode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing in a handler works, with its bytecode file and what the module does on import."""
    body = f"open({str(tmp_path / 'made')!r}, 'w').close()\nvalue = 5\n"
    (tmp_path / "lazy_guarded_module.py").write_text(body)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    monkeypatch.setattr(sys, "pycache_prefix", None)
    importlib.invalidate_caches()
    with guarded():
        import lazy_guarded_module  # type: ignore[import-not-found]
    monkeypatch.delitem(sys.modules, "lazy_guarded_module")
    assert lazy_guarded_module.value == 5
    assert (tmp_path / "made").exists()
    assert list((tmp_path / "__pycache__").glob("lazy_guarded_module.*.pyc"))


def test_an_import_below_the_engine_excuses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that runs its worker while it is imported has guarded handlers all the same."""
    engine: dict[str, Any] = {"__name__": "perdure.runtime.some_loop"}
    exec("def advance(handler): handler()", engine)
    monkeypatch.setattr(sys, "advance_for_test", engine["advance"], raising=False)
    body = "import sys\nsys.advance_for_test(lambda: open('made', 'w'))\n"
    (tmp_path / "program_that_runs_on_import.py").write_text(body)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    with pytest.raises(DeterminismError, match="made"), guarded():
        importlib.import_module("program_that_runs_on_import")


def test_a_log_handler_may_open_its_file(tmp_path: Path) -> None:
    """A log file that is opened, or rotated, by a line of log is the process's own business."""
    handler = logging.FileHandler(tmp_path / "log", delay=True)
    record = logging.LogRecord("guarded", logging.INFO, __file__, 1, "line", None, None)
    with guarded():
        handler.handle(record)
    handler.close()
    assert (tmp_path / "log").read_text() == "line\n"


def test_a_log_handler_may_start_its_thread() -> None:
    """As may what a module that is imported starts for itself."""
    threads = []

    class Sending(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            thread = threading.Thread(target=int)
            thread.start()
            threads.append(thread)

    record = logging.LogRecord("guarded", logging.INFO, __file__, 1, "line", None, None)
    with guarded():
        Sending().handle(record)
    (thread,) = threads
    thread.join()


def test_a_finalizer_may_clean_up(tmp_path: Path) -> None:
    """The garbage collector may run a finalizer during a handler; it is not the handler's doing."""
    directory = tempfile.TemporaryDirectory(dir=tmp_path)
    directory.loop = directory  # type: ignore[attr-defined]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        del directory
        with guarded():
            gc.collect()
    assert list(tmp_path.iterdir()) == []


def test_other_threads_are_untouched(tmp_path: Path) -> None:
    """While a handler advances here, another thread opens and connects as it likes."""
    go, done = threading.Event(), threading.Event()

    def other() -> None:
        go.wait(10)
        (tmp_path / "file").write_text("x")
        socket.socket().close()
        done.set()

    thread = threading.Thread(target=other)
    thread.start()
    with guarded():
        go.set()
        assert done.wait(10)
    thread.join()
    assert (tmp_path / "file").read_text() == "x"


def test_two_threads_are_guarded_apart(tmp_path: Path) -> None:
    """When one of two advancing threads is done, the other one is still guarded."""
    results: list[BaseException] = []
    inside, go = threading.Event(), threading.Event()

    def other() -> None:
        try:
            with guarded():
                inside.set()
                go.wait(10)
                (tmp_path / "file").touch()
        except DeterminismError as error:
            results.append(error)

    thread = threading.Thread(target=other)
    thread.start()
    assert inside.wait(10)
    with guarded():
        pass
    (tmp_path / "mine").touch()
    go.set()
    thread.join()
    assert [type(error) for error in results] == [DeterminismError]
    assert os.listdir(tmp_path) == ["mine"]


def test_nesting_keeps_the_outer_guard(tmp_path: Path) -> None:
    """Leaving an inner section does not open the outer one."""
    outer = enter()
    try:
        leave(enter())
        with pytest.raises(DeterminismError):
            (tmp_path / "file").touch()
    finally:
        leave(outer)
    (tmp_path / "file").touch()


def test_suspended_lets_the_engine_work(tmp_path: Path) -> None:
    """Engine code under a handler may do I/O; afterwards, also on an error, the guard is back."""
    thread = threading.Thread(target=int)
    with guarded():
        with suppress(KeyError), suspended():
            (tmp_path / "file").touch()
            thread.start()
            raise KeyError
        thread.join()
        with pytest.raises(DeterminismError):
            (tmp_path / "other").touch()
    with suspended():
        pass
    assert os.listdir(tmp_path) == ["file"]


def test_a_refusal_is_an_ordinary_exception(tmp_path: Path) -> None:
    """The handler can catch it and goes on, still guarded."""
    with guarded():
        for _ in range(2):
            with pytest.raises(DeterminismError):
                (tmp_path / "file").touch()


def test_foreign_audit_events_are_ignored() -> None:
    """Events with a known name but a strange shape, as `sys.audit` can send, do no harm."""
    with guarded():
        sys.audit("open")
        sys.audit("open", object(), object(), object())
        sys.audit("someone.elses", 1)


def test_data_sent_is_not_shown() -> None:
    """What goes over the wire may be secret and stays out of the message."""
    with pytest.raises(DeterminismError) as caught, guarded():
        sys.audit("http.client.send", None, b"password")
    assert "password" not in str(caught.value)


def test_importing_installs_no_hook_and_a_fork_clears_the_guard() -> None:
    """Only `install` adds the hook; a child process of fork starts unguarded."""
    script = """
        import os, sys, threading
        from perdure import guard
        with guard.guarded():
            open("unguarded", "w").close()
        guard.install()
        inside, go = threading.Event(), threading.Event()
        def other():
            with guard.guarded():
                inside.set()
                go.wait(10)
        thread = threading.Thread(target=other)
        thread.start()
        inside.wait(10)
        pid = os.fork()
        if pid == 0:
            os._exit(len(guard._guarded))
        _, status = os.waitpid(pid, 0)
        before = len(guard._guarded)
        go.set()
        thread.join()
        print(before, os.waitstatus_to_exitcode(status))
    """
    with tempfile.TemporaryDirectory() as directory:
        assert run_alone(script, directory) == "1 0\n"
        assert os.listdir(directory) == ["unguarded"]
