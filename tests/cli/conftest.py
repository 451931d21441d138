"""The command in this process, on a user's module in an empty folder."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tests.cli.running import APP, Ran, Run

from perdure.cli import main


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a user's module in the current folder, an empty one."""
    name = f"app_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(APP, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])  # the command adds the folder
    monkeypatch.delenv("PERDURE_APP", raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    return name


@pytest.fixture
def bare(app: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command ``perdure WORD…`` in this process."""

    def run(*words: str) -> Ran:
        monkeypatch.setattr(sys, "argv", ["perdure", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return Ran(ended.value.code, printed.out, printed.err)

    return run


@pytest.fixture
def run(bare: Run, app: str) -> Run:
    """Run the command ``perdure --app … WORD…`` in this process."""
    return lambda *words: bare("--app", f"{app}:manager", *words)
