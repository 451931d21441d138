"""Scenarios by name: what leads to one, and what is said where nothing does."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from tests.sim import tiny

from perdure_sim.explore.targets import Place, TargetError, load

ROOT = Path(__file__).resolve().parents[3]
FILE = "tests/sim/tiny.py"


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "path", [*sys.path])  # the folder is added


@pytest.mark.parametrize("where", ["tests.sim.tiny", FILE, f"./{FILE}", str(ROOT / FILE)])
def test_a_scenario_is_found_by_module_and_by_file(where: str) -> None:
    """And it is the very one that others import."""
    assert list(load([f"{where}:TINY"]).values()) == [tiny.TINY]
    assert list(load([f"{where}:BOTH"]).values()) == [tiny.TINY, tiny.OTHER]


def test_a_place_leads_to_its_scenario_again() -> None:
    """As in another process, which is sent the place alone."""
    loaded = load([f"{FILE}:BOTH", f"{FILE}:NO_CRASH"])
    places = [Place(f"{FILE}:BOTH", 0), Place(f"{FILE}:BOTH", 1), Place(f"{FILE}:NO_CRASH")]
    assert list(loaded) == places
    assert [place.find() for place in loaded] == list(loaded.values())


def test_a_scenario_that_is_named_twice_is_there_once() -> None:
    """In a list and alone."""
    assert list(load([f"{FILE}:TINY", f"{FILE}:BOTH"]).values()) == [tiny.TINY, tiny.OTHER]


def test_only_some_scenarios_may_be_wanted() -> None:
    """By their names; one that is not there is an error that says which are."""
    assert list(load([f"{FILE}:BOTH"], ["other"]).values()) == [tiny.OTHER]
    with pytest.raises(TargetError, match="no scenario 'third'; there are: tiny, other"):
        load([f"{FILE}:BOTH"], ["third"])


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("tests.sim.tiny", "tests.sim.tiny: give module:NAME or path/to/file.py:NAME"),
        (f"{FILE}:", "give module:NAME"),
        ("tests.sim.tinny:TINY", "there is no module tests.sim.tinny"),
        ("tests/sim/tinny.py:TINY", "there is no file "),
        (f"{FILE}:TINNY", "has no TINNY; scenarios in it: TINY, OTHER, NO_CRASH"),
        (f"{FILE}:shop", "that is a Workflow: "),
        (f"{FILE}:WRONG", "and in it is a int: 5; expected a Scenario, a test of @simulate, or"),
        (f"{FILE}:NOTHING", "that is a tuple: (), and it is empty; expected a Scenario"),
    ],
)
def test_a_wrong_target_says_what_is_there(target: str, message: str) -> None:
    """And what was expected."""
    with pytest.raises(TargetError, match=re.escape(message)):
        load([target])


def test_two_scenarios_of_one_name_are_an_error() -> None:
    """A report would not say which one it means."""
    with pytest.raises(TargetError, match="two scenarios have the name 'tiny'"):
        load([f"{FILE}:TINY", f"{FILE}:NAMESAKE"])


def test_a_file_outside_of_the_current_folder_has_its_neighbours(tmp_path: Path) -> None:
    """It may import what lies beside it."""
    (tmp_path / "neighbour_of_a_scenario.py").write_text("from tests.sim.tiny import TINY\n")
    path = tmp_path / "far_away_scenario.py"
    path.write_text("from neighbour_of_a_scenario import TINY\n")
    assert list(load([f"{path}:TINY"]).values()) == [tiny.TINY]
    sys.modules.pop("neighbour_of_a_scenario")
    sys.modules.pop("far_away_scenario")


def test_what_a_module_lacks_is_its_own_matter(tmp_path: Path) -> None:
    """An import that fails inside of it is not taken for a wrong target."""
    path = tmp_path / "broken_scenario.py"
    path.write_text("import no_such_module_at_all\n")
    with pytest.raises(ModuleNotFoundError, match="no_such_module_at_all"):
        load([f"{path}:TINY"])
    assert "broken_scenario" not in sys.modules
