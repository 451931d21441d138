"""Write docs/reference.md from the docstrings: ``make reference``.

The page is kept in the tree, so that it can be read wherever the tree can; a test fails while it
differs from the docstrings. No documentation tool is needed: what is public is `perdure.__all__`,
and a docstring here is prose with a few sections (Args, Returns, Raises, Warns, Attributes).
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import perdure
import perdure.records

PAGE = Path(__file__).with_name("reference.md")

HEAD = """\
# Reference

<!-- Written by docs/reference.py from the docstrings: change those, then `make reference`. -->

Every public name of `perdure`. How things fit together is told in the [tutorial](tutorial.md) and
in the [guides](index.md). A *duration* is a `timedelta` or a number of seconds; times are
`datetime` with a time zone, in UTC where perdure gives them.
"""

#: Heading → names below it, in the order in which they are best read. Every name of
#: `perdure.__all__` but the errors, which are found in their module.
SECTIONS = {
    "The manager": ["WorkflowManager"],
    "Inside a workflow": ["Step"],
    "Contexts of functions": ["QueryContext", "MutationContext", "ActionContext"],
    "Events": ["define_event", "Event"],
    "Options": ["RetryPolicy", "Limits"],
    "What calls give": [
        "Status",
        "Outcome",
        "InProgress",
        "Succeeded",
        "Failed",
        "Canceled",
        "ErrorInfo",
        "WorkflowInfo",
        "StepInfo",
        "Page",
        "Settings",
    ],
    "Journals and checks": [
        "WorkflowJournal",
        "load_journals",
        "CheckReport",
        "CheckViolation",
        "CheckedWorkflow",
    ],
    "Moving to PostgreSQL": ["migrate", "abandon_migration", "MigrationReport"],
    "Definitions": ["Query", "Mutation", "Action", "AsyncAction", "ThreadAction", "Workflow"],
    "Calls": ["Call", "QueryCall", "MutationCall", "ActionCall", "WorkflowCall"],
}

SECTION = re.compile(r"^(Args|Returns|Raises|Warns|Attributes):$", re.MULTILINE)
ITEM = re.compile(r"^ {4}(?=\S)(?P<names>[\w*., ]+?)(?:: (?P<text>.*))?$")
WIDTH = 100


def error_names() -> list[str]:
    """The public errors and warnings, in the order of the tree in errors.py."""
    tree = perdure.errors.__doc__ or ""
    return [name for name in re.findall(r"[A-Z]\w+", tree) if name in perdure.__all__]


def write() -> str:
    """The whole page."""
    parts = [HEAD]
    for heading, names in SECTIONS.items():
        parts.append(f"## {heading}\n")
        for name in names:
            parts += _entry(name)
        if heading == "The manager":
            parts.append(_SYNC)
    parts.append("## Errors\n")
    parts.append("What to do about each is on a [page of its own](errors.md).\n")
    for name in error_names():
        parts += _entry(name)
    return "\n".join(parts)


_SYNC = """\
### manager.sync

The same calls for code without an asyncio loop: `manager.sync.start(…)`, `manager.sync.result(…)`
and so on, with the same parameters, blocking. See `WorkflowManager.sync` above.
"""


def _entry(name: str) -> Iterator[str]:
    value = getattr(perdure, name)
    yield f"### {name}\n"
    if inspect.isclass(value):
        yield from _class_entry(value)
    elif inspect.isfunction(value):
        yield _block(signature(value, name))
        yield prose(inspect.getdoc(value) or "")
    else:
        yield from _alias_entry(name)


def _class_entry(cls: type[Any]) -> Iterator[str]:
    if issubclass(cls, BaseException):
        yield f"A `{cls.__bases__[0].__name__}`.\n"
    elif _is_made_by_users(cls):
        yield _block(_constructor(cls))
    yield prose(inspect.getdoc(cls) or "")
    for name, member in members(cls):
        yield f"#### {cls.__name__}.{name}\n"
        if isinstance(member, property):
            assert member.fget is not None
            returns = member.fget.__annotations__.get("return", "")
            yield _block(f"{name}: {returns}")
        else:
            yield _block(signature(member, name))
        yield prose(inspect.getdoc(member) or "")


def _is_made_by_users(cls: type[Any]) -> bool:
    made = (perdure.WorkflowManager, perdure.RetryPolicy, perdure.Limits)
    records = tuple(getattr(perdure, name) for name in SECTIONS["What calls give"][2:])
    return cls in (*made, *records)


def members(cls: type[Any]) -> Iterator[tuple[str, Any]]:
    """The public methods and properties of a class, those of our classes above it too."""
    seen: set[str] = set()
    for owner in reversed(cls.__mro__):
        if not owner.__module__.startswith("perdure"):
            continue
        for name, member in vars(owner).items():
            is_ours = not name.startswith("_") and name not in seen | _INSIDE
            if is_ours and (_is_function(member) or isinstance(member, property)):
                seen.add(name)
                yield name, member


#: Public for the engine only: what users get is closed for them.
_INSIDE = {"close", "plan", "encode"}


def _is_function(member: object) -> bool:
    return inspect.isfunction(member)


def _constructor(cls: type[Any]) -> str:
    parameters = [
        parameter.replace(name=parameter.name.lstrip("_"))
        for parameter in inspect.signature(cls).parameters.values()
    ]
    return _wrapped(cls.__name__, [_parameter(each) for each in _starred(parameters)], "")


def _starred(parameters: list[inspect.Parameter]) -> Iterator[inspect.Parameter | str]:
    is_keyword_only = False
    for parameter in parameters:
        if parameter.kind is parameter.KEYWORD_ONLY and not is_keyword_only:
            is_keyword_only = True
            yield "*"
        yield parameter


def _parameter(parameter: inspect.Parameter | str) -> str:
    if isinstance(parameter, str):
        return parameter
    text = f"{parameter.name}: {parameter.annotation}"
    if parameter.default is parameter.empty:
        return text
    shown = repr(parameter.default)
    if "(" in shown and shown != "()":  # a value with many fields: its name is enough
        shown = f"{shown.split('(')[0]}()"
    return f"{text} = {shown}"


def signature(function: Any, name: str) -> str:
    """As it is written in the source, without `self`."""
    node = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    arguments = node.args
    arguments.posonlyargs = [each for each in arguments.posonlyargs if each.arg != "self"]
    arguments.args = [each for each in arguments.args if each.arg != "self"]
    parts = [part for part in _split(ast.unparse(arguments)) if part not in ("/", "fn: Any=None")]
    returns = "" if node.returns is None else f" -> {ast.unparse(node.returns)}"
    prefix = "async " if isinstance(node, ast.AsyncFunctionDef) else ""
    if "asynccontextmanager" in map(ast.unparse, node.decorator_list):
        prefix, returns = "async with ", ""
    spaced = [re.sub(r"(?<=[\w\]])=", " = ", part, count=1) for part in parts]
    return _wrapped(prefix + name, spaced, returns)


def _split(arguments: str) -> list[str]:
    """At the commas that are in no bracket."""
    parts, depth = [""], 0
    for character in arguments:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts if part.strip()]


def _wrapped(name: str, parts: list[str], returns: str) -> str:
    line = f"{name}({', '.join(parts)}){returns}"
    if len(line) <= WIDTH:
        return line
    return "\n".join([f"{name}(", *(f"    {part}," for part in parts), f"){returns}"])


def _alias_entry(name: str) -> Iterator[str]:
    source = inspect.getsource(perdure.records)
    found = re.search(rf"^#: (?P<why>.*)\n{name}: TypeAlias = (?P<what>.*)$", source, re.MULTILINE)
    assert found is not None, f"{name} has no comment in records.py"
    yield _block(f"{name} = {found['what']}")
    yield prose(found["why"])


def _block(text: str) -> str:
    return f"```text\n{text}\n```\n"


def prose(docstring: str) -> str:
    """A docstring as Markdown: sections become lists; ``…`` becomes `…`."""
    text = docstring.replace("``", "`")
    start, *sections = SECTION.split(text)
    parts = [start.strip()] if start.strip() else []
    for heading, body in zip(sections[::2], sections[1::2], strict=True):
        parts.append(f"**{heading}**")
        parts.append(_items(body) if heading != "Returns" else textwrap.dedent(body).strip())
    return "\n\n".join(parts) + "\n"


def _items(body: str) -> str:
    lines: list[str] = []
    for line in body.strip("\n").splitlines():
        item = ITEM.match(line)
        if item is not None:
            text = "" if item["text"] is None else f": {item['text']}"
            names = ", ".join(f"`{name.strip()}`" for name in item["names"].split(","))
            lines.append(f"- {names}{text}")
        elif line.strip():
            lines.append(
                f"  {line.strip()}" if line.startswith("        ") else f"\n{line.strip()}"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(write(), encoding="utf-8")
