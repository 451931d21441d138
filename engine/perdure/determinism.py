"""What a workflow handler must not do, as far as it is seen in its code when it is defined.

`uses` and `warn_about` read a handler's code and name the clocks, dice and calls to the outside in
it; nothing of the user's is executed. What a handler does is another matter: guard.py refuses what
leaves the process, and clockwatch.py sees clocks where a replay is checked.

Not here: matching commands against a journal (the core's).
"""

from __future__ import annotations

import dis
import functools
import logging
import random
import sys
import types
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import attrs

from .errors import DeterminismWarning

# What to use instead, where guard.py names it too.
USE_ACTION: Final = "do it in an action: await step.run_action(...)"
_NOW: Final = "use step.now()"
_DICE: Final = "use step.random"
_UUID: Final = "use step.uuid4()"
_SECRET: Final = "make it in an action, or use step.random where it need not be secret"
_OUTSIDE: Final = "read it outside and pass it as an argument"
USE_SLEEP: Final = "use await step.sleep(...)"
USE_STEPS: Final = "start several steps and asyncio.gather them; blocking code belongs in an action"
_LOOP: Final = "the handler has a loop already: await it, or do it in an action"

_HTTP_VERBS: Final = "get post put patch delete head options request"

#: (module, names in it, what to use instead). A name that is a class counts only when called.
_WATCHED: Final = (
    ("time", "time time_ns monotonic monotonic_ns perf_counter perf_counter_ns", _NOW),
    ("time", "process_time process_time_ns thread_time thread_time_ns", _NOW),
    ("time", "clock_gettime clock_gettime_ns localtime gmtime ctime asctime", _NOW),
    ("time", "sleep", USE_SLEEP),
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
    ("os", "system popen fork forkpty posix_spawn posix_spawnp execl execle execlp", USE_ACTION),
    ("os", "execlpe execv execve execvp execvpe spawnl spawnle spawnlp spawnlpe", USE_ACTION),
    ("os", "spawnv spawnve spawnvp spawnvpe", USE_ACTION),
    ("subprocess", "run call check_call check_output getoutput getstatusoutput Popen", USE_ACTION),
    ("socket", "socket create_connection create_server socketpair getaddrinfo", USE_ACTION),
    ("socket", "gethostbyname gethostbyname_ex gethostbyaddr getnameinfo", USE_ACTION),
    ("urllib.request", "urlopen urlretrieve", USE_ACTION),
    ("http.client", "HTTPConnection", USE_ACTION),
    ("smtplib", "SMTP", USE_ACTION),
    ("requests", f"{_HTTP_VERBS} session Session", USE_ACTION),
    ("httpx", f"{_HTTP_VERBS} stream Client AsyncClient", USE_ACTION),
    ("aiohttp", "request ClientSession", USE_ACTION),
    ("urllib3", "request PoolManager HTTPConnectionPool", USE_ACTION),
    ("_thread", "start_new_thread", USE_STEPS),
    ("threading", "Thread", USE_STEPS),
    ("concurrent.futures.thread", "ThreadPoolExecutor", USE_STEPS),
    ("concurrent.futures.process", "ProcessPoolExecutor", USE_ACTION),
    ("multiprocessing", "Process Pool", USE_ACTION),
    ("multiprocessing.process", "BaseProcess", USE_ACTION),
    ("asyncio", "to_thread", USE_STEPS),
    ("asyncio", "run Runner new_event_loop run_coroutine_threadsafe", _LOOP),
    ("asyncio", "create_subprocess_exec create_subprocess_shell open_connection", USE_ACTION),
    ("asyncio", "start_server open_unix_connection start_unix_server", USE_ACTION),
)

REMEDY: Final = {
    f"{module}.{name}": remedy for module, names, remedy in _WATCHED for name in names.split()
}

#: Harmless with an argument (a seed, a time), a dice or a clock without.
_ONLY_WITHOUT_ARGUMENTS: Final = frozenset(
    {"random.Random", "time.localtime", "time.gmtime", "time.ctime", "time.asctime"}
)

#: Attributes that give themselves away by name, on objects that code alone does not show.
_TELLING_ATTRIBUTES: Final = {"run_in_executor": ("loop.run_in_executor", USE_STEPS)}


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
