"""The page: well-formed, whole, on its own, and nothing in it is taken for markup."""

from __future__ import annotations

from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from tests.sim.failing import failed
from tests.sim.scenes import d, order

from perdure_sim.explore.explorer import Run, Scenario, run
from perdure_sim.faults.plan import FaultPlan
from perdure_sim.report.report import report_of, write_page
from perdure_sim.world.disks import memory_disk
from perdure_sim.world.world import World

EVIL = "<script>alert('&amp;')</script>"

#: Elements without an end.
VOID = frozenset({"meta", "input", "br"})


class Parsed(HTMLParser):
    """The elements of a page; well-formed, or it raises."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        assert len(dict(attrs)) == len(attrs), f"an attribute twice in {tag} {attrs}"
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append((self.open[-1] if self.open else "", data))

    def classes(self, tag: str) -> Iterator[set[str]]:
        for name, attributes in self.tags:
            if name == tag:
                yield set((attributes.get("class") or "").split())

    def all_text(self) -> str:
        return "\n".join(data for tag, data in self.texts if tag != "style")


def page_of(found: Run, tmp_path: Path) -> Parsed:
    path = tmp_path / "page.html"
    write_page(found, path, target="a.b:C")
    return Parsed(path.read_text(encoding="utf-8"))


@pytest.fixture
def hurt() -> Run:
    """A run with a fault, a crash and a broken law."""
    return failed("reference", "pd1:w0/carried_out#1=crash;w0/commit#99=fails", "attempts begin")


def test_the_page_needs_nothing_else(hurt: Run, tmp_path: Path) -> None:
    """No script, no link out of it, nothing that is loaded; and it forbids that itself."""
    page = page_of(hurt, tmp_path)
    assert not {"script", "link", "img", "iframe", "object"} & {tag for tag, _ in page.tags}
    for _, attributes in page.tags:
        assert "src" not in attributes
        assert (attributes.get("href") or "#").startswith("#")
        assert not any(name.startswith("on") for name in attributes)
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "://" not in text
    assert "@import" not in text
    assert "url(" not in text
    policies = [each["content"] for tag, each in page.tags if "http-equiv" in each]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'"]


def test_it_is_light_or_dark() -> None:
    """As the reader's system is."""
    from perdure_sim.report.page import _STYLE

    assert "prefers-color-scheme: dark" in _STYLE
    assert "color-scheme: light dark" in _STYLE


def test_what_is_broken_stands_on_top(hurt: Run, tmp_path: Path) -> None:
    """The law, what it means, the facts, the fault, the plan, and how to see it again."""
    text = page_of(hurt, tmp_path).all_text()
    for expected in (
        "TooManyAttempts",
        "More attempts were recorded than the policy allows, or their numbers jump.",
        "o0 step 0: attempt 0 after 1",
        "w0/carried_out#1=crash",
        "w0 dies in its 1st busy turn, at the end",
        "Left out, for they did not fire: w0/commit#99=fails",
        "perdure-sim replay a.b:C 'pd1:w0/carried_out#1=crash'",
    ):
        assert expected in text, expected
    assert "pd1:w0/carried_out#1=crash" in [data for _, data in page_of(hurt, tmp_path).texts]


def test_all_events_are_on_it(hurt: Run, tmp_path: Path) -> None:
    """Each once, in order; those that did not lead to it can be hidden, and so can turns."""
    report = report_of(hurt)
    page = page_of(hurt, tmp_path)
    ids = [each["id"] for tag, each in page.tags if tag == "details"]
    assert ids == [f"e{line.index}" for line in report.lines]
    classes = list(page.classes("details"))
    assert sum("noise" in each for each in classes) == len(report.lines) - report.causes.total
    assert sum("other" in each for each in classes) == report.causes.total - report.causes.shown
    assert sum("fact" in each for each in classes) == 2
    labels = [each["for"] for tag, each in page.tags if tag == "label"]
    inputs = [each["id"] for tag, each in page.tags if tag == "input"]
    assert labels == inputs == ["only", "noise"]


def test_the_facts_lead_to_their_events(hurt: Run, tmp_path: Path) -> None:
    """By links within the page."""
    page = page_of(hurt, tmp_path)
    links = [each["href"] for tag, each in page.tags if tag == "a"]
    assert links == [f"#e{line.index}" for line in report_of(hurt).causes.facts]
    ids = {each.get("id") for _, each in page.tags}
    assert {link and link[1:] for link in links} <= ids


def test_an_event_opens_to_all_that_is_known_of_it(hurt: Run, tmp_path: Path) -> None:
    """The rows of a commit, with times of the world; also those that no law looks at."""
    full = [data for tag, data in page_of(hurt, tmp_path).texts if tag == "pre"]
    commits = [text for text in full if "  commit" in text]
    assert any("StepRecord(number=0" in text and "asked_at=+0.020s" in text for text in commits)
    assert any("('add_worker', 'w0.1.1')" in text for text in commits)


def test_what_users_write_is_no_markup(tmp_path: Path) -> None:
    """Ids, values and messages of errors."""

    def check(world: World) -> None:
        raise AssertionError(f"{EVIL} is wrong")

    def script(world: World) -> None:
        world.start(order(1), id=EVIL)
        world.after(100, lambda: world.send_event("go", workflow_id=EVIL, value=EVIL))

    scenario = Scenario(name=EVIL, definer=d, script=script, check=check)
    found = run(scenario, FaultPlan(), memory_disk, detail=True)
    path = tmp_path / "page.html"
    write_page(found, path, target=EVIL)
    text = path.read_text(encoding="utf-8")
    assert "<script" not in text
    page = Parsed(text)
    assert f"{EVIL} is wrong" in page.all_text()
    assert any(f"{EVIL}: is started as order(n=1)" in data for _, data in page.texts)


def test_what_is_very_long_is_cut(tmp_path: Path) -> None:
    """A page is to be opened, whatever is in a run."""

    def script(world: World) -> None:
        world.start(order(1), id="x")
        world.after(9, lambda: world.send_event("go", workflow_id="x", value="y" * 500_000))

    def check(world: World) -> None:
        raise AssertionError("z" * 500_000)

    scenario = Scenario(name="long", definer=d, script=script, check=check)
    found = run(scenario, FaultPlan(), memory_disk, detail=True)
    page_of(found, tmp_path)
    assert len((tmp_path / "page.html").read_text(encoding="utf-8")) < 200_000
