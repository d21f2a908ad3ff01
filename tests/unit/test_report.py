"""The report: what it says of made-up times is what was made up, and it is one whole page that loads nothing."""

import re

import pytest

from capshm.lab.report import answers
from capshm.lab.report.runs import Run
from tests.unit import report_scene as scene


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A folder with everything."""
    return Run(scene.write(tmp_path_factory.mktemp("results") / "run"))


@pytest.mark.slow
def test_the_answers_are_those_of_the_figures(run: Run) -> None:
    """Owner binding, both reaches, growth by two and by its root, and the gate in front."""
    binding, revocation, grown, stoppers = answers.answers([run])
    assert re.fullmatch(r"prefork of 4 MiB: × 1\.[45]\d+ \[.*\] as long as under open\.", binding.said[0])
    assert binding.rows[0][-2:] == ("65,536", "–")
    assert [said.partition(" takes ")[0] for said in revocation.said] == [
        "Revocation of one address space",
        "Revocation machine-wide",
    ]
    assert {row[-5:] for row in revocation.rows} == {("12", "30,000", "120,000", "50,000", "20,000")}
    by_processes, by_density = (float(re.findall(r"× ([\d.]+)", said)[0]) for said in grown.said)
    assert by_processes == pytest.approx(2, abs=0.1)
    assert by_density == pytest.approx(2**0.5, abs=0.1)
    assert stoppers.said[0] == "gate has the shortest pauses in 14 of 14 comparisons."
