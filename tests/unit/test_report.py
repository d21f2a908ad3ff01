"""The report: what it says of made-up times is what was made up, and it is one whole page that loads nothing."""

import re
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import msgspec
import numpy
import pytest

from capshm.errors import CapshmError
from capshm.lab.comparison import Comparison
from capshm.lab.plan import Plan
from capshm.lab.report import answers, browser, differences, growth, pauses, writing
from capshm.lab.report.drawing import KINDS, keep_titles_inside, panels
from capshm.lab.report.exhibit import split
from capshm.lab.report.palette import COLOURS, style
from capshm.lab.report.runs import ReportError, Run
from capshm.lab.results.results import Canary
from capshm.lab.statistics import Interval, Median
from tests.unit import report_scene as scene

QUESTIONS = ("owner binding", "machine-wide revocation", "a pause grow", "three stoppers")
PICTURES = (
    "overhead-1-plain", "overhead-1-open", "overhead-2-none", "overhead-2-gate", "pauses-2",
    "growth-2-pause-processes", "growth-2-time-processes", "map-1", "differences",
)  # fmt: skip


class Found(msgspec.Struct):
    """What the probe tells of a page. wide: pixels that it is wider than the window."""

    loaded: list[str]
    sizes: list[tuple[float, float]]
    wide: float
    ground: str
    ink: str
    text: str


PROBE = """<script>
addEventListener("error", event => { document.documentElement.dataset.error = event.message; }, true);
addEventListener("load", () => {
  const box = each => { const found = each.getBoundingClientRect(); return [found.width, found.height]; };
  document.body.dataset.found = JSON.stringify({
    loaded: performance.getEntriesByType("resource").map(each => each.name),
    sizes: [...document.querySelectorAll("figure svg")].map(box),
    wide: document.documentElement.scrollWidth - innerWidth,
    ground: getComputedStyle(document.body).backgroundColor,
    ink: getComputedStyle(document.body).color,
    text: document.querySelector("#answers").innerText,
  });
});
</script></head>"""


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a report with every kind of picture, made as a user makes it."""
    folder = scene.write(tmp_path_factory.mktemp("results") / "run", scene.SMALL)
    command = [sys.executable, "-P", "-m", "capshm", "report", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"{folder / 'report.html'}\n"
    return folder


@pytest.mark.slow
def test_the_page_is_whole(written: Path) -> None:
    """Answers; each picture with words for who cannot see it, a table, and files; and all that is linked is in it."""
    text = (written / "report.html").read_text(encoding="utf-8")
    assert all(question in text for question in QUESTIONS)
    assert re.findall(r'<figure id="(.*?)">', text) == list(PICTURES)
    assert text.count('<div role="img" aria-label="') == text.count("<figcaption>") == len(PICTURES)
    assert text.count("<table>") > len(PICTURES)
    assert "A &lt;Processor&gt; &amp; Co" in text
    assert "What these folders cannot show" not in text
    files = {f"{name}.{kind}" for name in PICTURES for kind in KINDS}
    assert {path.name for path in (written / "figures").iterdir()} == files
    assert not list(written.glob(".report-*"))

    links = {link for pair in re.findall(r'\b(?:src|href)="([^"]*)"|url\(([^)]*)\)', text) for link in pair if link}
    assert {link for link in links if not link.startswith(("#", "data:"))} == set()
    identifiers = re.findall(r'\sid="([^"]*)"', text)
    assert {link[1:] for link in links if link.startswith("#")} <= set(identifiers)


@pytest.mark.slow
@pytest.mark.skipif(browser.find() is None, reason=f"there is no browser here: none of {', '.join(browser.NAMES)}")
def test_a_browser_shows_the_page(written: Path, tmp_path: Path) -> None:
    """It loads nothing else, without an error; all pictures have a size; text and ground can be told apart."""
    page = tmp_path / "report.html"
    text = (written / "report.html").read_text(encoding="utf-8")
    page.write_text(text.replace("</head>", PROBE, 1), encoding="utf-8")
    for scheme in ("light", "dark"):
        shown = browser.dump(page, scheme)
        assert "data-error" not in shown.partition("<script>")[0]
        found = msgspec.json.decode(browser.attribute(shown, "data-found"), type=Found)
        assert found.loaded == []
        assert len(found.sizes) == len(PICTURES)
        assert all(width > 600 and height > 60 for width, height in found.sizes)
        assert found.wide <= 0
        assert all(question in found.text for question in QUESTIONS)
        ground, ink = (sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in (found.ground, found.ink))
        assert (ground > ink) == (scheme == "light")
        assert abs(ground - ink) > 400


LEAST = Plan(
    comparisons=(Comparison((scene.PREFORK,), (scene.PLAIN, scene.OPEN), "plain"),), repeats=2, seed=5, timeout=60
)
"""Two rounds of two policies: one picture."""


@pytest.mark.slow
def test_nothing_is_overwritten_without_force(tmp_path: Path) -> None:
    """With it the same folder gives the same report, byte for byte; what else lies there stays."""
    folder = scene.write(tmp_path / "run", LEAST)
    output = tmp_path / "deep" / "down"
    writing.write([folder], output)
    before = {path: path.read_bytes() for path in output.rglob("*.*")}
    (output / "figures" / "mine.txt").write_text("mine", encoding="utf-8")
    (output / "figures" / "old.svg").write_text("<svg/>", encoding="utf-8")
    with pytest.raises(ReportError, match="--force"):
        writing.write([folder], output)
    writing.write([folder], output, is_forced=True)
    assert {path: path.read_bytes() for path in output.rglob("*.*") if path.name != "mine.txt"} == before
    assert (output / "figures" / "mine.txt").read_text(encoding="utf-8") == "mine"


@pytest.mark.slow
def test_names_are_text(tmp_path: Path) -> None:
    """Whatever a plug-in or a file is called: nothing in a name is markup, mathematics or a path."""
    folder = scene.write(tmp_path / "run", LEAST)
    name = r'"><img src=x onerror=a()> \q $\foo$'
    for path in folder.glob("*.json*"):
        path.write_bytes(path.read_bytes().replace(b'"plain"', msgspec.json.encode(name)))
    page, _ = writing.write([folder], folder)
    text = page.read_text(encoding="utf-8")
    assert "&lt;img src=x" in text
    assert "<img" not in text
    assert all(re.fullmatch(r"[\w.-]+", path.name) for path in (folder / "figures").iterdir())


def test_what_holds_too_little_is_refused(tmp_path: Path) -> None:
    """No folder, and one in which nothing has finished: no part of a report is made."""
    empty = scene.write(tmp_path / "empty", scene.SMALL, [Canary(1, None)])
    for folder, why in ((tmp_path / "nowhere", "holds no results"), (empty, "holds no cell that can be compared")):
        with pytest.raises(CapshmError, match=why):
            writing.write([folder], tmp_path / "report")
        assert not (tmp_path / "report").exists()


@pytest.mark.parametrize(
    ("good", "wrong"),
    [(b'"granules":', b'"granules":0,"_":'), (b'"times_ns":[', b'"times_ns":[1],"_":['), (b"[[", b"[[7],[")],
)
def test_maps_that_are_none_are_refused(tmp_path: Path, good: bytes, wrong: bytes) -> None:
    """Without granules, with more looks than moments, with rows of several lengths."""
    folder = scene.write(tmp_path / "run", LEAST)
    path = folder / "maps.jsonl"
    path.write_bytes(path.read_bytes().replace(good, wrong))
    with pytest.raises(CapshmError, match=r"maps\.jsonl is damaged: line 1"):
        Run(folder)


def test_what_is_missing_names_its_command(tmp_path: Path) -> None:
    """Two rounds of two policies give no pauses, no growth, no test."""
    run = Run(scene.write(tmp_path / "run", LEAST))
    for kind in (pauses, growth, differences):
        assert list(kind.exhibits(run)) == []
        assert kind.MISSING.command.startswith("capshm compare")
    assert [bool(answer.said) for answer in answers.answers([run])] == [False] * 4


@pytest.mark.slow
def test_the_answers_are_those_of_the_figures(tmp_path: Path) -> None:
    """Owner binding costs half as much again, pauses grow as the processes do, and the gate's are the shortest."""
    run = Run(scene.write(tmp_path / "run", scene.SMALL))
    binding, revocation, grown, stoppers = answers.answers([run])
    assert re.fullmatch(r"prefork of 4 MiB: × 1\.[45]\d+ \[.*\] as long as under open\.", binding.said[0])
    assert binding.rows[0][2:] == ("0", "65,536", "–")
    assert revocation.said == []
    assert "--scopes vmspace machine" in revocation.command
    factors = [float(factor) for factor in re.findall(r"× ([\d.]+)", grown.said[0])]
    assert "[" in grown.said[0]
    assert factors == pytest.approx([2] * len(factors), abs=0.2)
    assert stoppers.said == ["gate has the shortest pauses in 2 of 2 comparisons: its interval lies below the others'."]


def test_an_answer_needs_an_interval(tmp_path: Path) -> None:
    """Of too few rounds for one nothing is said of growth, either; the numbers stand in the table."""
    few = msgspec.structs.replace(scene.SMALL, repeats=2)
    growing = answers.answers([Run(scene.write(tmp_path / "run", few))])[2]
    assert growing.said == ["By processes: of too few rounds for an interval, nothing is said."]
    assert any("[too few]" in cell for row in growing.rows for cell in row)


def test_permutation_tests_know_chance() -> None:
    """Eight rounds that agree reach 2 in 2^8, and no test less; rounds that do not agree say nothing."""
    assert differences.permutation_p([(110.0 + n, 100.0 + n) for n in range(8)], seed=1) == pytest.approx(2 / 2**8)
    assert differences.permutation_p([(110.0, 100.0), (100.0, 110.0)] * 4, seed=1) > 0.9


def test_intervals_decide_who_is_in_front() -> None:
    """Not medians alone."""
    low, high = Median(1.0, Interval(0.9, 1.1)), Median(2.0, Interval(1.5, 2.5))
    assert growth.is_below(low, high)
    assert not growth.is_below(low, Median(1.2, Interval(1.0, 1.3)))
    assert not growth.is_below(Median(1.0, None), high)


# Machado, Oliveira and Fernandes, "A Physiologically-based Model for Simulation of Color Vision Deficiency" (2009), at
# full severity, on linear RGB.
SIGHTS: dict[str, list[list[float]]] = {
    "full": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
}
_TO_XYZ = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]  # IEC 61966-2-1
_JUST_NOTICEABLE = 2.3  # of CIE 1976's difference


def lab(colour: str, sight: list[list[float]]) -> "numpy.ndarray":
    """CIE L*a*b* of a colour (#rrggbb) as that sight has it."""
    encoded = numpy.array([int(colour[place : place + 2], 16) for place in (1, 3, 5)]) / 255
    linear = numpy.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    seen = numpy.clip(numpy.array(sight) @ linear, 0, 1)
    x, y, z = numpy.cbrt(numpy.array(_TO_XYZ) @ seen / [0.9505, 1, 1.089])
    return numpy.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("sight", SIGHTS)
def test_colours_can_be_told_apart(sight: str) -> None:
    """Each pair, by several times of what is just noticeable, with every kind of sight."""
    seen = [lab(colour, SIGHTS[sight]) for colour in COLOURS]
    for (one, first), (other, second) in combinations(zip(COLOURS, seen, strict=True), 2):
        assert numpy.linalg.norm(first - second) > 4 * _JUST_NOTICEABLE, (one, other)


def test_styles_differ_without_any_colour() -> None:
    """Hatch, dash and marker of the first ten are all different."""
    comparison = scene.REVOKERS
    styles = [style(comparison, each) for each in comparison.configurations]
    for cue in ("hatch", "dash", "marker"):
        assert len({getattr(each, cue) for each in styles}) == len(styles)


def test_what_is_too_much_for_one_picture_goes_into_the_next() -> None:
    """Each has a name of its own as a file; nothing is lost, and of nothing there is no picture."""
    assert list(split("abcde", 2, "bars")) == [("bars", "ab"), ("bars-2", "cd"), ("bars-3", "e")]
    assert list(split("ab", 2, "bars")) == [("bars", "ab")]
    assert list(split("", 2, "bars")) == []


def test_no_title_is_cut_off() -> None:
    """One too long for its panel begins farther to the left, above the names; and what fits stays where it is."""
    figure, axes = panels([1.0, 1.0, 1.0])
    titles = []
    for panel, words in zip(axes, ("churn", "bufferpool of 256 KiB, 2 processes, 100 %", "churn"), strict=True):
        titles.append(panel.set_title(words, loc="left"))
        panel.set_yticks([0], ["cheribsd, stop-the-world"])
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    width = figure.bbox.x1
    assert titles[1].get_window_extent().x1 > width, "the test shows nothing"
    keep_titles_inside(figure)
    figure.draw_without_rendering()
    first, second, third = (title.get_window_extent() for title in titles)
    assert first.x1 < second.x0 < second.x1 < width
    assert [title.get_position()[0] for title in (titles[0], titles[2])] == [0, 0]
    assert third.x1 < width
