"""Source files as syntax trees, for the tests that look at the code itself."""

from __future__ import annotations

import ast
import gc
from pathlib import Path


def parse(path: Path) -> ast.Module:
    """The syntax tree of a file.

    Without the garbage collector: on Python 3.11 a finalizer that runs in the middle, of what some
    earlier test has left behind, makes `ast.parse` raise a SystemError.
    """
    source = path.read_text(encoding="utf-8")
    gc.disable()
    try:
        return ast.parse(source, filename=str(path))
    finally:
        gc.enable()
