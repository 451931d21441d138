"""What is installed: the wheel's contents and metadata, and what `import perdure` pulls in.

Also the changelog, since a release is cut from it. What the door exports is in test_exports.py.
"""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import tomllib
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import attrs
import pytest

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PACKAGES = {"perdure": ROOT / "engine/perdure", "perdure_sim": ROOT / "sim/perdure_sim"}

#: What the extras bring: a production process that does not use them must not need them.
EXTRAS_ONLY = ("click", "rich", "psycopg", "hypothesis", "pytest", "pydantic", "perdure_sim")


@attrs.frozen
class Wheel:
    """A built wheel: the files in it, and its metadata."""

    files: frozenset[str]
    metadata: Message


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Wheel:
    folder = tmp_path_factory.mktemp("wheel")
    # hatchling itself, not pip: it is installed with the tools, so this needs no network.
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        files = frozenset(name for name in archive.namelist() if not name.endswith("/"))
        (name,) = (name for name in files if name.endswith(".dist-info/METADATA"))
        return Wheel(files, Parser().parsestr(archive.read(name).decode()))


def _sources(package: str, root: Path) -> set[str]:
    return {
        f"{package}/{path.relative_to(root).as_posix()}"
        for path in root.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith(".")
    }


def test_the_wheel_holds_both_packages_and_nothing_else(wheel: Wheel) -> None:
    """The wheel has each file of the two packages, SQL and py.typed included, and no others."""
    packed = {name for name in wheel.files if ".dist-info/" not in name}
    expected = {name for package, root in PACKAGES.items() for name in _sources(package, root)}
    assert packed == expected


def test_both_packages_are_typed(wheel: Wheel) -> None:
    """Type checkers read our annotations, because each package says that it has them."""
    assert {f"{package}/py.typed" for package in PACKAGES} <= wheel.files


def test_the_wheel_names_its_version_license_and_python(wheel: Wheel) -> None:
    """Installers and people see version, license and the oldest Python."""
    expected = [PROJECT["version"], "MIT", ">=3.11"]
    fields = ["Version", "License-Expression", "Requires-Python"]
    assert expected == [wheel.metadata[field] for field in fields]
    assert any(name.endswith("/licenses/LICENSE") for name in wheel.files)


def test_the_extras_are_those_of_the_docs(wheel: Wheel) -> None:
    """`pip install 'perdure[sim]'` and the other extras exist under their documented names."""
    assert sorted(wheel.metadata.get_all("Provides-Extra", [])) == ["cli", "dev", "postgres", "sim"]


def test_the_command_leads_to_a_function() -> None:
    """The installed command `perdure` finds what it is to run."""
    (entry,) = importlib.metadata.entry_points(group="console_scripts", name="perdure")
    assert entry.value == PROJECT["scripts"]["perdure"]
    assert callable(entry.load())


def test_importing_perdure_needs_no_extra() -> None:
    """A bare `import perdure` loads no package of the extras, and not the simulator."""
    code = f"import sys, perdure; print([n for n in {EXTRAS_ONLY!r} if n in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(ROOT / "engine")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


def test_the_changelog_is_in_order() -> None:
    """Unreleased comes first, then the releases, newest first, none of them newer than we are."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert headings[0] == "[Unreleased]"
    releases = [re.fullmatch(r"\[([\d.]+)\] - \d{4}-\d\d-\d\d", line) for line in headings[1:]]
    versions = [_version(release[1]) for release in releases if release]
    assert len(versions) == len(releases), f"write '## [1.2.3] - 2030-12-31': {headings[1:]}"
    assert versions == sorted(set(versions), reverse=True)
    assert all(version <= _version(PROJECT["version"]) for version in versions)


def test_the_changelog_uses_the_six_kinds() -> None:
    """Entries stand under the kinds of Keep a Changelog, so that a reader finds what breaks."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    used = set(re.findall(r"^### (.*)$", text, re.MULTILINE))
    assert used
    assert used <= kinds
