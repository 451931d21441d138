"""The dependency rule: which module may import which, read from the code by its syntax tree.

`FLOORS` is the building, from the roof down: a module imports from its own floor and from the
floors that its own names, never from above. Imports under ``TYPE_CHECKING`` and inside functions
count too: a cycle of types is a cycle in the reader's head. To add a module, put it on a floor;
to let a floor import another, add the name here and say in `why` what makes it right.
What modules *do* (read a clock, draw a random number) is ruff's matter: `banned-api` in
pyproject.toml.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import attrs
import pytest
from tests.sources import parse

ROOT = Path(__file__).resolve().parent.parent
ENGINE = ROOT / "engine"


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


@attrs.frozen
class Floor:
    """Modules that stand together, by prefix, and the floors that they may import from."""

    name: str
    modules: tuple[str, ...] = attrs.field(converter=_words)
    may_import: tuple[str, ...] = attrs.field(converter=_words)
    why: str


FLOORS = (
    Floor(
        "cli",
        "perdure.cli perdure.demo perdure.__main__",
        "door",
        "it is a user of perdure like any other: what it needs, others need too",
    ),
    Floor(
        "door",
        "perdure",
        "manager checking runtime step definitions determinism records core errors",
        "it re-exports names and does nothing else",
    ),
    Floor(
        "manager",
        "perdure.manager perdure.inspecting perdure.opening perdure.sync",
        "checking runtime step definitions codec determinism store records core errors",
        "it turns calls into messages; whoever stands below must work without it",
    ),
    Floor(
        "checking",
        "perdure.checking perdure.journals perdure.migrating",
        "runtime step definitions codec determinism store records core errors",
        "a journal can be replayed wherever it is, without the manager that wrote it",
    ),
    Floor(
        "runtime",
        "perdure.runtime",
        "step definitions codec determinism store records core errors",
        "it carries out effects, whoever asked: it knows no manager",
    ),
    Floor(
        "step",
        "perdure.step",
        "definitions codec determinism core errors",
        "a handler only asks: it reaches neither a store nor the runtime",
    ),
    Floor(
        "definitions",
        "perdure.definitions perdure.events",
        "codec determinism records core errors",
        "what is defined must be readable without anything that runs it",
    ),
    Floor(
        "codec",
        "perdure.codec perdure.annotations perdure.declared_form perdure.error_form perdure.forms"
        " perdure.outcome_form perdure.unions",
        "records core errors",
        "values are judged the same way in every process, whatever runs there",
    ),
    Floor(
        "determinism",
        "perdure.determinism perdure.guard perdure.clockwatch",
        "core errors",
        "the guard watches handlers and needs to know nothing of them",
    ),
    Floor(
        "store",
        "perdure.store",
        "records core errors",
        "a store keeps rows and decides nothing: it knows neither runtime nor user values",
    ),
    Floor("records", "perdure.records", "core errors", "plain values that are handed out"),
    Floor(
        "core",
        "perdure.core",
        "errors",
        "the core is pure: it can be read, tested and simulated with nothing around it",
    ),
    Floor(
        "errors",
        "perdure.errors perdure.sometimes",
        "",
        "everything may import it, so it imports nothing",
    ),
)

#: Adapters of one contract: a helper that two of them share belongs beside them, not in one.
APART = (("perdure.store.sqlite", "perdure.store.postgres"),)


@attrs.frozen
class Only:
    """Imports from outside that only some modules may have, and why.

    `types_only` are modules that may also name it in annotations, under ``TYPE_CHECKING``.
    """

    imports: tuple[str, ...] = attrs.field(converter=_words)
    modules: tuple[str, ...] = attrs.field(converter=_words)
    why: str
    types_only: tuple[str, ...] = attrs.field(converter=_words, default="")


ONLY = (
    Only(
        "sqlite3",
        "perdure.store perdure.demo",
        "SQL and its errors end at the store",
        types_only="perdure.runtime.contexts perdure.manager perdure.sync",
    ),
    Only(
        "psycopg psycopg_pool",
        "perdure.store.postgres",
        "the driver is an extra, and the store's own matter",
        types_only="perdure.runtime.contexts perdure.manager perdure.sync",
    ),
    Only(
        "threading concurrent queue _thread",
        "perdure.runtime perdure.opening perdure.sync perdure.guard perdure.store",
        "threads belong to those who carry out effects",
    ),
    Only(
        "asyncio",
        "perdure.core.loop perdure.core.closing perdure.core.replay perdure.step "
        "perdure.definitions perdure.runtime perdure.manager perdure.inspecting perdure.opening "
        "perdure.sync perdure.cli perdure.demo",
        "transitions, stores and values are plain calls",
    ),
    Only("click rich", "perdure.cli perdure.demo", "they come with the extra `cli`"),
    Only("perdure_sim hypothesis pytest", "", "production never imports the test kit"),
    Only("pickle marshal shelve", "", "stored values are JSON that anything can read"),
)

#: Third-party packages that every installation has; others need a line in `ONLY`.
ALWAYS_INSTALLED = ("attrs", "attr", "msgspec", "sortedcontainers")
#: Used where a user has it, and found at run time.
WHEN_INSTALLED = {"pydantic": ("perdure.codec", "perdure.forms")}

#: All that the core may import from outside. Nothing here reads a clock, a file or the system.
CORE_MAY_IMPORT = _words(
    "__future__ attrs bisect collections contextlib contextvars enum functools hashlib heapq "
    "itertools math operator sortedcontainers types typing zlib "
    # The class of its values, and no more: what is encoded, and how, the core does not know.
    "msgspec.Struct msgspec.field msgspec.structs.replace msgspec.structs.astuple"
)
#: Exceptions: (module, import) and the reason.
CORE_ALSO = {
    ("perdure.core.retry", "datetime.timedelta"): "durations that users give; no clock",
    ("perdure.core.loop", "asyncio"): "Task and Future drive the handler; its I/O is not used",
    ("perdure.core.closing", "asyncio"): "the same two are ended here",
    ("perdure.core.replay", "asyncio"): "Task and Future drive the handler; its I/O is not used",
    ("perdure.core.outcomes", "json"): "numbers in recorded arguments are compared by value; pure",
    ("perdure.core.loop", "sys"): "the hooks for async generators are set through it",
}

#: Rings of modules that import each other, as sets of names, each with a reason. Best kept empty.
RINGS_ALLOWED: dict[frozenset[str], str] = {
    frozenset({"perdure.manager", "perdure.sync"}): "two faces of one object, each in a file: the"
    " manager offers `sync`, which is typed by the manager's own methods",
}


@attrs.frozen
class Import:
    """One imported name: who imports it, what, and where that is written."""

    importer: str
    target: str
    where: str
    types_only: bool


def _module_name(path: Path, source_root: Path) -> str:
    parts = path.relative_to(source_root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _is_under(module: str, prefix: str) -> bool:
    return module == prefix or module.startswith(prefix + ".")


def _guards_types(node: ast.AST) -> bool:
    test = node.test if isinstance(node, ast.If) else None
    return getattr(test, "id", getattr(test, "attr", None)) == "TYPE_CHECKING"


def _import_nodes(
    tree: ast.AST, types_only: bool = False
) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node, types_only
        elif isinstance(node, ast.If) and _guards_types(node):
            for part in node.body:
                yield from _import_nodes(ast.Module([part], []), types_only=True)
            for part in node.orelse:
                yield from _import_nodes(ast.Module([part], []), types_only)
        else:
            yield from _import_nodes(node, types_only)


def _targets(
    node: ast.Import | ast.ImportFrom, importer: str, is_package: bool, modules: frozenset[str]
) -> Iterator[str]:
    """The full names that `node` imports: of a module where it is one of ours, else of the name."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    base = node.module or ""
    if node.level:
        anchor = importer.split(".")
        anchor = anchor[: len(anchor) - node.level + is_package]
        base = ".".join([*anchor, base] if base else anchor)
    for alias in node.names:
        name = f"{base}.{alias.name}"
        yield name if name in modules or base not in modules else base


def read_imports(source_root: Path) -> tuple[list[str], list[Import]]:
    """All modules below `source_root`, and all that they import."""
    paths = sorted(source_root.rglob("*.py"))
    names = {path: _module_name(path, source_root) for path in paths}
    modules = frozenset(names.values())
    imports = []
    for path, importer in names.items():
        tree = parse(path)
        for node, types_only in _import_nodes(tree):
            where = f"{path.relative_to(source_root.parent)}:{node.lineno}"
            targets = _targets(node, importer, path.name == "__init__.py", modules)
            imports += [Import(importer, target, where, types_only) for target in targets]
    return sorted(modules), imports


def floor_of(module: str) -> Floor | None:
    """The floor that `module` stands on; for the bare package that is the door."""
    for floor in FLOORS:
        for prefix in floor.modules:
            # The door is the package itself: as a prefix it would take in every module.
            if module == prefix if prefix == "perdure" else _is_under(module, prefix):
                return floor
    return None


def floor_faults(imports: Iterable[Import]) -> Iterator[str]:
    """Imports of our own modules that run upwards."""
    for item in imports:
        if not _is_under(item.target, "perdure"):
            continue
        mine, theirs = floor_of(item.importer), floor_of(item.target)
        if mine is None or theirs is None or mine == theirs:
            continue  # modules without a floor have a test of their own
        if theirs.name not in mine.may_import:
            yield (
                f"{item.where}: {item.importer} ({mine.name}) imports {item.target} "
                f"({theirs.name}); {mine.name} may import "
                f"{', '.join(mine.may_import) or 'nothing of ours'}: {mine.why}"
            )


def apart_faults(imports: Iterable[Import]) -> Iterator[str]:
    """Imports between modules that must not know each other."""
    for item in imports:
        for group in APART:
            # By letters, not by dots: `sqlite_rows.py` belongs to the adapter `sqlite.py`.
            mine = [prefix for prefix in group if item.importer.startswith(prefix)]
            theirs = [prefix for prefix in group if item.target.startswith(prefix)]
            if mine and theirs and mine != theirs:
                yield (
                    f"{item.where}: {item.importer} imports {item.target}: adapters of one "
                    f"contract stay apart; put what they share beside them"
                )


def outside_faults(imports: Iterable[Import]) -> Iterator[str]:
    """Imports from outside that this module may not have."""
    for item in imports:
        if _is_under(item.target, "perdure"):
            continue
        package = item.target.split(".")[0]
        rules = [rule for rule in ONLY if package in rule.imports]
        for rule in rules:
            allowed = rule.modules + (rule.types_only if item.types_only else ())
            if not any(item.importer.startswith(module) for module in allowed):
                yield (
                    f"{item.where}: {item.importer} imports {item.target}, which only "
                    f"{', '.join(rule.modules) or 'nobody'} may: {rule.why}"
                )
        if rules or package in ALWAYS_INSTALLED or package in sys.stdlib_module_names:
            continue
        if item.importer not in WHEN_INSTALLED.get(package, ()):
            yield f"{item.where}: {item.importer} imports {item.target}, which no rule allows"


def core_faults(imports: Iterable[Import]) -> Iterator[str]:
    """Imports that would let the core reach outside."""
    for item in imports:
        if not _is_under(item.importer, "perdure.core") or _is_under(item.target, "perdure"):
            continue
        package = item.target.split(".")[0]
        if {package, item.target} & set(CORE_MAY_IMPORT):
            continue
        if not {(item.importer, package), (item.importer, item.target)} & CORE_ALSO.keys():
            yield (
                f"{item.where}: {item.importer} imports {item.target}: the core imports only "
                f"{' '.join(CORE_MAY_IMPORT)} (and what CORE_ALSO names)"
            )


def find_rings(imports: Iterable[Import]) -> list[frozenset[str]]:
    """Sets of our modules that reach each other by imports."""
    graph: dict[str, set[str]] = {}
    for item in imports:
        if _is_under(item.target, "perdure") and item.target != item.importer:
            graph.setdefault(item.importer, set()).add(item.target)

    def reach(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            fresh = graph.get(waiting.pop(), set()) - seen
            seen |= fresh
            waiting.extend(fresh)
        return seen

    reached = {module: reach(module) for module in graph}
    rings = {
        frozenset(other for other in seen if module in reached.get(other, ()))
        for module, seen in reached.items()
        if module in seen
    }
    return sorted(rings, key=sorted)


def _report(faults: Iterable[str]) -> None:
    listed = sorted(set(faults))
    assert listed == [], "\n" + "\n".join(listed)


MODULES, IMPORTS = read_imports(ENGINE)


def test_every_module_stands_on_a_floor() -> None:
    """A new module is placed on purpose: without a floor no rule would hold for it."""
    homeless = [module for module in MODULES if floor_of(module) is None]
    assert homeless == [], f"put these into FLOORS: {', '.join(homeless)}"


def test_no_import_runs_up() -> None:
    """Each module imports only from its own floor and from those that its floor names."""
    _report(floor_faults(IMPORTS))


def test_adapters_stay_apart() -> None:
    """No store adapter imports another one."""
    _report(apart_faults(IMPORTS))


def test_imports_from_outside_are_where_they_belong() -> None:
    """Databases, threads, extras and the test kit are imported by the named modules only."""
    _report(outside_faults(IMPORTS))


def test_the_core_imports_nothing_that_reaches_outside() -> None:
    """The core's imports are on its short list, so it has no clock, chance, file or socket."""
    _report(core_faults(IMPORTS))


def test_modules_do_not_import_each_other_in_a_ring() -> None:
    """The graph of imports, those for types included, has no cycle that is not named."""
    rings = [ring for ring in find_rings(IMPORTS) if ring not in RINGS_ALLOWED]
    _report(f"import each other: {', '.join(sorted(ring))}" for ring in rings)


def test_the_table_names_floors_that_exist() -> None:
    """A floor that is renamed in one place only would silently allow nothing, or everything."""
    names = [floor.name for floor in FLOORS]
    for number, floor in enumerate(FLOORS):
        above = [name for name in floor.may_import if name not in names[number + 1 :]]
        assert above == [], f"{floor.name} may import what is not below it: {above}"


def _imports_of(tmp_path: Path, files: dict[str, str]) -> list[Import]:
    root = tmp_path / "engine"
    for name, text in {"perdure/__init__.py": "", **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return read_imports(root)[1]


@pytest.mark.parametrize(
    ("file", "line", "rule"),
    [
        ("errors.py", "from .core import retry", floor_faults),
        ("core/pool.py", "from ..codec import encode", floor_faults),
        ("core/pool.py", "import perdure.runtime.worker", floor_faults),
        ("store/sqlite.py", "def f():\n    from perdure.runtime import clock", floor_faults),
        ("step.py", "from .store.base import Store", floor_faults),
        ("cli/commands.py", "from ..manager import WorkflowManager", floor_faults),
        ("runtime/worker.py", "if TYPE_CHECKING:\n    from ..manager import x", floor_faults),
        ("store/sqlite_rows.py", "from .postgres import connect", apart_faults),
        ("core/pool.py", "import time", core_faults),
        ("core/pool.py", "from datetime import timedelta", core_faults),
        ("core/retry.py", "from datetime import datetime", core_faults),
        ("core/pool.py", "import asyncio", core_faults),
        ("core/pool.py", "import msgspec", core_faults),
        ("runtime/worker.py", "import sqlite3", outside_faults),
        ("runtime/contexts.py", "import sqlite3", outside_faults),
        ("store/sqlite.py", "import psycopg", outside_faults),
        ("codec.py", "import threading", outside_faults),
        ("manager.py", "from perdure_sim import simulate", outside_faults),
        ("manager.py", "import requests", outside_faults),
    ],
)
def test_a_forbidden_import_is_found(tmp_path: Path, file: str, line: str, rule: object) -> None:
    """Each rule reports a planted fault, with its place: the checks above can fail."""
    planted = {f"perdure/{file}": line}
    for name in ("core/retry", "codec", "manager", "runtime/clock", "runtime/worker"):
        planted.setdefault(f"perdure/{name}.py", "")
    for name in ("cli", "core", "runtime", "store"):
        planted.setdefault(f"perdure/{name}/__init__.py", "")
    assert callable(rule)
    faults = list(rule(_imports_of(tmp_path, planted)))
    line_number = len(line.splitlines())
    assert [fault.split(": ")[0] for fault in faults] == [f"engine/perdure/{file}:{line_number}"]


def test_an_import_for_types_is_allowed_where_it_is_named(tmp_path: Path) -> None:
    """``ctx.db`` may be annotated as sqlite3's connection without importing sqlite3 at run time."""
    guarded = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import sqlite3\n"
    imports = _imports_of(tmp_path, {"perdure/runtime/contexts.py": guarded})
    assert [(item.target, item.types_only) for item in imports] == [
        ("typing.TYPE_CHECKING", False),
        ("sqlite3", True),
    ]
    assert list(outside_faults(imports)) == []


def test_a_ring_is_found(tmp_path: Path) -> None:
    """Two modules of one floor that import each other are reported, and nobody else."""
    imports = _imports_of(
        tmp_path,
        {
            "perdure/core/__init__.py": "",
            "perdure/core/a.py": "from . import b",
            "perdure/core/b.py": "from .a import x",
            "perdure/core/c.py": "from .a import x",
        },
    )
    assert find_rings(imports) == [frozenset({"perdure.core.a", "perdure.core.b"})]
