"""What a workflow handler must not do: seen in its code, and refused while it runs.

Two independent halves. `uses` and `warn_about` read a handler's code when it is defined and name
the clocks, dice and calls to the outside in it; nothing of the user's is executed. `install`,
`enter` and `leave` are the guard: one audit hook that refuses sockets, processes, threads and
changes to files on the thread that advances a handler, and on no other.

What the guard cannot see: clocks, randomness and the environment raise no audit event in any
Python, threads none before 3.12, and `time.sleep` none before 3.13. There only the first half
helps. Nothing of the standard library is replaced, here or anywhere in the engine.

Not here: patched clocks (the simulator's), and matching commands against a journal (the core's).
"""

from __future__ import annotations

import dis
import functools
import gc
import logging
import os
import random
import sys
import threading
import types
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePath
from threading import get_ident
from typing import Any, Final, TypeAlias

import attrs

from .errors import DeterminismError, DeterminismWarning

# ---------------------------------------------------------------- seen in the code

_ACTION: Final = "do it in an action: await step.run_action(...)"
_NOW: Final = "use step.now()"
_DICE: Final = "use step.random"
_UUID: Final = "use step.uuid4()"
_SECRET: Final = "make it in an action, or use step.random where it need not be secret"
_OUTSIDE: Final = "read it outside and pass it as an argument"
_SLEEP: Final = "use await step.sleep(...)"
_THREAD: Final = "start several steps and asyncio.gather them; blocking code belongs in an action"
_LOOP: Final = "the handler has a loop already: await it, or do it in an action"

_HTTP_VERBS: Final = "get post put patch delete head options request"

#: (module, names in it, what to use instead). A name that is a class counts only when called.
_WATCHED: Final = (
    ("time", "time time_ns monotonic monotonic_ns perf_counter perf_counter_ns", _NOW),
    ("time", "process_time process_time_ns thread_time thread_time_ns", _NOW),
    ("time", "clock_gettime clock_gettime_ns localtime gmtime ctime asctime", _NOW),
    ("time", "sleep", _SLEEP),
    ("datetime", "datetime.now datetime.utcnow date.today", _NOW),
    ("random", "random uniform randint randrange choice choices sample shuffle seed", _DICE),
    ("random", "getrandbits randbytes triangular gauss normalvariate lognormvariate", _DICE),
    ("random", "expovariate vonmisesvariate gammavariate betavariate paretovariate", _DICE),
    ("random", "weibullvariate binomialvariate getstate setstate Random SystemRandom", _DICE),
    ("uuid", "uuid1 uuid4 uuid6 uuid7 getnode", _UUID),
    ("secrets", "choice randbelow randbits token_bytes token_hex token_urlsafe", _SECRET),
    ("os", "urandom getrandom", _SECRET),
    ("os", "environ environb getenv getenvb getpid getppid", _OUTSIDE),
    ("socket", "gethostname", _OUTSIDE),
    ("builtins", "input", _OUTSIDE),
    ("os", "system popen fork forkpty posix_spawn posix_spawnp execl execle execlp", _ACTION),
    ("os", "execlpe execv execve execvp execvpe spawnl spawnle spawnlp spawnlpe", _ACTION),
    ("os", "spawnv spawnve spawnvp spawnvpe", _ACTION),
    ("subprocess", "run call check_call check_output getoutput getstatusoutput Popen", _ACTION),
    ("socket", "socket create_connection create_server socketpair getaddrinfo", _ACTION),
    ("socket", "gethostbyname gethostbyname_ex gethostbyaddr getnameinfo", _ACTION),
    ("urllib.request", "urlopen urlretrieve", _ACTION),
    ("http.client", "HTTPConnection", _ACTION),
    ("smtplib", "SMTP", _ACTION),
    ("requests", f"{_HTTP_VERBS} session Session", _ACTION),
    ("httpx", f"{_HTTP_VERBS} stream Client AsyncClient", _ACTION),
    ("aiohttp", "request ClientSession", _ACTION),
    ("urllib3", "request PoolManager HTTPConnectionPool", _ACTION),
    ("_thread", "start_new_thread", _THREAD),
    ("threading", "Thread", _THREAD),
    ("concurrent.futures.thread", "ThreadPoolExecutor", _THREAD),
    ("concurrent.futures.process", "ProcessPoolExecutor", _ACTION),
    ("multiprocessing", "Process Pool", _ACTION),
    ("multiprocessing.process", "BaseProcess", _ACTION),
    ("asyncio", "to_thread", _THREAD),
    ("asyncio", "run Runner new_event_loop run_coroutine_threadsafe", _LOOP),
    ("asyncio", "create_subprocess_exec create_subprocess_shell open_connection", _ACTION),
    ("asyncio", "start_server open_unix_connection start_unix_server", _ACTION),
)

REMEDY: Final = {
    f"{module}.{name}": remedy for module, names, remedy in _WATCHED for name in names.split()
}

#: Harmless with an argument (a seed, a time), a dice or a clock without.
_ONLY_WITHOUT_ARGUMENTS: Final = frozenset(
    {"random.Random", "time.localtime", "time.gmtime", "time.ctime", "time.asctime"}
)

#: Attributes that give themselves away by name, on objects that code alone does not show.
_TELLING_ATTRIBUTES: Final = {"run_in_executor": ("loop.run_in_executor", _THREAD)}


_ATTRIBUTES: Final = ("LOAD_ATTR", "LOAD_METHOD")
_LOADS: Final = (
    *("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FAST", "LOAD_DEREF"),
    *("LOAD_CLASSDEREF", "LOAD_FROM_DICT_OR_", "STORE_FAST_LOAD_FAST"),
)


@attrs.frozen
class Use:
    """One place in a handler that a replay cannot repeat.

    Attributes:
        what: the full name of what is used, such as ``time.time``.
        remedy: what to do instead.
        filename: the file of the handler, as its code object has it.
        line: the line of the use, from 1.
    """

    what: str
    remedy: str
    filename: str
    line: int


@attrs.frozen
class _Unloaded:
    """A module that the handler would import, or something in it, known only by its name."""

    name: str


class _Unknown:
    """What cannot be told without running code."""


_UNKNOWN: Final = _Unknown()


def warn_about(fn: Callable[..., Any]) -> None:
    """Give a `DeterminismWarning`, at its own file and line, for each use that `uses` finds.

    Raises:
        DeterminismWarning: only where the user's warning filters turn warnings into errors.
    """
    found = uses(fn)
    if not found:
        return
    function = _innermost(fn)
    assert function is not None, "uses() found something in no function"
    for use in found:
        warnings.warn_explicit(
            f"{use.what} in workflow {function.__qualname__!r}: a replay would not see the "
            f"same. Instead: {use.remedy}",
            DeterminismWarning,
            filename=use.filename,
            lineno=use.line,
            module=function.__module__,
            registry=function.__globals__.setdefault("__warningregistry__", {}),
        )


def uses(fn: Callable[..., Any]) -> tuple[Use, ...]:
    """What in the code of `fn`, and of the functions inside it, a replay cannot repeat.

    Names are followed to real objects through globals, closures, imports inside the function and
    attributes of modules and classes, so aliases are seen. User code is never run; where that
    would be needed, nothing is reported. Functions that `fn` calls are not looked into. Decorated
    functions are followed through ``__wrapped__``. In order of appearance, each line once.
    Never raises.
    """
    try:
        function = _innermost(fn)
        if function is None:
            return ()
        scope = _Scope(function.__globals__, watched_objects())
        found = _walk(function.__code__, _closure(function), scope)
        return tuple(dict.fromkeys(found))
    except Exception:  # An unheard-of kind of function must not keep a workflow from being defined.
        logging.getLogger(__name__).debug("cannot read the code of %r", type(fn), exc_info=True)
        return ()


def _innermost(fn: object) -> types.FunctionType | None:
    """The plain function under decorators, partials and methods; None where there is none."""
    for _ in range(100):  # A cycle of __wrapped__ is possible.
        if issubclass(type(fn), functools.partial):
            fn = object.__getattribute__(fn, "func")
        elif type(fn) in (types.MethodType, staticmethod, classmethod):
            fn = fn.__func__  # type: ignore[attr-defined]
        else:
            try:
                inside = object.__getattribute__(fn, "__dict__").get("__wrapped__")
            except AttributeError:
                inside = None
            if inside is None:
                return fn if type(fn) is types.FunctionType else None
            fn = inside
    return None


def _closure(function: types.FunctionType) -> dict[str, object]:
    known: dict[str, object] = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            known[name] = cell.cell_contents
        except ValueError:
            continue  # Not assigned yet.
    return known


def watched_objects() -> dict[int, tuple[object, str]]:
    """Identity to (object, full name) of all that is watched and loaded by now.

    The object is kept in the value so that its identity stays its own. Made anew each time: a
    module may have been loaded since.
    """
    watched: dict[int, tuple[object, str]] = {}
    for module_name, names, _ in _WATCHED:
        module = sys.modules.get(module_name)
        for name in names.split() if module is not None else ():
            value: object = module
            for part in name.split("."):
                value = _attribute(value, part)
            if value is not _UNKNOWN:
                watched.setdefault(id(value), (value, f"{module_name}.{name}"))
    return watched


def _mro(cls: type) -> tuple[type, ...]:
    return type.__dict__["__mro__"].__get__(cls)  # type: ignore[no-any-return]


def _attribute(value: object, name: str) -> object:
    """``value.name`` for modules and classes, without ever running a ``__getattr__``."""
    kind = type(value)
    if isinstance(value, _Unloaded):
        return _Unloaded(f"{value.name}.{name}")
    if issubclass(kind, types.ModuleType):
        return object.__getattribute__(value, "__dict__").get(name, _UNKNOWN)
    if issubclass(kind, type):
        for cls in _mro(value):  # type: ignore[arg-type]
            members = type.__dict__["__dict__"].__get__(cls)
            if name in members:
                found = members[name]
                return found.__func__ if type(found) is staticmethod else found
    return _UNKNOWN


@attrs.frozen
class _Scope:
    """Where names of one function lead to: its globals and the watched objects."""

    names: Mapping[str, object]
    watched: Mapping[int, tuple[object, str]]

    def global_name(self, name: str) -> object:
        if name in self.names:
            return self.names[name]
        builtins = self.names.get("__builtins__", {})
        if type(builtins) is types.ModuleType:
            builtins = vars(builtins)
        return builtins.get(name, _UNKNOWN) if type(builtins) is dict else _UNKNOWN

    def watched_name(self, value: object, *, called: bool) -> str | None:
        """The full name under which `value` is watched; classes only where they are called."""
        if value is _UNKNOWN:
            return None
        if isinstance(value, _Unloaded):
            is_class = value.name.rpartition(".")[2][:1].isupper()
            return value.name if value.name in REMEDY and (called or not is_class) else None
        if issubclass(type(value), type):
            if not called:
                return None
            for cls in _mro(value):  # type: ignore[arg-type]
                if id(cls) in self.watched:
                    return self.watched[id(cls)][1]
            return None
        if id(value) not in self.watched and type(value) in (
            types.BuiltinMethodType,
            types.MethodType,
        ):
            # ``now = datetime.now`` made a new object; the one in the class is the same for all.
            owner = value.__self__  # type: ignore[attr-defined]
            if issubclass(type(owner), type):
                value = _attribute(owner, value.__name__)  # type: ignore[attr-defined]
        entry = self.watched.get(id(value))
        return None if entry is None else entry[1]


def _walk(code: types.CodeType, outer: Mapping[str, object], scope: _Scope) -> Iterator[Use]:
    """The uses in one code object, then in those nested in it."""
    instructions = [
        instruction
        for instruction in dis.get_instructions(code)
        if instruction.opname not in ("CACHE", "EXTENDED_ARG", "NOP")
    ]
    local = _imports(code, instructions, scope)
    local |= {name: outer[name] for name in code.co_freevars if name in outer}
    value: object = _UNKNOWN
    chain_start = 0
    for index, instruction in enumerate(instructions):
        op, argument = instruction.opname, instruction.argval
        if op in _ATTRIBUTES:
            owner, value = value, _attribute(value, argument)
            use = _telling(owner, value, argument)
        elif op.startswith(_LOADS):
            value, chain_start = _loaded(op, argument, local, scope), index
            use = None
        else:
            value = _UNKNOWN
            continue
        if use is None:
            called = _is_called(instructions, chain_start, index)
            what = scope.watched_name(value, called=called)
            if what is None:
                continue
            if what in _ONLY_WITHOUT_ARGUMENTS and not _without_arguments(instructions, index):
                continue
            use = (what, REMEDY[what])
        line = instruction.positions.lineno if instruction.positions else None
        yield Use(*use, code.co_filename, line or code.co_firstlineno)
        value = _UNKNOWN  # ``os.environ.get`` is one use.
    for constant in code.co_consts:
        if type(constant) is types.CodeType:
            yield from _walk(constant, local, scope)


def _loaded(op: str, argument: Any, local: Mapping[str, object], scope: _Scope) -> object:
    name = argument[-1] if type(argument) is tuple else argument  # 3.13 joins pairs of loads.
    if op == "LOAD_GLOBAL":
        return scope.global_name(name)
    if op in ("LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS") and name not in local:
        return scope.global_name(name)  # In a class body.
    return local.get(name, _UNKNOWN)


def _telling(owner: object, value: object, attribute: str) -> tuple[str, str] | None:
    if value is not _UNKNOWN:
        return None
    if issubclass(type(owner), random.Random):
        # Shared by all workflows of the process, so a seed does not help.
        return f"random.Random.{attribute}", _DICE
    return _TELLING_ATTRIBUTES.get(attribute)


def _is_called(instructions: list[dis.Instruction], start: int, end: int) -> bool:
    """Whether the value loaded by ``instructions[start:end + 1]`` is put there to be called.

    The compiler tells: a callee comes with a NULL, pushed by the first or the last of its loads,
    or by an instruction of its own, before (3.11, 3.12) or after (3.13).
    """
    if instructions[end + 1].opname in _ATTRIBUTES:
        return False  # Something in it may be called.
    if instructions[end].opname == "LOAD_METHOD":
        return True
    if "NULL" in instructions[start].argrepr + instructions[end].argrepr:
        return True
    neighbour = end + 1 if sys.version_info >= (3, 13) else start - 1
    return neighbour >= 0 and instructions[neighbour].opname == "PUSH_NULL"


def _without_arguments(instructions: list[dis.Instruction], index: int) -> bool:
    for instruction in instructions[index + 1 :]:
        if instruction.opname not in ("PUSH_NULL", "PRECALL"):
            return instruction.opname == "CALL" and instruction.arg == 0
    return False


def _imports(
    code: types.CodeType, instructions: list[dis.Instruction], scope: _Scope
) -> dict[str, object]:
    """Local names and what they are bound to: known where by imports only."""
    parameters = code.co_argcount + code.co_kwonlyargcount
    parameters += bool(code.co_flags & 0x04) + bool(code.co_flags & 0x08)  # *args, **kwargs
    spoiled = set(code.co_varnames[:parameters])
    bound: dict[str, object] = {}
    module: object = _UNKNOWN
    pending: object = _UNKNOWN  # What the next store binds.
    for index, instruction in enumerate(instructions):
        op, argument = instruction.opname, instruction.argval
        if op == "IMPORT_NAME":
            module = pending = _imported(argument, instructions[max(index - 2, 0) : index])
        elif op == "IMPORT_FROM":
            pending = _attribute(module, argument)
            if instructions[index + 1].opname == "SWAP":  # import a.b.c as d
                module = pending
        elif op.startswith(("STORE_FAST", "STORE_DEREF", "STORE_NAME")):
            names = argument if type(argument) is tuple else (argument,)
            if op == "STORE_FAST_LOAD_FAST":
                names = names[:1]
            for name in names:
                if pending is _UNKNOWN or bound.get(name, pending) is not pending:
                    spoiled.add(name)
                bound[name] = pending
            pending = _UNKNOWN
        elif op not in ("SWAP", "POP_TOP", "ROT_TWO"):
            pending = _UNKNOWN
    return bound | dict.fromkeys(spoiled, _UNKNOWN)


def _imported(name: str, before: list[dis.Instruction]) -> object:
    """What ``IMPORT_NAME`` pushes, found among the loaded modules; nothing is imported."""
    if len(before) < 2 or before[0].argval != 0:
        return _UNKNOWN  # A relative import: never of what is watched.
    if before[1].argval is None:  # import a.b.c: the name a
        name = name.partition(".")[0]
    return sys.modules[name] if name in sys.modules else _Unloaded(name)


# ---------------------------------------------------------------- refused while it runs

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
    "open": _ACTION,
    **dict.fromkeys(f"{_CONNECT} {_TALK} {_PROCESS} {_FILES}".split(), _ACTION),
    **dict.fromkeys(_THREADS.split(), _THREAD),
    "sqlite3.connect": "read with step.run_query(...), write with step.run_mutation(...)",
    "time.sleep": _SLEEP,
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

    While no thread is between `enter` and `leave`, the hook only looks at an empty set.
    """
    global _installed
    with _install_lock:
        if _installed:
            return
        sys.addaudithook(_hook)
        if hasattr(os, "register_at_fork"):
            # The child has none of the other threads, but may give their identities out again.
            os.register_at_fork(after_in_child=_guarded.clear)
        _installed = True


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
