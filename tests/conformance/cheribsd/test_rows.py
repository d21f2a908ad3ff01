"""Every row of sections 1 and 3 of cheribsd.md has a test that bears its name, or a reason here why it has none."""

import ast
import re
from pathlib import Path

PASSES = "only another implementation could do it: here the broker sweeps, and maps nothing into the process"
HYBRID = "about programs that are not CheriABI: a process of a machine always is"
NO_CALL = "no call of the API leads there"
HISTORY = "a remark about upstream's history or future, which no program can observe"


def letter_rows(letter: str, last: int) -> list[str]:
    """Rows A1, A2 and so on."""
    return [f"{letter}{number}" for number in range(1, last + 1)]


SECTION_1 = [
    row
    for letter, last in zip("ABCDEFGHIJK", (19, 7, 17, 12, 14, 24, 5, 6, 16, 9, 9), strict=True)
    for row in letter_rows(letter, last)
]
SECTION_3 = [
    *(1, 2, 4, 6, 7, 9, 10),
    *(13, 14, 16, 18, 19, 21, 22, 24, 26),
    *(27, 28, 30, 32, 34, 35, 37, 38, 40, 41, 42),
    *(43, 46),
    *(48, 49, 51, 52, 54, 55, 56, 57, 59, 61, 62, 65, 66, 68),
    72,
    *(73, 75, 77, 78, 80, 81, 83, 84, 86, 87, 88, 90, 92),
    *(94, 96, 97, 98, 99, 101, 102, 103, 104, 106),
]
SECTION_3_9 = ["X1", "X3", "X4", "X6", "X7", "X10", "X12", "X13", "X14", "X17", "X18", "X20", "X22"]
ROWS = [*SECTION_1, *(f"row_{number}" for number in SECTION_3), *SECTION_3_9]

LEFT_OUT: dict[str, str] = {
    "A14": HYBRID,
    "D6": HYBRID,
    "I14": HYBRID,
    "F23": "needs a process that is stopped in the middle of a pass: tests/faults/test_revocation.py",
    "J3": PASSES,
    "J8": f"{PASSES}; that objects are swept as a whole is J1",
    "J9": f"{PASSES}; and a fork waits for a pass (F23)",
    "row_30": "rfork has no counterpart: two processes with one table of descriptors are none of this machine's (6.2)",
    "row_83": "rfork has no counterpart; 80 to 88 try all other ways (6.2)",
    **{f"row_{number}": "needs set-user-ID programs (6.2)" for number in (102, 103, 104, 106)},
    **{f"row_{number}": "two processes in one address space: not two Python interpreters (6.2)" for number in (40, 41)},
    "row_72": "needs swap, which a test cannot count on (6.2)",
    "G5": f"{NO_CALL}: two flags of an internal function of the kernel",
    "I4": f"{NO_CALL}: the one object that is marked so is the shadow of revocation; what a program can see is I6",
    "H2": HISTORY,
    "K2": "answered by I15",
    "K4": "answered by D5",
    "K5": "answered by I1: untouched memory is refused",
    "K6": "answered by J3",
    "K7": HISTORY,
    "K8": "answered by F19",
    "K9": HISTORY,
}
"""Rows that have no test, and why."""


def named_rows() -> dict[str, list[str]]:
    """The rows that tests of this folder are named by, each with the tests."""
    found: dict[str, list[str]] = {}
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if not isinstance(node, ast.FunctionDef) or not node.name.startswith("test_"):
                continue
            name = node.name.removeprefix("test_")
            if match := re.match(r"row_(\d+)((?:_and_\d+)*)", name):
                rows = [f"row_{number}" for number in [match[1], *re.findall(r"\d+", match[2])]]
            elif match := re.match(r"[A-KX]\d+(?=_)", name):
                rows = [match[0]]
            else:
                continue
            for row in rows:
                found.setdefault(row, []).append(f"{path.name}::{node.name}")
    return found


def test_every_row_has_a_test_or_a_reason() -> None:
    """No row of the two sections is forgotten, and none has both a test and a reason to have none."""
    tested = set(named_rows())
    assert [row for row in ROWS if row not in tested and row not in LEFT_OUT] == []
    assert sorted(tested & set(LEFT_OUT)) == []


def test_every_name_is_a_row() -> None:
    """No test is named by a row that does not exist, and no reason is given for one."""
    assert sorted((set(named_rows()) | set(LEFT_OUT)) - set(ROWS)) == []


def test_every_test_of_a_row_says_which() -> None:
    """The docstring of each such test begins with its row."""
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and re.match(r"test_(row_\d+|[A-KX]\d+)_", node.name):
                text = ast.get_docstring(node) or ""
                number = re.match(r"test_(?:row_)?([A-KX]?\d+)_", node.name)
                assert number
                assert re.match(rf"(Rows? )?{number[1]}\b", text), f"{path.name}::{node.name}: {text}"
