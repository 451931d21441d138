"""The command without what it is made of."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_without_the_extra_the_command_says_what_to_install(missing: str) -> None:
    """Where click or rich is missing the command names the extra, on stderr, and exits with 1."""
    hide = f"import sys; sys.modules['{missing}'] = None; import runpy; "
    done = subprocess.run(
        [sys.executable, "-c", hide + "runpy.run_module('perdure', run_name='__main__')"],
        env={"PYTHONPATH": str(ROOT / "engine")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "pip install 'perdure[cli]'" in done.stderr
    assert "Traceback" not in done.stderr
