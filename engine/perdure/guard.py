"""What a workflow handler must not do, refused while it runs.

One audit hook (`install`) that refuses sockets, processes, threads and changes to files on the
thread that advances a handler (between `enter` and `leave`), and on no other.

What it cannot see: clocks, randomness, the environment and a process that multiprocessing spawns
raise no audit event in any Python, and `time.sleep` none before 3.13. There determinism.py helps,
which reads the code, and clockwatch.py, which watches the calls in `check` and in the simulator.

Nothing of the standard library is replaced, here or anywhere in the engine, with one exception: a
start of a thread raises its audit event from Python 3.12 on, and for 3.11 `install` has the module
threading raise it, the same event at the same place. No name that users call is changed by that:
`threading.Thread` and `_thread.start_new_thread` stay what they are, only the private alias by
which the one calls the other is another. (So on 3.11 a direct call of the latter is not seen.)
Without the exception, a promise would hold on some Pythons only: to count threads before and after
a handler ran was tried and dropped, since any thread of the process may start one meanwhile, and
no workflow may be blocked for what others did.

Not here: patched clocks (the simulator's).
"""

from __future__ import annotations

import gc
import logging
import os
import sys
import threading
import types
import weakref
from collections.abc import Callable
from pathlib import PurePath
from threading import get_ident
from typing import Any, Final, TypeAlias

from .determinism import USE_ACTION, USE_SLEEP, USE_STEPS
from .errors import DeterminismError

_CONNECT: Final = (
    "socket.__new__ socket.bind socket.connect socket.getaddrinfo socket.gethostbyaddr "
    "socket.gethostbyname socket.getnameinfo socket.sethostname urllib.Request "
    "http.client.connect ftplib.connect imaplib.open nntplib.connect poplib.connect "
    "smtplib.connect telnetlib.Telnet.open webbrowser.open"
)
_TALK: Final = (
    "socket.sendto socket.sendmsg http.client.send ftplib.sendcmd imaplib.send nntplib.putline "
    "poplib.putline smtplib.send telnetlib.Telnet.write"
)
_PROCESS: Final = (
    "subprocess.Popen os.system os.exec os.fork os.forkpty os.posix_spawn os.spawn os.startfile "
    "os.startfile/2 pty.spawn os.kill os.killpg signal.pthread_kill"
)
_FILES: Final = (
    "os.chflags os.chmod os.chown os.link os.mkdir os.remove os.removexattr os.rename os.rmdir "
    "os.setxattr os.symlink os.truncate os.utime shutil.chown shutil.copyfile shutil.copymode "
    "shutil.copystat shutil.copytree shutil.make_archive shutil.move shutil.rmtree "
    "shutil.unpack_archive tempfile.mkdtemp tempfile.mkstemp"
)
_THREADS: Final = "_thread.start_new_thread _thread.start_joinable_thread"

#: Audit events of what leaves the process, or begins a thread.
REACHES_OUTSIDE: Final = frozenset(f"{_CONNECT} {_TALK} {_PROCESS} {_THREADS}".split())

#: Audit event to what should be done instead.
_REFUSED: Final = {
    "open": USE_ACTION,
    **dict.fromkeys(f"{_CONNECT} {_TALK} {_PROCESS} {_FILES}".split(), USE_ACTION),
    **dict.fromkeys(_THREADS.split(), USE_STEPS),
    "sqlite3.connect": "read with step.run_query(...), write with step.run_mutation(...)",
    "time.sleep": USE_SLEEP,
}

#: Events whose name is not the call that the user wrote.
_CALL_NAMES: Final = {
    "socket.__new__": "socket.socket",
    "urllib.Request": "urllib.request.urlopen",
    **dict.fromkeys(_THREADS.split(), "threading.Thread.start"),
}

#: Their arguments tell nothing, or are the data sent, which do not belong in an error message.
_MUTE: Final = frozenset(f"{_TALK} {_THREADS} socket.__new__".split())

_WRITE_FLAGS: Final = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

#: The process's own housekeeping, which happens to run on this thread: an import writes bytecode
#: and runs module code, a log handler reopens or rotates its file or reconnects, and the garbage
#: collector runs finalizers at any moment. Refusing these would make a handler fail at random.
_HOUSEKEEPING: Final = tuple(
    vars(module) for module in (sys.modules["_frozen_importlib"], logging, weakref)
)

#: What to raise for an audit event, which is also given as the call that the user wrote; None to
#: let it pass.
Refuse: TypeAlias = Callable[[str, str], Exception | None]

#: The threads that advance a handler just now, by identity; mostly empty.
_guarded: dict[int, Refuse] = {}
_install_lock: Final = threading.Lock()
_installed = False


def install() -> None:
    """Install the audit hook, once per process; it stays for the life of the process.

    While no thread is between `enter` and `leave`, the hook only looks at an empty set. On Python
    3.11, starts of threads are audited from now on; see the head of this file.
    """
    global _installed
    with _install_lock:
        if _installed:
            return
        sys.addaudithook(_hook)
        if sys.version_info < (3, 12):
            _audit_thread_starts()
        if hasattr(os, "register_at_fork"):
            # The child has none of the other threads, but may give their identities out again.
            os.register_at_fork(after_in_child=_guarded.clear)
        _installed = True


def _audit_thread_starts() -> None:
    """Have each start of a thread raise the audit event that it raises from Python 3.12 on.

    What stands at the alias by now (gevent's, a debugger's) goes on to be what starts the thread;
    who sets it later takes the event away again, and nothing else.
    """
    start: Any = vars(threading).get("_start_new_thread")
    if start is None or getattr(start, "is_audited", False):
        return  # Done already, by another copy of this module.
    audit = sys.audit

    def audited(function: object, args: object, *kwargs: object) -> Any:
        audit("_thread.start_new_thread", function, args, *(kwargs or (None,)))
        return start(function, args, *kwargs)

    # As a function of threading's own: whoever asks whose frame this is (`is_housekeeping`,
    # clockwatch.py) looks past it, as past those around it.
    code = audited.__code__
    own: Any = types.FunctionType(code, vars(threading), code.co_name, None, audited.__closure__)
    own.is_audited = True
    vars(threading)["_start_new_thread"] = own


def refuse_in_handler(event: str, call: str) -> Exception | None:
    """What is raised in a handler."""
    text = f"{call} in a workflow handler: a replay would do it again. Instead: {_REFUSED[event]}"
    return DeterminismError(text)


def enter(refuse: Refuse = refuse_in_handler) -> int:
    """Guard this thread from now on; give the result to `leave`, in a ``finally``."""
    ident = get_ident()
    if ident in _guarded:
        return 0
    _guarded[ident] = refuse
    return ident


def leave(token: int) -> None:
    """End what `enter` began; inside another guarded section, that one goes on."""
    _guarded.pop(token, None)


class guarded:  # noqa: N801  Used like a function, as contextlib.suppress is.
    """``with guarded(): ...``: `enter` and `leave` as a block."""

    __slots__ = ("_token",)

    def __enter__(self) -> None:
        self._token = enter()

    def __exit__(self, *_: object) -> None:
        leave(self._token)


class suspended:  # noqa: N801  As above.
    """``with suspended(): ...``: for engine code that runs while a handler is on the stack."""

    __slots__ = ("_refuse",)

    def __enter__(self) -> None:
        self._refuse = _guarded.pop(get_ident(), None)

    def __exit__(self, *_: object) -> None:
        if self._refuse is not None:
            _guarded[get_ident()] = self._refuse


def _hook(event: str, args: tuple[Any, ...]) -> None:
    """Refuse by raising: an exception in an audit hook aborts the audited operation."""
    if not _guarded:
        return  # First and cheapest, since this runs for every id() and every log line.
    refuse = _guarded.get(get_ident())
    if event not in _REFUSED or refuse is None:
        return
    if event == "open" and not _opens_for_writing(args):
        return
    if is_housekeeping(sys._getframe(1)):
        return
    error = refuse(event, _spell(event, args))
    if error is not None:
        raise error


def _opens_for_writing(args: tuple[Any, ...]) -> bool:
    if len(args) != 3:
        return False  # Not an event of Python's own.
    path, mode, flags = args
    if type(path) is int or (type(path) is str and path == os.devnull):
        return False  # A descriptor that is open already, or nowhere.
    by_mode = type(mode) is str and not set(mode).isdisjoint("wax+")
    return by_mode or (type(flags) is int and bool(flags & _WRITE_FLAGS))


def is_housekeeping(frame: types.FrameType | None) -> bool:
    """Whether the handler is not the one who asked; see `_HOUSEKEEPING`.

    The search ends at the engine: what lies below it called the engine, not the handler, and may
    well be an import (a script that runs its worker when it is imported).
    """
    package = __name__.partition(".")[0]
    while frame is not None:
        names = frame.f_globals
        code = frame.f_code
        if code.co_name == "__del__" or any(names is own for own in _HOUSEKEEPING):
            return True
        # What someone hung on the garbage collector runs wherever that sets in (Hypothesis times
        # collections so).
        if any(getattr(callback, "__code__", None) is code for callback in gc.callbacks):
            return True
        module = names.get("__name__")
        if type(module) is str and module.partition(".")[0] == package:
            return False
        frame = frame.f_back
    return False


def _spell(event: str, args: tuple[Any, ...]) -> str:
    """The call as the user may have written it, with its first telling argument, cut short."""
    name = _CALL_NAMES.get(event, event)
    for argument in () if event in _MUTE else args[: 1 if event == "open" else 2]:
        if isinstance(argument, PurePath):
            argument = str(argument)
        parts = argument if type(argument) is tuple else ()  # A socket's address.
        is_address = bool(parts) and all(type(part) in (str, bytes, int) for part in parts)
        if type(argument) in (str, bytes) or is_address:
            text = repr(argument)
            text = text if len(text) <= 80 else text[:77] + "..."
            return f"{name}({text}, {args[1]!r})" if event == "open" else f"{name}({text})"
    return f"{name}(...)"
