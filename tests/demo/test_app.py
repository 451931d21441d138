"""The demo's program and the README's example are one program, as the director expects it."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.sources import parse

import perdure.demo
from perdure.demo.play import STEPS

ROOT = Path(__file__).resolve().parent.parent.parent
#: Read, not imported: the program takes its settings from the environment when it is imported.
APP = Path(perdure.demo.__file__).parent / "app.py"
EXAMPLE = ROOT / "examples" / "onboarding.py"


def _calls(path: Path) -> list[tuple[str, str]]:
    """The steps that `onboarding` asks for: the verb, and the function or event."""
    tree = parse(path)
    (handler,) = (
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.AsyncFunctionDef) and node.name == "onboarding"
    )
    awaits = [node.value for node in ast.walk(handler) if isinstance(node, ast.Await)]
    found = []
    for call in sorted(awaits, key=lambda node: node.lineno):
        assert isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute)
        what = call.args[0]
        found.append((call.func.attr, ast.unparse(getattr(what, "func", what))))
    return found


def test_the_program_uses_the_public_door_only() -> None:
    """The program imports from perdure just what any user may."""
    tree = parse(APP)
    imported = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert [name for name in imported if name and name.startswith("perdure")] == ["perdure"]


def test_the_example_asks_for_the_same_steps() -> None:
    """examples/onboarding.py is the demo's program with nothing killed: verb by verb."""
    assert _calls(EXAMPLE) == _calls(APP)
    assert len(_calls(APP)) == len(STEPS)


def test_the_readme_shows_the_example() -> None:
    """The README has examples/onboarding.py word for word, and it has at most 40 lines."""
    text = EXAMPLE.read_text(encoding="utf-8")
    assert f"```python file=onboarding.py from=examples/onboarding.py\n{text}```" in (
        ROOT / "README.md"
    ).read_text("utf-8")
    assert len(text.splitlines()) <= 40
