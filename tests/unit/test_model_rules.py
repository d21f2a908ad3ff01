"""`capshm.model.rules` and `capshm.policies`: every row has an explanation, every question an answer."""

import errno
import re
import subprocess
import sys
from pathlib import Path

import pytest

import capshm.model
from capshm import policies
from capshm.model.rules import RULES, Refusal

ROWS = {"A": 19, "B": 7, "C": 17, "D": 12, "E": 14, "F": 24, "G": 5, "H": 6, "I": 16, "J": 9, "K": 9}
ERRNOS = {
    "A9": "ENOTSUP", "A15": "EACCES", "B3": "EACCES", "B5": "ENOTSUP", "B7": "EPROT", "C5": "ENOMEM", "C7": "EACCES",
    "C8": "EPROT", "C9": "EINVAL", "C10": "EPROT", "C11": "ENOMEM", "C13": "EPROT", "C15": "EPROT", "C16": "ENOMEM",
    "D4": "EPERM", "D12": "EINVAL", "E2": "EACCES", "E5": "EACCES", "E8": "EACCES", "H5": "EPROT", "I1": "EACCES",
    "I8": "EINVAL", "I13": "EPROT", "I15": "EINVAL", "K1": "EACCES", "K3": "EACCES",
}  # fmt: skip


def test_every_row_is_explained() -> None:
    """All rows of the specification, by their full names, with a title and a text."""
    rows = {f"cheribsd:{section}{number}" for section, last in ROWS.items() for number in range(1, last + 1)}
    others = {f"cheribsd:1.D/{step}" for step in (1, 2, 3, 6, 7, 8, 9, 10)}
    others |= {f"cheribsd:2.{section}" for section in (1, 2, 3, 6, 7)}
    others |= {"cheribsd:MAN", "isolated", "host", "credentials"}
    assert {name for name in RULES if not name.startswith("vmar:")} == rows | others
    for name, rule in RULES.items():
        assert rule.name == name
        assert rule.title
        assert rule.text.endswith((".", ")"))


@pytest.mark.parametrize(("row", "name"), ERRNOS.items())
def test_errors_are_those_of_the_specification(row: str, name: str) -> None:
    """Each row that refuses has its errno."""
    assert RULES[f"cheribsd:{row}"].errno == name


def test_a_refusal_says_everything() -> None:
    """Rule, number of the error, and a message with what was asked, what stands against it and what is needed."""
    refusal = Refusal("cheribsd:E2", asked="this", allowed="that is not", needed="something else")
    assert refusal.message == "this: that is not. Needed: something else." == str(refusal)
    assert refusal.errno == errno.EACCES


def test_only_rules_that_refuse_do() -> None:
    """A row without an errno is no reason to refuse, and an unknown one none at all."""
    with pytest.raises(ValueError, match="refuses nothing"):
        Refusal("cheribsd:E1", asked="", allowed="", needed="")
    with pytest.raises(KeyError):
        Refusal("cheribsd:Z1", asked="", allowed="", needed="")


def test_every_rule_that_is_named_exists() -> None:
    """What the sources of the model and the policies name as a rule is one that refuses."""
    folder = Path(capshm.model.__file__).parent
    sources = [*folder.glob("*.py"), *(folder.parent / "policies").glob("*.py")]
    named = {name for path in sources for name in re.findall(r'"((?:cheribsd|vmar):[\w./]+)"', path.read_text())}
    assert len(named) > 30
    assert {name for name in named if RULES[name].errno is None} == set()


def test_policies_are_found_by_name() -> None:
    """The three that come with capshm are registered as any other is."""
    assert set(policies.names()) >= {"open", "cheribsd", "isolated"}
    for name in ("open", "cheribsd", "isolated"):
        assert policies.load(name).name == name
    with pytest.raises(ValueError, match="there are cheribsd, isolated, open"):
        policies.load("unheard-of")


def test_policies_of_other_packages_are_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package registers policies under names of its own; one that answers too few questions is refused."""
    (tmp_path / "guests.py").write_text(
        "from capshm.policies.isolated import Isolated\n"
        "class Guests(Isolated):\n    name = 'guests'\n"
        "class Mute:\n    name = 'mute'\n"
    )
    registered = tmp_path / "guests-1.dist-info"
    registered.mkdir()
    (registered / "METADATA").write_text("Metadata-Version: 2.1\nName: guests\nVersion: 1\n")
    (registered / "entry_points.txt").write_text(f"[{policies.GROUP}]\nguests = guests:Guests\nmute = guests:Mute\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert {"guests", "mute", "open"} <= set(policies.names())
    assert policies.load("guests").name == "guests"
    with pytest.raises(TypeError, match="guests:Mute is no policy"):
        policies.load("mute")


def test_the_constants_cost_a_client_nothing() -> None:
    """Importing them brings in neither the model's libraries nor dataclasses."""
    program = "import sys, capshm.model.constants\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=True)
    loaded = done.stdout.split()
    assert "capshm.model.constants" in loaded
    assert {"sortedcontainers", "msgspec", "capshm.model.rules"} & set(loaded) == set()
